"""Let schedules fire: read what is due, compute what comes next, hand both to the database."""

from __future__ import annotations

import asyncio
import logging

from pgsched.cron import CronGenerator
from pgsched.database import Database
from pgsched.errors import Invalid
from pgsched.loops import wait
from pgsched.models import DueSchedule, Json

log = logging.getLogger(__name__)

# A wake-up may be about tasks alone; it does not make us look more often than this.
SPACING = 0.1
# As many as `due_schedules()` gives at once: there may be more.
FULL = 1000


class Ticker:
    """Any number of workers tick: the database lets each instant fire once."""

    def __init__(self, database: Database, wake: asyncio.Event, interval: float) -> None:
        self._database = database
        self._wake = wake
        self._interval = interval

    async def step(self) -> float:
        """Tick, then sleep until a schedule is due, a wake-up, or for the interval."""
        self._wake.clear()
        if await self.tick() >= FULL:
            return 0
        due = await self._database.next_due_in([])
        seconds = self._interval if due is None else min(due.total_seconds(), self._interval)
        return SPACING if await wait(self._wake, max(seconds, 0.001)) else 0

    async def tick(self) -> int:
        """Fire what is due, once; how many schedules that were."""
        due = await self._database.due_schedules()
        if not due:
            return 0
        # Computing can be slow, and pushes must not wait for it.
        ticks = await asyncio.to_thread(lambda: [advance(schedule) for schedule in due])
        await self._database.fire_schedules(ticks)
        return len(due)


def advance(schedule: DueSchedule) -> dict[str, Json]:
    """
    The next instant of a schedule that is due, for `fire_schedules()`.

    A schedule that has just changed counts from its change; one that fires
    goes on from now, so an outage is followed by one run and not by many.
    """
    base = schedule.changed_at if schedule.next_run_at is None else schedule.as_of
    tick: dict[str, Json] = {
        "schedule_id": schedule.schedule_id,
        "expected": schedule.next_run_at,
        "changed_at": schedule.changed_at,
    }
    try:
        tick["next_run_at"] = CronGenerator().get_next_run_time(
            schedule.cron_expr, base, schedule.timezone
        )
    except Invalid as exc:
        log.warning("schedule %s is switched off: %s", schedule.name, exc)
        tick["error_msg"] = str(exc)
    return tick
