"""
The next runs of a schedule, with notes on what the change of clocks does to them.

Pure, as `cron` is, whose answers these are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import NamedTuple
from zoneinfo import ZoneInfo

from pgsched.arguments import EARLIEST, LATEST
from pgsched.errors import Invalid
from pgsched.expression import Expression, read
from pgsched.instants import Timing
from pgsched.zones import SECOND, ZERO, Change, change_of, zone

MAX_COUNT = 1000
SHORTEST, LONGEST = timedelta(seconds=1), timedelta(days=366)
RESOLUTION = timedelta(microseconds=1)

NOT_THERE = {1: "{} does not exist", 2: "{} and {} do not exist", 3: "{}, {} … do not exist"}

# What is to be said of a run, given the local times of the one before it and of itself.
Note = Callable[[datetime, datetime], str | None]


class Run(NamedTuple):
    """One run of a schedule."""

    at: datetime  # in UTC
    local: datetime  # the same instant in the zone of the schedule
    note: str | None  # what the change of clocks does to it


def preview(
    expr: str, timezone: str = "UTC", count: int = 5, after: datetime | None = None
) -> list[Run]:
    """
    The first *count* runs (1 to 1000) of a cron expression after *after* (default: now).

    They are fewer where time ends, with the year 9999.

    Raises:
        Invalid: The expression or the zone is no good, or it never happens; `count` is out of
            range; `after` has no time zone, or is not between 1970 and 9998.
    """
    expression, place = read(expr), zone(timezone)
    note = partial(_note_if_fixed if expression.fixed else _note_if_elapsed, expression, place)
    timing = Timing(expr, None, timezone, EARLIEST)
    return _runs(timing, note, place, count, _begin(after))


def preview_every(
    every: timedelta,
    anchor: datetime,
    timezone: str = "UTC",
    count: int = 5,
    after: datetime | None = None,
) -> list[Run]:
    """
    The first *count* (1 to 1000) of *anchor*, *anchor* + *every*, … after *after* (default: now).

    They follow elapsed time, whatever the clocks of *timezone* do.

    Raises:
        Invalid: `every` is not between a second and 366 days; the zone is no good; `count` is
            out of range; `anchor` or `after` has no time zone, or is not between 1970 and 9998.
    """
    if not SHORTEST <= every <= LONGEST:
        raise Invalid(f"every {every} must be between 1 second and 366 days")
    start = _checked("anchor", anchor)
    begin = max(_begin(after), start - RESOLUTION)
    return _runs(
        Timing(None, every, timezone, start), _note_if_shifted, zone(timezone), count, begin
    )


def _begin(after: datetime | None) -> datetime:
    return datetime.now(UTC) if after is None else _checked("after", after)


def _checked(name: str, at: datetime) -> datetime:
    """The time in UTC: within one zone Python adds and subtracts wall clocks."""
    if at.utcoffset() is None:
        raise Invalid(f"{name} {at} has no time zone: pass an aware datetime")
    if not EARLIEST <= at < LATEST:
        raise Invalid(f"{name} {at} must be between 1970 and 9998")
    return at.astimezone(UTC)


def _runs(timing: Timing, note: Note, place: ZoneInfo, count: int, begin: datetime) -> list[Run]:
    if type(count) is not int or not 1 <= count <= MAX_COUNT:
        raise Invalid(f"count {count!r} must be a number from 1 to {MAX_COUNT}")
    runs: list[Run] = []
    while len(runs) < count:
        try:
            at = timing.after(begin)
            local = at.astimezone(place)
            runs.append(Run(at, local, note(begin.astimezone(place), local)))
        except (Invalid, OverflowError):
            if runs:  # time ends here, with the year 9999
                break
            raise
        begin = at
    return runs


def _note_if_fixed(
    expression: Expression, place: ZoneInfo, _before: datetime, local: datetime
) -> str | None:
    wall = local.replace(tzinfo=None)
    if change_of(wall, place):
        return f"{_clock(wall)} comes twice that day: runs the first time only"
    gap = change_of(wall - SECOND, place)
    skipped = list(islice(_within(gap, expression), 3)) if gap else []
    if not gap or not skipped:
        return None
    dated = skipped[0].date() != wall.date()
    what = NOT_THERE[len(skipped)].format(*(_clock(time, dated) for time in skipped))
    when = "" if dated else " that day"
    then = "runs right after" if len(skipped) == 1 else "runs once, right after"
    return f"{what}{when}: the clocks go {_way(gap, wall)}; {then}"


def _within(gap: Change, expression: Expression) -> Iterator[datetime]:
    """The times that a gap swallows."""
    wall = gap.start - SECOND
    with suppress(ValueError):  # where time ends
        while (wall := expression.after(wall)) < gap.end:
            yield wall


def _note_if_elapsed(
    expression: Expression, place: ZoneInfo, before: datetime, local: datetime
) -> str | None:
    wall = local.replace(tzinfo=None)
    repeat = change_of(wall, place)
    if repeat and local.fold:
        return f"the clocks went back {_way(repeat, wall)}: {_clock(wall)} a second time"
    gap = change_of(expression.after(before.replace(tzinfo=None)), place)
    if gap and gap.skips:
        return f"the clocks went forward {_way(gap, wall)}: nothing runs in between"
    return None


def _note_if_shifted(before: datetime, local: datetime) -> str | None:
    shift = (local.utcoffset() or ZERO) - (before.utcoffset() or ZERO)
    if not shift:
        return None
    way = "forward" if shift > ZERO else "back"
    return f"the clocks went {way}: {_clock(local)} instead of {_clock(local - shift)}"


def _way(change: Change, run: datetime) -> str:
    dated = {change.old.date(), change.new.date()} != {run.date()}
    return f"from {_clock(change.old, dated)} to {_clock(change.new, dated)}"


def _clock(wall: datetime, dated: bool = False) -> str:
    """As 02:30; with its seconds where it has any, and with its date if asked."""
    return wall.strftime(f"{'%Y-%m-%d ' if dated else ''}%H:%M{':%S' if wall.second else ''}")
