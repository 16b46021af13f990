"""What operators read of one queue, and of what the external systems are still to be told."""

from __future__ import annotations

from collections.abc import Mapping

from psycopg.rows import class_row

from pgsched.db import Row, Session, fetch
from pgsched.errors import NotFound
from pgsched.rows import QueueDetails, StatusPush


async def get_queue(session: Session, queue: str) -> QueueDetails:
    """
    One queue: its limits and its pause, and what is in it.

    Raises:
        NotFound: There is none of that name.
    """
    query = """
        select s.*, q.burst, q.pause_note, q.resumed_at
        from pgsched.queue_stats as s
        join pgsched.queues as q
          on q.name = s.queue
        where s.queue = %(queue)s
    """
    found = await _select(session, QueueDetails, query, {"queue": queue})
    if not found:
        raise NotFound(f"queue {queue!r} does not exist")
    return found[0]


async def list_status_pushes(
    session: Session, *, is_given_up: bool | None = None, limit: int = 100
) -> list[StatusPush]:
    """What the external systems have still to be told, the oldest first; None: given up or not."""
    query = """
        select p.*, q.external_system, d.name as definition_name
        from pgsched.status_pushes as p
        left join pgsched.queues as q
          on q.name = p.queue
        left join pgsched.task_definitions as d
          on d.id = p.definition_id
        where %(is_given_up)s::boolean is null
          or (p.given_up_at is not null) = %(is_given_up)s
        order by p.sequence
        limit %(limit)s
    """
    return await _select(session, StatusPush, query, {"is_given_up": is_given_up, "limit": limit})


async def _select(
    session: Session, model: type[Row], query: str, given: Mapping[str, object]
) -> list[Row]:
    return await fetch(session, query, given, class_row(model))
