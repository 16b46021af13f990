"""What the doctor found, as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

# As many are named; the others are counted.
NAMED = 5


class Finding(NamedTuple):
    """One thing that was looked at: how it is, what was seen, and what to do if anything."""

    name: str
    status: Literal["ok", "warning", "error"]
    seen: str
    advice: str = ""


def named(names: Sequence[str], count: int | None = None) -> str:
    """The first of *names*, and how many more there are of *count* (default: as given)."""
    total = len(names) if count is None else count
    shown = ", ".join(names[:NAMED])
    return f"{shown} and {total - NAMED} more" if total > NAMED else shown


def plural(count: int, noun: str) -> str:
    """As '1 zone' and '2 zones'."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
