"""
What goes on right now, for who looks again and again: each query reads a bounded number of rows.

What ended lately is read from the end of an index of the record: up to
NEWEST rows, however many there are, and what they span is told with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from psycopg.rows import class_row

from pgsched.db import Row, Session, fetch
from pgsched.rows import (
    FailureKind,
    QueueEnds,
    RecentFailure,
    StartLatency,
    StuckTask,
    WorkerStatus,
)

NEWEST = 5000
# Rates are those of so long, or of as long as NEWEST rows span.
WINDOW = timedelta(seconds=10)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)

_NEWEST = """
    select i.*
    from pgsched.task_instances as i
    where i.finished_at > (select pgsched.now()) - %(since)s
    order by i.finished_at desc
    limit %(newest)s
"""


async def list_workers(session: Session) -> list[WorkerStatus]:
    """The workers, the newest last, and how many tasks they are about to push."""
    return await _select(session, WorkerStatus, "select * from pgsched.worker_status", {})


async def list_stuck_tasks(session: Session, *, limit: int = 100) -> list[StuckTask]:
    """Unfinished tasks that do not get on, those that are stuck for longest first."""
    query = "select * from pgsched.stuck_tasks limit %(limit)s"
    return await _select(session, StuckTask, query, {"limit": limit})


async def list_recent_failures(session: Session, *, limit: int = 100) -> list[RecentFailure]:
    """Why tasks failed in the latest 24 hours, those alike together, the latest first."""
    query = "select * from pgsched.recent_failures limit %(limit)s"
    return await _select(session, RecentFailure, query, {"limit": limit})


async def list_ends(session: Session) -> list[QueueEnds]:
    """What ended in each queue in the latest ten seconds, or less when much did."""
    query = f"""
        with newest as ({_NEWEST}),
        span as (
          select
            case
              when count(*) < %(newest)s then %(since)s
              else greatest(pgsched.now() - min(n.finished_at), '1 millisecond')
            end as length
          from newest as n
        )
        select
          n.queue,
          count(*) filter (where n.status = 'SUCCESS') as done_count,
          count(*) filter (where n.status = 'FAILED') as failed_count,
          count(*) filter (where n.status = 'CANCELLED') as cancelled_count,
          extract(epoch from s.length) as seconds
        from newest as n
        cross join span as s
        group by n.queue, s.length
        order by n.queue
    """  # noqa: S608
    return await _select(session, QueueEnds, query, {"since": WINDOW, "newest": NEWEST})


async def get_start_latency(session: Session) -> StartLatency:
    """Of the newest tasks that ended in the latest minute, and waited for no other task."""
    query = f"""
        with newest as ({_NEWEST})
        select
          percentile_disc(0.5) within group (order by w.seconds) as p50_seconds,
          percentile_disc(0.99) within group (order by w.seconds) as p99_seconds,
          count(w.seconds) as task_count
        from newest as n
        cross join lateral (
          select greatest(
            extract(epoch from n.started_at - greatest(n.execute_after, n.created_at))::float8, 0
          ) as seconds
        ) as w
        where n.started_at is not null
          and n.depends_on is null
    """  # noqa: S608
    given: Mapping[str, object] = {"since": MINUTE, "newest": NEWEST}
    return (await _select(session, StartLatency, query, given))[0]


async def list_failures(session: Session, *, limit: int = 10) -> list[FailureKind]:
    """Why tasks FAILED in the latest hour, the most frequent first; of the newest 1,000."""
    query = """
        select
          d.name as definition_name,
          f.queue,
          f.error,
          count(*) as failed_count,
          max(f.finished_at) as latest_at
        from (
          select
            i.definition_id,
            i.queue,
            i.finished_at,
            pgsched.error_fingerprint(i.error_msg) as error
          from pgsched.task_instances as i
          where i.status = 'FAILED'
            and i.status <> 'SUCCESS'
            and i.finished_at > (select pgsched.now()) - %(since)s
          order by i.finished_at desc
          limit 1000
        ) as f
        left join pgsched.task_definitions as d
          on d.id = f.definition_id
        group by d.name, f.queue, f.error
        order by failed_count desc, latest_at desc
        limit %(limit)s
    """
    return await _select(session, FailureKind, query, {"since": HOUR, "limit": limit})


async def _select(
    session: Session, model: type[Row], query: str, given: Mapping[str, object]
) -> list[Row]:
    return await fetch(session, query, given, class_row(model))
