"""What `due_schedules()` and its like hand a worker, in the order of their columns."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple


class DueSchedule(NamedTuple):
    """
    A schedule that is due, or wants its next instant computed.

    Its instants after `counts_from` are those of `cron_expr` in `timezone`,
    or of `anchor` plus multiples of `every`.  `jitter` is its own delay.
    """

    schedule_id: str
    name: str
    cron_expr: str | None
    every: timedelta | None
    timezone: str
    anchor: datetime
    counts_from: datetime
    ends_at: datetime | None
    misfire_policy: str
    misfire_grace: timedelta
    jitter: timedelta
    next_run_at: datetime | None
    revision: int
    as_of: datetime


class DueBackfill(NamedTuple):
    """A range of time for which a schedule is to run after all, from `counts_from` on."""

    backfill_id: str
    cron_expr: str | None
    every: timedelta | None
    timezone: str
    anchor: datetime
    counts_from: datetime
    to_time: datetime
    instant_count: int
    max_instants: int


class DueGap(NamedTuple):
    """Instants that are MISSED, from `counts_from` on, since their schedule was changed."""

    id: str
    cron_expr: str | None
    every: timedelta | None
    timezone: str
    anchor: datetime
    counts_from: datetime
    to_time: datetime
    reason: str


class NewFailure(NamedTuple):
    """
    A task that has ended FAILED, in the column order of `new_failures()`.

    `until` is where to go on from, `failed_count` how many there were in all;
    without any, the rest is None.
    """

    until: datetime
    failed_count: int
    task_id: str | None
    trace_id: str | None
    definition_name: str | None
    queue: str | None
    attempt: int | None
