"""What the doctor asks about tables, indexes, partitions, and the settings that keep them well."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from pgsched.db import Session
from pgsched.diagnosis.asking import rows, value

# Many rows of these change, and few are there.
HOT = (
    "scheduled_tasks",
    "queues",
    "workers",
    "schedules",
    "status_pushes",
    "task_dependencies",
    "idempotency_keys",
)


class Bloated(NamedTuple):
    """A table with many dead rows."""

    name: str
    dead: int
    live: int
    vacuumed_at: datetime | None


class Kept(NamedTuple):
    """A table of the record, and how its partitions are."""

    name: str
    is_there_today: bool
    until: datetime | None  # no partition is made for what comes later
    netted: int  # rows in the default partition, up to 1,000
    overdue: list[str]  # partitions past their retention


async def bloated(session: Session, more_than: int) -> list[Bloated]:
    """Hot tables with more dead rows than that, and more than live ones."""
    query = """
        select
          t.relname::text, t.n_dead_tup, t.n_live_tup, greatest(t.last_vacuum, t.last_autovacuum)
        from pg_stat_user_tables as t
        where t.schemaname = 'pgsched'
          and t.relname = any (%s)
          and t.n_dead_tup > greatest(%s, t.n_live_tup)
        order by t.n_dead_tup desc
    """
    return [Bloated._make(row) for row in await rows(session, query, [list(HOT), more_than])]


async def switched_off(session: Session, settings: Sequence[str]) -> list[str]:
    """Which of these settings of the server are off, in their order."""
    query = """
        select s.name
        from pg_settings as s
        where s.name = any (%s)
          and s.setting = 'off'
        order by array_position(%s, s.name)
    """
    given = list(settings)
    return [row[0] for row in await rows(session, query, [given, given])]


async def tables_without_autovacuum(session: Session) -> list[str]:
    """Tables of the schema for which it is switched off."""
    query = """
        select c.relname::text
        from pg_class as c
        cross join lateral pg_options_to_table(c.reloptions) as o
        where c.relnamespace = 'pgsched'::regnamespace
          and o.option_name = 'autovacuum_enabled'
          and not o.option_value::boolean
        order by 1
    """
    return [row[0] for row in await rows(session, query)]


async def invalid_indexes(session: Session) -> list[str]:
    """Indexes that are written but not read: one was built concurrently, and that failed."""
    query = """
        select format('%%s on %%s', i.indexrelid::regclass, i.indrelid::regclass)
        from pg_index as i
        join pg_class as c
          on c.oid = i.indexrelid
        where c.relnamespace = 'pgsched'::regnamespace
          and not (i.indisvalid and i.indisready and i.indislive)
        order by 1
    """
    return [row[0] for row in await rows(session, query)]


async def disabled_triggers(session: Session) -> list[str]:
    """Triggers that do not fire."""
    query = """
        select format('%%s on %%s', t.tgname, t.tgrelid::regclass)
        from pg_trigger as t
        join pg_class as c
          on c.oid = t.tgrelid
        where c.relnamespace = 'pgsched'::regnamespace
          and t.tgenabled = 'D'
        order by 1
    """
    return [row[0] for row in await rows(session, query)]


async def oldest_id(session: Session) -> int:
    """How many ids, of transactions or of multixacts, the oldest of this database is back."""
    query = """
        select greatest(age(d.datfrozenxid), mxid_age(d.datminmxid))
        from pg_database as d
        where d.datname = current_database()
    """
    return int(await value(session, query))


async def record(session: Session, grace: timedelta) -> list[Kept]:
    """The tables of the record; what should have been dropped is told after *grace*."""
    query = """
        select
          r.table_name,
          coalesce(bool_or(p.lower_bound <= n.at and p.upper_bound > n.at), false),
          max(p.upper_bound),
          coalesce(
            array_agg(p.name order by p.lower_bound)
              filter (where p.upper_bound < n.at - r.keep - %s),
            '{}'
          )
        from pgsched.retention as r
        cross join (select pgsched.now() as at) as n
        left join lateral pgsched.partitions(r.table_name) as p
          on true
        group by r.table_name
        order by r.table_name
    """
    return [
        Kept(name, is_there, until, await _netted(session, name), overdue)
        for name, is_there, until, overdue in await rows(session, query, [grace])
    ]


async def _netted(session: Session, table: str) -> int:
    net = f"pgsched.{table}_default"
    query = f"select count(*) from (select from {net} limit 1000) as n"  # noqa: S608
    return int(await value(session, query))
