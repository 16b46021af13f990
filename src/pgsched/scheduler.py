"""Write definitions, tasks and schedules, inside the caller's own transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Unpack
from uuid import UUID

from pgsched import bulk, db, tracing
from pgsched.arguments import checked
from pgsched.cron import validate_cron
from pgsched.db import Session
from pgsched.errors import Invalid
from pgsched.models import Json
from pgsched.operating import OperatorControl
from pgsched.options import DefinitionOptions, NewTask, ScheduleOptions, TaskOptions
from pgsched.settings import Settings


class SchedulerService(OperatorControl):
    """
    Schedules tasks; never reads them, and never commits.

    `session` is a psycopg AsyncConnection or a SQLAlchemy AsyncSession on
    psycopg.  `definition` is a name or an id.

    Raises:
        NotFound: The definition, queue or task does not exist.
        Conflict: Not possible in the state things are in.
        Invalid: An argument is wrong; the message names it.
        Unavailable: The database cannot be reached.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings

    async def define_task(
        self,
        session: Session,
        name: str,
        content: dict[str, Json] | None = None,
        **options: Unpack[DefinitionOptions],
    ) -> str:
        """Define what can be run, or change the definition of that name; returns its id."""
        if (cron_expr := options.get("cron_expr")) is not None:
            validate_cron(cron_expr)
        _known(options, DefinitionOptions)
        given = self._defaults() | {k: v for k, v in options.items() if v is not None}
        # Not None, which would be no name at all.
        return str(await _call(session, "define_task", name=name or "", content=content, **given))

    def _defaults(self) -> dict[str, object]:
        if self._settings is None:
            return {}
        return {
            "max_retries": self._settings.default_max_retries,
            "retry_delay": timedelta(seconds=self._settings.retry_delay_seconds),
        }

    async def schedule_immediate(
        self,
        session: Session,
        definition: str | UUID,
        input_params: dict[str, Json] | None = None,
        **options: Unpack[TaskOptions],
    ) -> str:
        """Run a definition as soon as the caller has committed; returns the task's id."""
        return await _enqueue(session, "schedule_immediate", definition, input_params, options)

    async def schedule_delayed(
        self,
        session: Session,
        definition: str | UUID,
        delay: timedelta | None = None,
        input_params: dict[str, Json] | None = None,
        *,
        scheduled_time: datetime | None = None,
        **options: Unpack[TaskOptions],
    ) -> str:
        """Run a definition once, after *delay* or at *scheduled_time*; returns the task's id."""
        if (delay is None) == (scheduled_time is None):
            raise Invalid("give one of delay and scheduled_time, and not both")
        function = "schedule_delayed" if scheduled_time is None else "schedule_at"
        when = {"delay": delay, "scheduled_time": scheduled_time}
        return await _enqueue(session, function, definition, input_params, options, when)

    async def schedule_many(self, session: Session, tasks: Sequence[NewTask]) -> list[str]:
        """
        Run many definitions now or later, all of *tasks* or none; the ids in the order given.

        An error names the first that is wrong, as tasks[17].priority.
        """
        if not (tracing.is_loaded() and isinstance(tasks, list)):
            return await bulk.schedule_many(session, tasks)
        from pgsched.spans import enqueuing

        with enqueuing("schedule_many", tasks=len(tasks)) as carrier:
            return await bulk.schedule_many(session, [carrier.put_on(task) for task in tasks])

    async def schedule_loop(
        self,
        session: Session,
        definition: str | UUID,
        max_rounds: int | None = None,
        loop_interval: timedelta | None = None,
        input_params: dict[str, Json] | None = None,
        **options: Unpack[TaskOptions],
    ) -> str:
        """
        Run a definition round after round; returns the id of the first round.

        What is None is taken from the definition; without *max_rounds* there
        either, the loop runs until it is stopped.
        """
        rounds = {"max_rounds": max_rounds, "loop_interval": loop_interval}
        return await _enqueue(session, "schedule_loop", definition, input_params, options, rounds)

    async def trigger_loop_once(
        self,
        session: Session,
        definition: str | UUID,
        input_params: dict[str, Json] | None = None,
        **options: Unpack[TaskOptions],
    ) -> str:
        """Run a single round of a loop; returns the task's id."""
        return await _enqueue(session, "trigger_loop_once", definition, input_params, options)

    async def schedule_cron(
        self,
        session: Session,
        definition: str | UUID,
        cron_expression: str,
        input_params: dict[str, Json] | None = None,
        *,
        timezone: str = "UTC",
        **options: Unpack[ScheduleOptions],
    ) -> str:
        """
        Create a schedule, or replace the one of that name; returns its id.

        The same again changes nothing, and a pause is kept.
        """
        validate_cron(cron_expression, timezone)
        when = {"cron_expression": cron_expression, "timezone": timezone}
        return await _repeat(session, "schedule_cron", definition, when, input_params, options)

    async def schedule_every(
        self,
        session: Session,
        definition: str | UUID,
        every: timedelta,
        input_params: dict[str, Json] | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> str:
        """
        Create a schedule, or replace the one of that name; returns its id.

        *every* is elapsed time, from 1 s to 366 days, counted from *starts_at*,
        which is the first instant, else from now.
        """
        when = {"every": every}
        return await _repeat(session, "schedule_every", definition, when, input_params, options)

    async def cancel_task(
        self, session: Session, task_id: str | UUID, reason: str | None = None
    ) -> str:
        """Cancel an unfinished task; returns its status."""
        return str(await _call(session, "cancel_task", task_id=task_id, reason=reason))

    async def retry_task(self, session: Session, task_id: str | UUID) -> str:
        """Run a FAILED or CANCELLED task again, with a fresh budget; returns its status."""
        return str(await _call(session, "retry_task", task_id=task_id))

    async def stop_loop(self, session: Session, task_id: str | UUID) -> str | None:
        """End the loop of that round; returns the id of the last one, None if it had ended."""
        last = await _call(session, "stop_loop", task_id=task_id)
        return None if last is None else str(last)


async def _enqueue(
    session: Session,
    function: str,
    definition: str | UUID,
    input_params: dict[str, Json] | None,
    options: TaskOptions,
    when: Mapping[str, object] | None = None,
) -> str:
    _known(options, TaskOptions)
    named = {"definition": definition, "input_params": input_params, **options, **(when or {})}
    if not tracing.is_loaded():
        return str(await _call(session, function, **named))
    from pgsched.spans import enqueuing

    with enqueuing(function, definition=str(definition)) as carrier:
        return str(await _call(session, function, **carrier.put_on(named)))


async def _repeat(
    session: Session,
    function: str,
    definition: str | UUID,
    when: Mapping[str, object],
    input_params: dict[str, Json] | None,
    options: ScheduleOptions,
) -> str:
    _known(options, ScheduleOptions)
    named = {"definition": definition, **when, "input_params": input_params, **options}
    return str(await _call(session, function, **named))


async def _call(session: Session, function: str, **arguments: Any) -> Any:
    return await db.call(session, function, **checked(arguments))


def _known(options: Mapping[str, object], kind: type) -> None:
    if unknown := options.keys() - kind.__annotations__.keys():
        raise TypeError(f"unexpected keyword arguments: {', '.join(sorted(unknown))}")
