"""What people read: tasks, definitions, schedules and the small views, in the caller's session."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import class_row, dict_row, scalar_row

from pgsched.db import Row, Session, call, fetch
from pgsched.errors import Invalid, NotFound
from pgsched.models import ScheduledTask, TaskDefinition
from pgsched.queues import QueueStatus, SystemStatus
from pgsched.schedules import Backfill, Schedule, ScheduleChange, ScheduleFire

_SYSTEMS = """
    select
      s.*,
      case
        when s.open_until is null then 'closed'
        when s.probe_until > n.at then 'probing'
        else 'open'
      end as breaker
    from pgsched.external_systems as s
    cross join (select pgsched.now() as at) as n
"""
_OF_SCHEDULE = "schedule_id = (pgsched.find_schedule(%(schedule)s)).id"


async def get_task(session: Session, task_id: str) -> ScheduledTask:
    """
    One task, unfinished or finished.

    Raises:
        NotFound: There is no such task.
    """
    tasks = await _select(
        session,
        ScheduledTask,
        "select * from pgsched.tasks where id = %s",
        [_uuid("task_id", task_id)],
    )
    if not tasks:
        raise NotFound(f"task {task_id} does not exist")
    return tasks[0]


async def list_tasks(
    session: Session,
    *,
    status: str | None = None,
    queue: str | None = None,
    trace_id: str | None = None,
    before: str | None = None,
    limit: int = 100,
) -> list[ScheduledTask]:
    """Tasks, the newest first; *before* is the last id of the page before."""
    query = """
        select * from pgsched.tasks as t
        where (%(status)s::text is null or t.status = %(status)s)
          and (%(queue)s::text is null or t.queue = %(queue)s)
          and (%(trace_id)s::uuid is null or t.trace_id = %(trace_id)s)
          and (%(before)s::uuid is null or t.id < %(before)s)
        order by t.id desc
        limit %(limit)s
    """
    given = {
        "status": status,
        "queue": queue,
        "trace_id": _uuid("trace_id", trace_id),
        "before": _uuid("before", before),
        "limit": limit,
    }
    return await _select(session, ScheduledTask, query, given)


async def list_definitions(session: Session) -> list[TaskDefinition]:
    """The definitions that are not temporary, by name."""
    query = "select * from pgsched.task_definitions where not is_temporary order by name"
    return await _select(session, TaskDefinition, query, [])


async def get_definition(session: Session, name_or_id: str) -> TaskDefinition:
    """
    The definition of that name or id.

    Raises:
        NotFound: There is none.
    """
    query = "select (d).* from pgsched.find_definition(%s) as d"
    return (await _select(session, TaskDefinition, query, [name_or_id]))[0]


async def list_schedules(session: Session, *, state: str | None = None) -> list[Schedule]:
    """The schedules, or those in one state, by name."""
    query = """
        select * from pgsched.schedule_status as s
        where (%(state)s::text is null or s.state = %(state)s)
        order by s.name
    """
    return await _select(session, Schedule, query, {"state": state})


async def get_schedule(session: Session, schedule: str) -> Schedule:
    """
    The schedule of that name or id.

    Raises:
        NotFound: There is none.
    """
    query = """
        select s.* from pgsched.schedule_status as s
        where s.id = (pgsched.find_schedule(%s)).id
    """
    return (await _select(session, Schedule, query, [schedule]))[0]


async def explain_schedule(session: Session, schedule: str) -> str:
    """Why a schedule fires or does not, in words."""
    return str(await call(session, "explain_schedule", p_schedule=schedule))


async def explain_task(session: Session, task_id: UUID | str) -> str:
    """Why a task runs or does not, in words."""
    return str(await call(session, "explain_task", p_task_id=_uuid("task_id", str(task_id))))


async def explain_queue(session: Session, queue: str) -> str:
    """Why the due tasks of a queue are claimed or not, in words."""
    return str(await call(session, "explain_queue", p_queue=queue))


async def list_fires(
    session: Session, schedule: str, *, before: datetime | None = None, limit: int = 100
) -> list[ScheduleFire]:
    """What became of the instants of a schedule, the newest first; *before* is the last seen."""
    query = f"""
        select * from pgsched.schedule_fires
        where {_OF_SCHEDULE}
          and (%(before)s::timestamptz is null or scheduled_time < %(before)s)
        order by scheduled_time desc
        limit %(limit)s
    """  # noqa: S608
    given = {"schedule": schedule, "before": before, "limit": limit}
    return await _select(session, ScheduleFire, query, given)


async def list_changes(
    session: Session, schedule: str, *, limit: int = 100
) -> list[ScheduleChange]:
    """Who changed a schedule, the newest first; of a deleted one by its id or last name."""
    query = """
        select c.* from pgsched.schedule_changes as c
        where c.schedule_id = coalesce(
          (
            select s.id from pgsched.schedules as s
            where s.name = %(schedule)s or s.id::text = %(schedule)s
            order by s.name = %(schedule)s desc
            limit 1
          ),
          (
            select g.schedule_id from pgsched.schedule_changes as g
            where g.name = %(schedule)s or g.schedule_id::text = %(schedule)s
            order by g.at desc
            limit 1
          )
        )
        order by c.at desc, c.id desc
        limit %(limit)s
    """
    found = await _select(session, ScheduleChange, query, {"schedule": schedule, "limit": limit})
    if not found:
        raise NotFound(f"schedule: no schedule has, or had, the name or id {schedule!r}")
    return found


async def list_backfills(session: Session, schedule: str, *, limit: int = 100) -> list[Backfill]:
    """The backfills of a schedule, the newest first."""
    query = f"""
        select * from pgsched.schedule_backfills
        where {_OF_SCHEDULE}
        order by created_at desc
        limit %(limit)s
    """  # noqa: S608
    return await _select(session, Backfill, query, {"schedule": schedule, "limit": limit})


async def count_runs(session: Session, schedule: str, instants: list[datetime]) -> int:
    """How many of these instants of a schedule have run."""
    query = f"""
        select count(*) from pgsched.schedule_fires
        where {_OF_SCHEDULE}
          and outcome = 'RUN'
          and scheduled_time = any (%(instants)s)
    """  # noqa: S608
    given = {"schedule": schedule, "instants": instants}
    return int((await fetch(session, query, given, scalar_row))[0])


async def list_external_systems(session: Session) -> list[SystemStatus]:
    """The external systems, and how their breakers are, by name."""
    return await _select(session, SystemStatus, f"{_SYSTEMS} order by s.name", [])


async def get_external_system(session: Session, name: str) -> SystemStatus:
    """
    One external system.

    Raises:
        NotFound: There is none of that name.
    """
    found = await _select(session, SystemStatus, f"{_SYSTEMS} where s.name = %s", [name])
    if not found:
        raise NotFound(f"external system {name!r} does not exist")
    return found[0]


async def list_queues(session: Session) -> list[QueueStatus]:
    """The queues, by name: their limits, and what is in them."""
    return await _select(session, QueueStatus, "select * from pgsched.queue_stats order by 1", [])


async def list_rows(session: Session, view: str) -> list[dict[str, Any]]:
    """All rows of one of the small views, as dicts."""
    return await fetch(session, f"select * from pgsched.{view}", (), dict_row)  # noqa: S608


async def _select(session: Session, model: type[Row], query: str, given: Any) -> list[Row]:
    return await fetch(session, query, given, class_row(model))


def _uuid(field: str, value: str | None) -> UUID | None:
    try:
        return None if value is None else UUID(value)
    except ValueError as exc:
        raise Invalid(f"{field} must be a UUID, not {value!r}") from exc
