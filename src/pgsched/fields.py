"""
The fields of a cron expression, read one at a time.

croniter is the parser, and is used for nothing else.  What it reads otherwise
than it was meant, and what other crons read otherwise than croniter, is
refused: a schedule is a promise.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from croniter import croniter

from pgsched.errors import Invalid

# The fields in the order they are written.
NAMES = ("second", "minute", "hour", "day of month", "month", "day of week")
BOUNDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
RANGES = ("0-59", "0-59", "0-23", "1-31", "1-12", "0-7")
ALSO = ("", "", "", ", L, 15W", ", jan-dec", ", sun-sat, 5#2, L5")
DAY, WEEKDAY = 3, 5
LAST = -1

# croniter raises all of these at what it cannot read.
UNREADABLE = (ValueError, TypeError, AttributeError, LookupError, OverflowError)


class Field(NamedTuple):
    """What one field means."""

    numbers: tuple[int, ...]  # ascending; Sunday is 0
    last: bool  # L: the last day of the month
    nearest: int | None  # 15W: the date that the day is to be near to
    nth: frozenset[tuple[int, int]]  # 5#2 is (5, 2), and L5 is (5, LAST)


@lru_cache(maxsize=4096)
def read(i: int, text: str) -> Field:
    """
    Field number *i*, counted from the second, in lower case.

    Raises:
        Invalid: It cannot be read, or may be read in two ways.
    """
    field = _parse(i, text)
    if field is None:
        raise Invalid(f"{text!r} is no {NAMES[i]}: use {RANGES[i]}{ALSO[i]}, *, */n, a-b or a,b")
    terms = text.split(",")
    # Next to 5#2 or L5 croniter drops plain days, in silence where all seven are named.
    if i == WEEKDAY and len({"#" in term or term.startswith("l") for term in terms}) > 1:
        raise Invalid(f"{text!r} mixes days of every week with days of the month: use two")
    for problem in filter(None, (_problem(i, term) for term in terms)):
        raise Invalid(problem)
    return field


@lru_cache(maxsize=4096)
def _parse(i: int, text: str) -> Field | None:
    if text.startswith("r"):  # croniter's random time: another one at every look
        return None
    try:
        cron = croniter(" ".join(["*"] * i + [text] + ["*"] * (5 - i)), 0, second_at_beginning=True)
    except UNREADABLE:
        return None
    values = cron.expanded[i - 1]  # croniter has moved the second to the end
    low, high = BOUNDS[i]
    return Field(
        numbers=tuple(range(low, high + 1) if "*" in values else (n for n in values if n != "l")),
        last="l" in values,
        nearest=next(iter(cron.nearest_weekday), None),
        nth=frozenset(
            (weekday, LAST if n == "l" else n)
            for weekday, wanted in cron.nth_weekday_of_month.items()
            for n in wanted
        ),
    )


def _problem(i: int, term: str) -> str | None:
    """What in one term of a list would run otherwise than it was meant, and what to write."""
    span, slash, step = term.partition("/")
    low, dash, high = span.partition("-")
    if dash and (low, high) != ("0", "7"):
        first, last = _numbers(i, low), _numbers(i, high)
        if first == last:  # croniter reads 5-5 as "all of them"
            return f"{term!r} is a range of one {NAMES[i]}: write {low!r}"
        # croniter loses count in 22-4/3; a week that ends on Sunday it gets right.
        if slash and last and first > last and (i, last) != (WEEKDAY, (0,)):
            return f"{term!r} goes on in steps past the end: write each {NAMES[i]}"
    if slash and not dash and i == WEEKDAY and span != "*":
        return (  # to croniter with Saturday, to cronie with Sunday
            f"{term!r} does not say where it ends: write '{span}-6/{step}' or '{span}-7/{step}'"
        )
    # croniter reads */90 in silence as "the first".
    # (Of days */7 is the trick for "and it must be a Sunday".)
    if slash and (i < DAY or span != "*") and len(values := _numbers(i, term)) == 1:
        return f"the step of {term!r} leaves one {NAMES[i]}: write {values[0]}, or use `every`"
    return None


def _numbers(i: int, text: str) -> tuple[int, ...]:
    field = _parse(i, text)
    return field.numbers if field else ()
