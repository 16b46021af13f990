"""Schedules that should fire and do not."""

from __future__ import annotations

from datetime import UTC, timedelta

from pgsched import diagnosis, reading
from pgsched.db import Session
from pgsched.doctor.findings import NAMED, Finding, named, plural
from pgsched.schedules import ScheduleState

# A tick may be slow; so late it is not.
LATE = timedelta(minutes=1)


async def broken_schedules(session: Session) -> Finding:
    """None was switched off since it could not be read."""
    broken = await reading.list_schedules(session, state=ScheduleState.BROKEN)
    if not broken:
        return Finding("broken schedules", "ok", "none")
    reasons = named([f"{schedule.name} ({schedule.error_msg})" for schedule in broken])
    seen = f"{plural(len(broken), 'schedule')} switched off: {reasons}"
    advice = (
        "Mend the time: pgsched schedules reschedule NAME --cron EXPR. They start from then on."
    )
    return Finding("broken schedules", "error", seen, advice)


async def overdue_schedules(session: Session) -> Finding:
    """None has been due for long."""
    late = await diagnosis.overdue(session, LATE, NAMED)
    if late.total == 0 or late.since is None:
        return Finding("overdue schedules", "ok", "none")
    seen = (
        f"{plural(late.total, 'schedule')} due for more than a minute, the first since"
        f" {late.since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC: {named(late.names, late.total)}"
    )
    if await diagnosis.live_workers(session) == 0:
        advice = "No worker is alive to fire them. Start one: pgsched worker."
        return Finding("overdue schedules", "warning", seen, advice)
    advice = (
        "Workers are alive: read their logs, and see in pg_stat_activity whether a session is idle"
        " in transaction: it may hold locks on their rows."
    )
    return Finding("overdue schedules", "error", seen, advice)
