"""What our own zone data say of the clocks in the time to come; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

from pgsched import zones
from pgsched.diagnosis import Sample

WEEK = 7 * 86400
WEEKS = 104


def samples(names: Iterable[str], start: datetime) -> Iterator[Sample]:
    """
    Each zone once a week for 24 months, and at both sides of each change of its clocks.

    The weeks find a change that only others know of, the changes one that
    others have at another time.
    """
    first = int(start.timestamp())
    epochs = range(first, first + (WEEKS + 1) * WEEK, WEEK)
    for name in names:
        zone = zones.zone(name)
        weekly = [Sample(name, epoch, offset_at(zone, epoch)) for epoch in epochs]
        yield from weekly
        for low, high in pairwise(weekly):
            if low.offset != high.offset:
                change = _change(zone, low.epoch, high.epoch)
                yield Sample(name, change - 1, offset_at(zone, change - 1))
                yield Sample(name, change, offset_at(zone, change))


def offset_at(zone: ZoneInfo, epoch: int) -> int:
    """Seconds that the clocks of *zone* are ahead of UTC."""
    offset = datetime.fromtimestamp(epoch, UTC).astimezone(zone).utcoffset()
    return int(offset.total_seconds()) if offset else 0


def _change(zone: ZoneInfo, low: int, high: int) -> int:
    """The first second after *low* that has another offset; there is one up to *high*."""
    before = offset_at(zone, low)
    while high - low > 1:
        middle = (low + high) // 2
        if offset_at(zone, middle) == before:
            low = middle
        else:
            high = middle
    return high
