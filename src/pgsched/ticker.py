"""Let schedules fire: read what is due, compute what that means, hand it to the database."""

from __future__ import annotations

import asyncio
import logging
import time

import psycopg

from pgsched.database import Database
from pgsched.due import DueSchedule
from pgsched.errors import PgschedError, Unavailable
from pgsched.failures import is_outage, reason_of
from pgsched.firing import tick_of
from pgsched.loops import wait
from pgsched.models import Json

log = logging.getLogger(__name__)

# A wake-up may be about tasks alone; it does not make us look more often than this.
SPACING = 0.1
# More at once would hold up the event loop, which pushes need too.
BATCH = 500
# Seconds of computing, after which what was computed is fired first.
SLICE = 0.2


class Ticker:
    """Any number of workers tick: the database lets each instant fire once."""

    def __init__(self, database: Database, wake: asyncio.Event, interval: float) -> None:
        self._database = database
        self._wake = wake
        self._interval = interval
        self._after: DueSchedule | None = None

    async def step(self) -> float:
        """Tick, then sleep until a schedule is due, a wake-up, or for the interval."""
        self._wake.clear()
        if await self.tick():
            return 0 if self._after else SPACING
        due = await self._database.next_due_in([])
        seconds = self._interval if due is None else min(due.total_seconds(), self._interval)
        return SPACING if await wait(self._wake, max(seconds, 0.001)) else 0

    async def tick(self) -> bool:
        """Fire what is due, a batch of it; whether there may be more."""
        due = await self._database.due_schedules(BATCH, self._after)
        # Computing can be slow, and pushes must not wait for it.
        ticks = await asyncio.to_thread(_ticks_of, due)
        if ticks:
            await self._fire(ticks)
        was_all = len(due) < BATCH and len(ticks) == len(due)
        was_first = self._after is None
        self._after = None if was_all else due[len(ticks) - 1]
        # What another worker held, and lost, lies before where we began.
        return not (was_all and was_first)

    async def _fire(self, ticks: list[dict[str, Json]]) -> None:
        try:
            await self._database.fire_schedules(ticks)
        except (PgschedError, psycopg.Error) as exc:
            if is_outage(exc):
                raise
            # One that the database cannot take must not keep the others from firing.
            for tick in ticks:
                await self._fire_alone(tick)

    async def _fire_alone(self, tick: dict[str, Json]) -> None:
        try:
            await self._database.fire_schedules([tick])
        except (PgschedError, psycopg.Error) as exc:
            if is_outage(exc):
                raise
            if isinstance(exc, Unavailable):  # a lock or a deadlock, which passes
                fields = {"schedule_id": tick["schedule_id"], "error": exc}
                log.warning("schedule left for later", extra=fields)
            else:
                await self._switch_off(tick, exc)

    async def _switch_off(self, tick: dict[str, Json], exc: Exception) -> None:
        reason = reason_of(exc)
        fields = {"schedule_id": tick["schedule_id"]}
        log.warning("schedule switched off", extra={**fields, "error": reason})
        off = {key: tick[key] for key in ("schedule_id", "expected", "revision")}
        try:
            await self._database.fire_schedules([off | {"error_msg": f"it cannot fire: {reason}"}])
        except (PgschedError, psycopg.Error) as failure:
            if is_outage(failure):
                raise
            log.warning("schedule cannot be switched off", extra={**fields, "error": failure})


def _ticks_of(due: list[DueSchedule]) -> list[dict[str, Json]]:
    ticks = []
    end = time.monotonic() + SLICE
    for schedule in due:
        ticks.append(tick_of(schedule))
        if time.monotonic() > end:
            break
    return ticks
