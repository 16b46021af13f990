"""
The schedules of the year, and their instants as others compute them.

Cron expressions are cronsim's, which does what Debian's cron does; intervals
are plain arithmetic.  Nothing here asks `pgsched` but for the data of a zone.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import NamedTuple

from cronsim import CronSim

from pgsched.zones import zone

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2027, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
ZERO = timedelta()

NEW_YORK = "America/New_York"
PARIS = "Europe/Paris"


class Spec(NamedTuple):
    """One schedule, made at the beginning of the year."""

    name: str
    when: str | timedelta
    timezone: str = "UTC"
    overlap: str = "skip"
    misfire: str = "latest"
    grace: timedelta = MINUTE
    jitter: timedelta = ZERO
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    max_runs: int | None = None


YEAR = (
    # Fixed times of day within a gap of spring and an overlap of autumn.
    Spec("paris", "30 2 * * *", PARIS),
    Spec("new york gap", "15 2 * * *", NEW_YORK, misfire="all", overlap="allow"),
    Spec("new york overlap", "45 1 * * *", NEW_YORK, overlap="queue_one"),
    Spec("lord howe", "10 2 * * *", "Australia/Lord_Howe", grace=HOUR),
    Spec("lord howe overlap", "45 1 * * *", "Australia/Lord_Howe", misfire="none"),
    Spec("troll", "30 1 * * *", "Antarctica/Troll", misfire="none", grace=6 * HOUR),
    Spec("santiago midnight", "0 0 * * *", "America/Santiago", overlap="allow"),
    Spec("santiago overlap", "30 23 * * *", "America/Santiago", misfire="all"),
    # Elapsed time.
    Spec("hourly", "0 * * * *"),
    Spec("every other hour", "0 */2 * * *", NEW_YORK, overlap="allow", misfire="all"),
    Spec("quarters", "*/15 * * * *", PARIS),
    Spec("troll night", "*/30 0-5 * * *", "Antarctica/Troll", misfire="all", overlap="queue_one"),
    Spec("thirds", "*/20 6-21 * * *", NEW_YORK, "queue_one", "none", grace=10 * MINUTE),
    # Days.
    Spec("workdays", "30 9 * * 1-5", "Asia/Kolkata"),
    Spec("weekly", "@weekly", "Pacific/Apia", misfire="none", grace=20 * HOUR),
    Spec("monthly", "0 12 1 * *", "Pacific/Apia"),
    Spec("last of month", "0 18 L * *", NEW_YORK, misfire="all", overlap="queue_one"),
    # Seconds: more at once than one tick takes.
    Spec("seconds", "*/5 0-9 4 1 * *", overlap="allow", misfire="all", grace=2 * MINUTE),
    Spec("burst", "* 0-39 4 3 * *", overlap="allow", misfire="all"),
    # Intervals.
    Spec("7 hours", 7 * HOUR, overlap="queue_one", misfire="all"),
    Spec("90 minutes", 90 * MINUTE, misfire="none", grace=HOUR / 2),
    # Delays, beginnings and ends.
    Spec("jitter", "20 * * * *", jitter=HOUR / 2),
    Spec("jitter of hours", "0 22 * * *", PARIS, "allow", "none", grace=HOUR, jitter=9 * HOUR),
    Spec(
        "summer",
        "5 */3 * * *",
        PARIS,
        starts_at=datetime(2026, 3, 15, 2, 5, tzinfo=UTC),
        ends_at=datetime(2026, 10, 15, 22, 5, tzinfo=UTC),
    ),
    Spec("later", 5 * HOUR, misfire="all", starts_at=datetime(2026, 2, 1, 0, 0, 7, tzinfo=UTC)),
    Spec("forty", "0 */6 * * *", overlap="queue_one", max_runs=40),
    Spec("hundred", "40 * * * *", overlap="allow", misfire="all", max_runs=100),
)


@cache
def instants(spec: Spec) -> tuple[datetime, ...]:
    """Those of the year, in their order."""
    found: list[datetime] = []
    for at in _endless(spec):
        if at > (spec.ends_at or END) or at > END:
            break
        if at >= (spec.starts_at or BEGIN) and at > BEGIN:
            found.append(at)
    return tuple(found)


def _endless(spec: Spec) -> Iterator[datetime]:
    if isinstance(spec.when, timedelta):
        at = spec.starts_at or BEGIN
        while True:
            yield at
            at += spec.when
    else:
        expr = {"@weekly": "0 0 * * 0"}.get(spec.when, spec.when)
        for wall in CronSim(expr, BEGIN.astimezone(zone(spec.timezone))):
            yield wall.astimezone(UTC)
