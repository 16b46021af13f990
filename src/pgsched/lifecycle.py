"""Begin tasks in one go, and take back what the external system says of them."""

from __future__ import annotations

from typing import Any, Unpack
from uuid import UUID

from pgsched import db, reading
from pgsched.db import Session
from pgsched.errors import BY_SQLSTATE, Invalid
from pgsched.models import (
    Json,
    ReportAnswer,
    ScheduleType,
    StatusReport,
    TaskStatus,
)
from pgsched.options import DeliveryOptions
from pgsched.reports import report_of, report_until_unlocked
from pgsched.scheduler import SchedulerService
from pgsched.settings import Settings
from pgsched.ways import WAYS, Run, Timing, own_name, own_timing, parsed, schedule_type_of


class AdHoc(Timing, DeliveryOptions, total=False):
    """Everything that can be said about an ad-hoc task."""

    input_params: dict[str, Json] | None
    schedule_config: dict[str, Json] | None
    trace_id: UUID | str | None
    depends_on: list[UUID | str] | list[UUID] | list[str] | None


# What belongs to the definition behind an ad-hoc task, not to its run.
_DEFINITION = DeliveryOptions.__annotations__.keys()


class LifecycleService:
    """
    Begins tasks, and applies reports; inside the caller's transaction.

    Raises:
        NotFound: The definition or task does not exist.
        Conflict: Not possible in the state things are in.
        Invalid: An argument is wrong; the message names it.
        Unavailable: The database cannot be reached.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._scheduler = SchedulerService(settings)

    async def schedule(
        self,
        session: Session,
        schedule_type: ScheduleType | str,
        definition: str | UUID,
        **run: Unpack[Run],
    ) -> str:
        """Schedule in the way of *schedule_type*; returns the id of the task or schedule."""
        kind = schedule_type_of(schedule_type)
        way = WAYS[kind]
        given: dict[str, Any] = {name: value for name, value in run.items() if value is not None}
        if strange := sorted(given.keys() - way.takes):
            raise Invalid(f"{', '.join(strange)}: not for a task of type {kind}")
        if kind is ScheduleType.CRON and not given.keys() & {"cron_expression", "every"}:
            raise Invalid("cron_expression: missing, and CRON needs one, or `every`")
        if kind is ScheduleType.INTERVAL_LOOP:
            await self._require_interval(session, definition, given)
        return await way.method(self._scheduler, session, definition, **given)

    async def _require_interval(
        self, session: Session, definition: str | UUID, given: dict[str, Any]
    ) -> None:
        """Without one it would be a LOOP, which runs as fast as it can."""
        config = given.get("schedule_config")
        interval = given.get("loop_interval")
        if interval is None and isinstance(config, dict):
            interval = config.get("loop_interval")
        if interval is None:
            found = await reading.get_definition(session, str(definition))
            interval = parsed(found.loop_config).get("loop_interval")
        if not interval:
            raise Invalid("loop_interval: INTERVAL_LOOP needs one that is more than zero")

    async def submit_ad_hoc_task(
        self,
        session: Session,
        name: str,
        content: dict[str, Json] | None = None,
        task_type: ScheduleType | str = "ONCE",
        **options: Unpack[AdHoc],
    ) -> str:
        """
        Define a task for this once and schedule it; returns the id of the task or schedule.

        *task_type* is ONCE, DELAY, CRON, LOOP or the name of a ScheduleType.
        """
        kind = schedule_type_of(task_type, "task_type")
        given: dict[str, Any] = dict(options)
        about = {key: given.pop(key) for key in _DEFINITION & given.keys()}
        definition_id = await self._scheduler.define_task(
            session, name, content, schedule_type=kind, is_temporary=True, **about
        )
        if kind is ScheduleType.CRON:
            given["name"] = own_name(name, definition_id)
        return await self.schedule(session, kind, definition_id, **given)

    async def start_new_trace(
        self,
        session: Session,
        definition: str | UUID,
        schedule_type: ScheduleType | str = ScheduleType.IMMEDIATE,
        **run: Unpack[Run],
    ) -> tuple[str, str]:
        """Schedule the first task of a new trace; returns the ids of the trace and of the task."""
        if run.get("trace_id") is not None:
            raise Invalid("trace_id: a new trace makes its own")
        trace_id = str(await db.call(session, "uuid7"))
        run["trace_id"] = trace_id
        return trace_id, await self.schedule(session, schedule_type, definition, **run)

    async def trigger_by_id(
        self, session: Session, definition_id: str | UUID, **run: Unpack[Run]
    ) -> str:
        """
        Run a definition in the way of its own schedule_type.

        CRON takes the definition's cron_expr, and the timezone of its
        schedule_config; DELAYED the delay_seconds there.  What the caller says
        goes first.  Returns the id of the task, or of the schedule.
        """
        definition = await reading.get_definition(session, str(definition_id))
        said = {name: value for name, value in run.items() if value is not None}
        given: Any = own_timing(definition, run) | said
        return await self.schedule(session, definition.schedule_type, definition.id, **given)

    async def report_status(
        self,
        session: Session,
        task_id: str | UUID,
        status: TaskStatus | str,
        attempt: int | None = None,
        output_ref: str | None = None,
        error_msg: str | None = None,
        progress: Json = None,
        next_input: dict[str, Json] | None = None,
        stop_loop: bool | None = None,
    ) -> TaskStatus:
        """
        Report RUNNING, SUCCESS, FAILED or CANCELLED; returns the task's status now.

        A refusal raises, and leaves an event if the caller commits all the same.
        """
        report = report_of(
            {
                "task_id": task_id,
                "status": status,
                "attempt": attempt,
                "output_ref": output_ref,
                "error_msg": error_msg,
                "progress": progress,
                "next_input": next_input,
                "stop_loop": stop_loop,
            }
        )
        (answer,) = await self.report_statuses(session, [report])
        if answer.code is not None:
            raise BY_SQLSTATE[answer.code](answer.message)
        return TaskStatus(answer.status or "")

    async def report_statuses(
        self, session: Session, reports: list[StatusReport]
    ) -> list[ReportAnswer]:
        """
        Apply many reports; one answer each, in their order, and nothing raised for a refusal.

        A task that another session has locked is tried again for five seconds.
        """

        async def send(batch: list[dict[str, Json]]) -> list[ReportAnswer]:
            return await db.report_statuses(session, batch)

        return await report_until_unlocked(send, reports)
