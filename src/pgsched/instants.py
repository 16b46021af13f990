"""The instants of a schedule: of a cron expression in its zone, or of an interval. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import takewhile
from typing import NamedTuple

from pgsched.cron import CronGenerator
from pgsched.errors import Invalid


class Timing(NamedTuple):
    """When a schedule runs: by `cron_expr` in `timezone`, or `every` so often from `anchor`."""

    cron_expr: str | None
    every: timedelta | None
    timezone: str
    anchor: datetime

    def after(self, at: datetime) -> datetime:
        """
        The first instant strictly after *at*, in UTC.

        Raises:
            Invalid: The expression or the zone is no good, or time ends before that.
        """
        at = at.astimezone(UTC)  # arithmetic in a zone with changes is that of its clocks
        if self.every is None:
            return _cron_after(self.cron_expr or "", self.timezone, at)
        anchor = self.anchor.astimezone(UTC)
        try:
            return anchor + ((at - anchor) // self.every + 1) * self.every
        except OverflowError:
            raise Invalid(f"every {self.every}: no instant after {at}, the end of time") from None

    def all_after(self, at: datetime) -> Iterator[datetime]:
        """The instants strictly after *at*, without end."""
        while True:
            at = self.after(at)
            yield at

    def between(self, at: datetime, end: datetime) -> Iterator[datetime]:
        """The instants strictly after *at* and up to *end*."""
        return takewhile(lambda instant: instant <= end, self.all_after(at))


# Many schedules have the same expression, and are due at the same time.
@lru_cache(maxsize=10_000)
def _cron_after(expr: str, timezone: str, at: datetime) -> datetime:
    return CronGenerator.get_next_run_time(expr, at, timezone)
