"""
Time zones, from one source: the package `tzdata` that is installed with pgsched.

What the operating system and Postgres know of zones may be years older, and
another on each machine.  A schedule must not fire at another time because
another worker computed it.
"""

from __future__ import annotations

import difflib
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from typing import NamedTuple
from zoneinfo import ZoneInfo

import tzdata

from pgsched.errors import Invalid

# As '2026f': the release of the IANA time zone database.  They sort by age.
VERSION: str = tzdata.IANA_VERSION

# A zone by its name, and no place on Earth: "the time has not been set yet".
NO_PLACE = {"Factory"}

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
ZERO = timedelta(0)


@cache
def names() -> frozenset[str]:
    """All names of zones, aliases too."""
    listed = (resources.files("tzdata") / "zones").read_text("utf-8").split()
    return frozenset(listed) - NO_PLACE


def zone(name: object) -> ZoneInfo:
    """
    The zone of an IANA name.

    Raises:
        Invalid: There is none of that name, or it is no text.
    """
    if isinstance(name, str) and name in names():
        return _load(name)
    near = difflib.get_close_matches(str(name)[:64], names(), n=1)
    hint = f"did you mean {near[0]!r}?" if near else "use an IANA name, as 'Europe/Paris'"
    raise Invalid(f"timezone {repr(name)[:80]} is unknown: {hint}")


@cache
def _load(name: str) -> ZoneInfo:
    path = resources.files("tzdata").joinpath("zoneinfo", *name.split("/"))
    with path.open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


class Change(NamedTuple):
    """The clocks of a zone are changed: what lies between is skipped, or comes twice."""

    at: datetime  # the instant, in UTC
    old: datetime  # what the clocks would show at that instant, unchanged; naive
    new: datetime  # what they show instead; naive

    @property
    def skips(self) -> bool:
        """Whether the clocks go forward."""
        return self.old < self.new

    @property
    def start(self) -> datetime:
        """The first wall clock that is skipped or comes twice."""
        return min(self.old, self.new)

    @property
    def end(self) -> datetime:
        """The first wall clock that comes once again."""
        return max(self.old, self.new)


def change_of(wall: datetime, zone: ZoneInfo) -> Change | None:
    """The change that skips or repeats the naive *wall*; None if it comes exactly once."""
    # PEP 495: of such a time one fold has the offset before the change, the other that after it.
    other = wall.replace(fold=1 - wall.fold)
    low, high = sorted(zone.utcoffset(at) or ZERO for at in (wall, other))
    if low == high:
        return None
    wall = wall.replace(microsecond=0, tzinfo=UTC)
    return _between(wall - high, wall - low, zone)


def changes(name: object) -> tuple[Change, ...]:
    """
    The changes of a zone's clocks in the ten years after its data were released.

    Raises:
        Invalid: There is no such zone.
    """
    return _changes(zone(name))


@cache
def _changes(place: ZoneInfo) -> tuple[Change, ...]:
    first = datetime(int(VERSION[:4]), 1, 1, tzinfo=UTC)
    days = (first + i * DAY for i in range(3653))
    return tuple(
        _between(day, day + DAY, place)
        for day in days
        if _offset(day.astimezone(place)) != _offset((day + DAY).astimezone(place))
    )


def _between(low: datetime, high: datetime, zone: ZoneInfo) -> Change:
    """The one change after *low*, and at *high* or before it."""
    before, after = _offset(low.astimezone(zone)), _offset(high.astimezone(zone))
    while high - low > SECOND:
        middle = low + (high - low) // SECOND // 2 * SECOND
        if _offset(middle.astimezone(zone)) == before:
            low = middle
        else:
            high = middle
    clock = high.replace(tzinfo=None)
    return Change(high, clock + before, clock + after)


def _offset(at: datetime) -> timedelta:
    return at.utcoffset() or ZERO
