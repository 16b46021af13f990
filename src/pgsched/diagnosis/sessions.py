"""What the doctor asks about other sessions of the server."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import NamedTuple
from uuid import uuid4

import psycopg
from psycopg import sql

from pgsched.db import LISTENER, Session
from pgsched.diagnosis.asking import rows, value

# Seconds in which a notification should be here.
PATIENCE = 3.0
LISTEN = "listen {}"


class Holder(NamedTuple):
    """What keeps vacuum from removing dead rows, and for how long."""

    what: str
    age: timedelta


class Connections(NamedTuple):
    """How many there are of clients, and how many there can be."""

    taken: int
    most: int


async def sees_all(session: Session) -> bool:
    """Whether what other roles do is visible, and not just that they are there."""
    query = "select pg_has_role(current_user, 'pg_read_all_stats', 'usage')"
    return bool(await value(session, query))


async def role(session: Session) -> str:
    """Who asks."""
    return str(await value(session, "select current_user::text"))


async def old_sessions(session: Session, longer_than: timedelta) -> list[Holder]:
    """Sessions of this database with a snapshot, or an id, that is older, the oldest first."""
    query = """
        select
          format(
            'pid %%s (%%s, user %%s, %%s)',
            a.pid, coalesce(nullif(a.application_name, ''), 'no application_name'), a.usename,
            a.state
          ),
          clock_timestamp() - a.xact_start
        from pg_stat_activity as a
        where a.datname = current_database()
          and a.pid <> pg_backend_pid()
          and a.backend_type <> 'autovacuum worker'
          and (a.backend_xmin is not null or a.backend_xid is not null)
          and a.xact_start <= clock_timestamp() - %s
        order by a.xact_start
    """
    return [Holder._make(row) for row in await rows(session, query, [longer_than])]


async def prepared_transactions(session: Session, longer_than: timedelta) -> list[Holder]:
    """Transactions that were prepared and neither committed nor rolled back."""
    query = """
        select
          format('prepared transaction %%L (user %%s)', p.gid, p.owner),
          clock_timestamp() - p.prepared
        from pg_prepared_xacts as p
        where p.database = current_database()
          and p.prepared <= clock_timestamp() - %s
        order by p.prepared
    """
    return [Holder._make(row) for row in await rows(session, query, [longer_than])]


async def lagging_standbys(session: Session, transactions: int) -> list[str]:
    """Replication slots, and standbys, that hold a snapshot older than so many transactions."""
    query = """
        select
          format(
            'replication slot %%s (%%s, %%s transactions back)',
            s.slot_name, case when s.active then 'active' else 'nobody reads it' end, age(s.xmin)
          )
        from pg_replication_slots as s
        where age(s.xmin) > %s
        union all
        select
          format(
            'standby pid %%s (%%s, hot_standby_feedback, %%s transactions back)',
            r.pid, coalesce(nullif(r.application_name, ''), 'no application_name'),
            age(r.backend_xmin)
          )
        from pg_stat_replication as r
        where age(r.backend_xmin) > %s
    """
    return [row[0] for row in await rows(session, query, [transactions, transactions])]


async def connections(session: Session) -> Connections:
    """Those of all databases of the server."""
    query = """
        select
          count(*) filter (where a.datid is not null and a.usesysid is not null),
          current_setting('max_connections')::integer
            - current_setting('superuser_reserved_connections')::integer
        from pg_stat_activity as a
    """
    return Connections._make((await rows(session, query))[0])


async def listeners(session: Session) -> int:
    """How many sessions of workers there are that listen; those that can be seen."""
    query = """
        select count(*)
        from pg_stat_activity as a
        where a.datname = current_database()
          and a.application_name = %s
    """
    return int(await value(session, query, [LISTENER]))


async def notification_queue_usage(session: Session) -> float:
    """The share of the queue of notifications that is taken, 0 to 1."""
    return float(await value(session, "select pg_notification_queue_usage()"))


async def hears(dsn: str, session: Session) -> bool:
    """Whether a session that listens is reached by what another one sends."""
    channel = f"pgsched_doctor_{uuid4().hex}"
    listening = await psycopg.AsyncConnection.connect(dsn, autocommit=True, prepare_threshold=None)
    async with listening:
        await listening.execute(sql.SQL(LISTEN).format(sql.Identifier(channel)))
        await rows(session, "select pg_notify(%s, '')", [channel])
        heard = listening.notifies(timeout=PATIENCE, stop_after=1)
        async with asyncio.timeout(2 * PATIENCE):
            return bool([notification async for notification in heard])
