"""The next runs of a schedule, as far as anyone can tell beforehand. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from pgsched.api.schedule_models import NextRun
from pgsched.arguments import ZERO
from pgsched.preview import Run, preview, preview_every
from pgsched.schedules import Schedule, ScheduleState

MICROSECOND = timedelta(microseconds=1)


def next_runs(schedule: Schedule, now: datetime, delay: timedelta, count: int) -> list[NextRun]:
    """
    The next *count* runs, or fewer when the schedule ends before.

    *delay* is its own jitter.  Whether an overlap will skip a run nobody knows
    yet; one that no worker has fired in time is not among them.

    Raises:
        Invalid: The schedule cannot be read.
    """
    begin = _begin(schedule, now, delay)
    if begin is None:
        return []
    if schedule.max_runs is not None:
        count = min(count, max(schedule.max_runs - schedule.run_count, 0))
    return [
        NextRun(at=run.at, fires_at=run.at + delay, local=run.local, note=run.note)
        for run in _runs_after(schedule, begin, count)
        if schedule.ends_at is None or run.at <= schedule.ends_at
    ]


def _begin(schedule: Schedule, now: datetime, delay: timedelta) -> datetime | None:
    """What runs comes strictly after this; None: nothing does."""
    bounds = [now - delay, schedule.changed_at]
    if schedule.starts_at is not None:
        bounds.append(schedule.starts_at - MICROSECOND)
    if schedule.state is ScheduleState.ACTIVE:
        if schedule.next_run_at is not None:
            bounds.append(schedule.next_run_at - delay - MICROSECOND)
    elif schedule.state is ScheduleState.PAUSED and schedule.paused_until is not None:
        bounds.append(schedule.paused_until)
    else:
        return None
    return max(bounds)


def _runs_after(schedule: Schedule, begin: datetime, count: int) -> list[Run]:
    if not count:
        return []
    if schedule.cron_expr is not None:
        return preview(schedule.cron_expr, schedule.timezone or "UTC", count, begin)
    anchor = schedule.starts_at or schedule.changed_at
    return preview_every(schedule.every or ZERO, anchor, "UTC", count, begin)
