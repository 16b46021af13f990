"""What operators do to schedules, inside the caller's own transaction."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID

from pgsched import db, reading
from pgsched.arguments import checked
from pgsched.cron import validate_cron
from pgsched.db import Session
from pgsched.errors import Invalid
from pgsched.instants import Timing
from pgsched.models import Json
from pgsched.schedules import BackfillPreview, Schedule

MICROSECOND = timedelta(microseconds=1)
# As many instants as one backfill may hold.
MOST = 100_000


class ScheduleControl:
    """
    Changes schedules that are there; never commits.

    `session` is a psycopg AsyncConnection or a SQLAlchemy AsyncSession on
    psycopg.  `schedule` is a name or an id.  Each change is recorded in
    `schedule_changes`.

    Raises:
        NotFound: The schedule does not exist.
        Conflict: Not possible in the state things are in.
        Invalid: An argument is wrong; the message names it.
        Unavailable: The database cannot be reached.
    """

    async def reschedule(
        self,
        session: Session,
        schedule: str | UUID,
        *,
        cron_expression: str | None = None,
        every: timedelta | None = None,
        timezone: str | None = None,
    ) -> None:
        """Change the time of a schedule, at once; what is None stays as it is."""
        if cron_expression is not None or timezone is not None:
            found = await reading.get_schedule(session, str(schedule))
            expr = cron_expression or found.cron_expr
            if expr is not None:
                validate_cron(expr, timezone or found.timezone or "UTC")
        when = {"cron_expression": cron_expression, "every": every, "timezone": timezone}
        given = {name: value for name, value in when.items() if value is not None}
        await _call(session, "reschedule", schedule=schedule, **given)

    async def pause_schedule(
        self,
        session: Session,
        schedule: str | UUID,
        note: str | None = None,
        until: datetime | None = None,
    ) -> None:
        """Stop a schedule from firing, until somebody resumes it or until *until*."""
        await _call(session, "pause_schedule", schedule=schedule, note=note, until=until)

    async def resume_schedule(self, session: Session, schedule: str | UUID) -> None:
        """Let a schedule fire again, from now on."""
        await _call(session, "resume_schedule", schedule=schedule)

    async def trigger_schedule(
        self,
        session: Session,
        schedule: str | UUID,
        input_params: dict[str, Json] | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        """Run a schedule now, besides its time; returns the task's id."""
        task_id = await _call(
            session,
            "trigger_schedule",
            schedule=schedule,
            input_params=input_params,
            idempotency_key=idempotency_key,
        )
        return str(task_id)

    async def delete_schedule(self, session: Session, schedule: str | UUID) -> int:
        """Delete a schedule and cancel its tasks that wait; returns how many that were."""
        return int(await _call(session, "delete_schedule", schedule=schedule))

    async def preview_backfill(
        self, session: Session, schedule: str | UUID, from_time: datetime, to_time: datetime
    ) -> BackfillPreview:
        """
        What a backfill from *from_time* to *to_time*, both included, would come to.

        Raises:
            Invalid: The range holds more than 100,000 instants.
        """
        checked({"from_time": from_time, "to_time": to_time})
        found = await reading.get_schedule(session, str(schedule))
        instants = await asyncio.to_thread(_instants, found, from_time, to_time, MOST)
        run_count = await reading.count_runs(session, str(found.id), instants)
        ends = (instants[0], instants[-1]) if instants else (None, None)
        return BackfillPreview(len(instants), run_count, *ends)

    async def backfill_schedule(
        self,
        session: Session,
        schedule: str | UUID,
        from_time: datetime,
        to_time: datetime,
        *,
        max_instants: int = 1000,
    ) -> str:
        """
        Have what has not run from *from_time* to *to_time* run after all; returns an id.

        A worker does so once the caller has committed; the id is that of the
        backfill.  What has run is left alone.  Refused if the range holds more
        than *max_instants*, at most 100,000.
        """
        given = {"from_time": from_time, "to_time": to_time, "max_instants": max_instants}
        checked(given)
        found = await reading.get_schedule(session, str(schedule))
        await asyncio.to_thread(_instants, found, from_time, to_time, max_instants)
        return str(await _call(session, "backfill_schedule", schedule=found.id, **given))


def _instants(
    schedule: Schedule, from_time: datetime, to_time: datetime, most: int
) -> list[datetime]:
    if from_time > to_time:
        raise Invalid(f"from_time {from_time} must not be after to_time {to_time}")
    anchor = schedule.starts_at or schedule.changed_at
    timing = Timing(schedule.cron_expr, schedule.every, schedule.timezone or "UTC", anchor)
    instants = list(islice(timing.between(from_time - MICROSECOND, to_time), most + 1))
    if len(instants) > most:
        raise Invalid(
            f"max_instants: the range holds more than {most} instants: make it shorter,"
            f" or allow more, up to {MOST}"
        )
    return instants


async def _call(session: Session, function: str, **arguments: Any) -> Any:
    return await db.call(session, function, **checked(arguments))
