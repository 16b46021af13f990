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
    StartLatency,
    WorkerLease,
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


async def list_leases(session: Session) -> list[WorkerLease]:
    """The workers, the newest last, and how many tasks they are about to push."""
    # Those that are pushed end, or are taken back, before those that are accepted.
    query = """
        with held as (
          select one.worker_id, count(*) as count
          from pgsched.queues as q
          cross join lateral (
            select t.worker_id, t.status
            from pgsched.scheduled_tasks as t
            where t.queue = q.name
              and t.deadline_at is not null
            order by t.deadline_at
            limit 2000
          ) as one
          where one.status = 'SCHEDULED'
          group by one.worker_id
        )
        select
          w.*,
          w.lease_expires_at > pgsched.now() as is_alive,
          coalesce(h.count, 0) as held_count
        from pgsched.workers as w
        left join held as h
          on h.worker_id = w.id
        order by w.started_at, w.id
    """
    return await _select(session, WorkerLease, query, {})


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
            regexp_replace(
              regexp_replace(
                split_part(left(coalesce(i.error_msg, ''), 200), E'\\n', 1),
                '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', '#', 'gi'
              ),
              '[0-9]{4,}', '#', 'g'
            ) as error
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
