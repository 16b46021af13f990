"""
What there is in the database, in numbers: one cheap look for all who ask for metrics.

No query counts further than 10,000, or reads the record.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from psycopg.rows import dict_row

from pgsched.db import Session, fetch

Row = dict[str, Any]

# Each look is a range of an index that stops: at the first task, or at the 10,000th.
_QUEUES = """
    select
      q.name as queue,
      q.is_paused,
      q.max_in_flight,
      q.rate_per_second,
      due.count as due,
      coalesce(greatest(extract(epoch from n.at - oldest.at), 0), 0)::double precision
        as oldest_due_seconds,
      later.count as later,
      waiting.count as waiting,
      under_way.scheduled,
      under_way.dispatched,
      under_way.running
    from pgsched.queues as q
    cross join (select pgsched.now() as at) as n
    cross join lateral (
      select min(one.execute_after) as at
      from generate_series(-9, 9) as p (priority)
      cross join lateral (
        select t.execute_after
        from pgsched.scheduled_tasks as t
        where t.queue = q.name
          and t.status = 'PENDING'
          and t.pending_dependencies = 0
          and t.priority = p.priority
          and t.execute_after <= n.at
        order by t.execute_after
        limit 1
      ) as one
    ) as oldest
    cross join lateral (
      select count(*)
      from (
        select
        from generate_series(-9, 9) as p (priority)
        join pgsched.scheduled_tasks as t
          on t.queue = q.name
          and t.status = 'PENDING'
          and t.pending_dependencies = 0
          and t.priority = p.priority
          and t.execute_after <= n.at
        limit 10000
      ) as one
    ) as due
    cross join lateral (
      select count(*)
      from (
        select
        from generate_series(-9, 9) as p (priority)
        join pgsched.scheduled_tasks as t
          on t.queue = q.name
          and t.status = 'PENDING'
          and t.pending_dependencies = 0
          and t.priority = p.priority
          and t.execute_after > n.at
        limit 10000
      ) as one
    ) as later
    cross join lateral (
      select count(*)
      from (
        select
        from pgsched.scheduled_tasks as t
        where t.queue = q.name
          and t.pending_dependencies > 0
        limit 10000
      ) as one
    ) as waiting
    cross join lateral (
      select
        count(*) filter (where one.status = 'SCHEDULED') as scheduled,
        count(*) filter (where one.status = 'DISPATCHED') as dispatched,
        count(*) filter (where one.status = 'RUNNING') as running
      from (
        select t.status
        from pgsched.scheduled_tasks as t
        where t.queue = q.name
          and t.deadline_at is not null
        limit 10000
      ) as one
    ) as under_way
"""
_SYSTEMS = """
    select
      s.name as external_system,
      case when s.open_until is null then 0 when s.probe_until > pgsched.now() then 0.5 else 1 end
        as breaker
    from pgsched.external_systems as s
"""
# What was given up is never due.  A deferred message is due later than it was made, so the
# oldest is sought among the first.
_OUTBOX = """
    select
      (
        select count(*)
        from (
          select
          from pgsched.queues as q
          join pgsched.status_pushes as p
            on p.queue = q.name
            and p.due_at is not null
          limit 10000
        ) as one
      ) as messages,
      (
        select coalesce(extract(epoch from pgsched.now() - min(one.created_at)), 0)
        from pgsched.queues as q
        cross join lateral (
          select p.created_at
          from pgsched.status_pushes as p
          where p.queue = q.name
            and p.due_at is not null
          order by p.due_at
          limit 1000
        ) as one
      )::double precision as oldest_seconds,
      (
        select count(*)
        from (select from pgsched.status_pushes as p where p.given_up_at is not null limit 10000)
          as one
      ) as given_up
"""
_SCHEDULES = """
    select
      count(*) filter (where s.is_active) as active,
      count(*) filter (where not s.is_active and s.paused_at is not null) as paused,
      count(*) filter (where not s.is_active and s.paused_at is null and s.error_msg is not null)
        as broken,
      count(*) filter (where not s.is_active and s.paused_at is null and s.error_msg is null)
        as ended,
      count(*) filter (where s.is_active and s.next_run_at <= n.at) as overdue,
      coalesce(
        extract(epoch from max(n.at - s.next_run_at) filter (
          where s.is_active and s.next_run_at <= n.at
        )), 0
      )::double precision as oldest_overdue_seconds
    from pgsched.schedules as s
    cross join (select pgsched.now() as at) as n
"""
# By the clock of the server, as the times it is compared with.  Of the sessions of others
# only a member of pg_monitor sees more than that they are there.
_SERVER = """
    select
      (
        select count(*) from pgsched.workers as w where w.lease_expires_at > pgsched.now()
      ) as workers_alive,
      (
        select coalesce(max(extract(epoch from clock_timestamp() - a.xact_start)), 0)
        from pg_stat_activity as a
        where a.backend_xmin is not null
          and a.datname = current_database()
          and a.pid <> pg_backend_pid()
      )::double precision as oldest_snapshot_seconds
"""


# Statistics that know nothing yet of what a table holds must not cost a scan of it.
_BY_INDEX = """
    select set_config(s.name, 'off', true)
    from (values ('enable_seqscan'), ('enable_bitmapscan')) as s (name)
"""


class Census(NamedTuple):
    """The rows of one look, under the names that the queries give their columns."""

    queues: list[Row]
    systems: list[Row]
    outbox: Row
    schedules: Row
    server: Row


async def take_census(session: Session) -> Census:
    """Look once, in a transaction that is for that alone."""
    schedules, server, systems = [
        await fetch(session, query, (), dict_row) for query in (_SCHEDULES, _SERVER, _SYSTEMS)
    ]
    await fetch(session, _BY_INDEX, (), dict_row)
    queues, outbox = [await fetch(session, query, (), dict_row) for query in (_QUEUES, _OUTBOX)]
    return Census(queues, systems, outbox[0], schedules[0], server[0])
