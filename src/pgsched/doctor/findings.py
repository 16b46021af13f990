"""What the doctor found, as data."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal, NamedTuple

# As many are named; the others are counted.
NAMED = 5


class Finding(NamedTuple):
    """
    One thing that was looked at: how it is, what was seen, and what to do if anything.

    `unknown` is what could not be seen for lack of a right.
    """

    name: str
    status: Literal["ok", "unknown", "warning", "error"]
    seen: str
    advice: str = ""


def named(names: Sequence[str], count: int | None = None) -> str:
    """The first of *names*, and how many more there are of *count* (default: as given)."""
    total = len(names) if count is None else count
    shown = ", ".join(names[:NAMED])
    return f"{shown} and {total - NAMED} more" if total > NAMED else shown


def duration(age: timedelta) -> str:
    """As people say it: the largest unit alone."""
    seconds = age.total_seconds()
    for name, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {name}"
    return f"{seconds:.0f} seconds"


def plural(count: int, noun: str) -> str:
    """As '1 zone' and '2 zones'."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
