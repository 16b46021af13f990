"""What people read about tasks beyond their rows: events, what waits for what, rounds of loops."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.rows import class_row

from pgsched.db import Row, Session, fetch
from pgsched.models import ScheduledTask
from pgsched.rows import TaskEvent, TaskLink

# The ids of tasks are UUIDv7, of about the time at which the tasks were made.
SLACK = timedelta(minutes=1)
# As many rounds, or tasks that wait for one, are shown.
MOST_LINKS = 100

_LINK = """
    select
      t.id, t.status, t.definition_name, t.round_index, t.scheduled_time, t.finished_at, t.error_msg
    from pgsched.tasks as t
"""


async def find_tasks(
    session: Session,
    *,
    status: str | None = None,
    queue: str | None = None,
    definition: str | None = None,
    trace_id: UUID | None = None,
    since: datetime | None = None,
    limit: int = 100,
) -> list[ScheduledTask]:
    """
    Tasks, the newest first; *since* says when they were made.

    Raises:
        NotFound: There is no such definition.
    """
    query = """
        select * from pgsched.tasks as t
        where (%(status)s::text is null or t.status = %(status)s)
          and (%(queue)s::text is null or t.queue = %(queue)s)
          and (
            %(definition)s::text is null
            or t.definition_id = (select d.id from pgsched.find_definition(%(definition)s) as d)
          )
          and (%(trace_id)s::uuid is null or t.trace_id = %(trace_id)s)
          and (%(since)s::timestamptz is null or t.created_at >= %(since)s)
          and (%(first_id)s::uuid is null or t.id >= %(first_id)s)
        order by t.id desc
        limit %(limit)s
    """
    given = {
        "status": status,
        "queue": queue,
        "definition": definition,
        "trace_id": trace_id,
        "since": since,
        "first_id": None if since is None else _first_id(since - SLACK),
        "limit": limit,
    }
    return await _select(session, ScheduledTask, query, given)


def _first_id(at: datetime) -> UUID:
    """No UUIDv7 of *at* or later is below this one."""
    return UUID(int=max(0, int(at.timestamp() * 1000)) << 80)


async def list_events(session: Session, task_id: UUID, *, limit: int = 100) -> list[TaskEvent]:
    """The latest events of a task, in their order."""
    query = """
        select e.* from (
          select * from pgsched.task_events
          where task_id = %(task_id)s
          order by at desc, id desc
          limit %(limit)s
        ) as e
        order by e.at, e.id
    """
    return await _select(session, TaskEvent, query, {"task_id": task_id, "limit": limit})


async def list_dependencies(session: Session, task: ScheduledTask) -> list[TaskLink]:
    """What a task was to wait for, as far as it is still known."""
    if not task.depends_on:
        return []
    query = f"{_LINK} where t.id = any (%(ids)s) order by t.id"
    return await _select(session, TaskLink, query, {"ids": task.depends_on})


async def list_dependents(session: Session, task_id: UUID) -> list[TaskLink]:
    """The unfinished tasks that wait for a task, up to 100."""
    query = f"""
        {_LINK}
        where t.id = any (array(
          select d.task_id from pgsched.task_dependencies as d
          where d.depends_on_id = %(id)s
          order by d.task_id
          limit %(limit)s
        ))
        order by t.id
    """  # noqa: S608
    return await _select(session, TaskLink, query, {"id": task_id, "limit": MOST_LINKS})


async def list_rounds(session: Session, task: ScheduledTask) -> list[TaskLink]:
    """
    The rounds of a task's loop, in their order, up to 100 and the one that is unfinished.

    They are those from the first on, or from the task itself when it is a later round.
    """
    if task.loop_id is None:
        return []
    query = f"""
        with recursive walk as (
          select t.id, t.next_task_id, 1 as number
          from pgsched.tasks as t
          where t.id = %(start)s
          union all
          select t.id, t.next_task_id, w.number + 1
          from walk as w
          join pgsched.tasks as t
            on t.id = w.next_task_id
          where w.number < %(limit)s
        )
        {_LINK}
        where t.id = any (array(
          select w.id from walk as w
          union
          select h.id from pgsched.scheduled_tasks as h where h.loop_id = %(loop_id)s
        ))
        order by t.round_index, t.id
    """  # noqa: S608
    start = task.loop_id if task.round_index < MOST_LINKS else task.id
    given = {"start": start, "loop_id": task.loop_id, "limit": MOST_LINKS}
    return await _select(session, TaskLink, query, given)


async def _select(session: Session, model: type[Row], query: str, given: Any) -> list[Row]:
    return await fetch(session, query, given, class_row(model))
