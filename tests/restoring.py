"""Make a used database as good as new, in a hundredth of the time that a new one takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from pytest_postgresql.janitor import DatabaseJanitor

Connection = psycopg.Connection[Any]

PARTITIONS = """
    select p.name, p.lower_bound > pgsched.now() + interval '2 days'
    from pgsched.retention as r
    cross join pgsched.partitions(r.table_name) as p
"""

TABLES = """
    select c.relname
    from pg_class as c
    where c.relnamespace = 'pgsched'::regnamespace
      and c.relkind in ('r', 'p')
      and not c.relispartition
      and c.relname <> 'schema_migrations'
"""


class SharedDatabase:
    """A clone of the migrated template for many tests, each of which restores it first."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._session = self._connect()

    def _connect(self) -> Connection:
        return psycopg.connect(self.dsn, autocommit=True, prepare_threshold=None)

    @property
    def session(self) -> Connection:
        """
        A session to restore it in, which is kept from test to test.

        A new one would read the catalog before all else, which takes four times as
        long as the restoration.  If a test has ended it, there is another.
        """
        try:
            self._session.execute("select")
        except psycopg.OperationalError:
            self._session.close()
            self._session = self._connect()
        return self._session

    def restore(self) -> None:
        """Leave what the template holds, and nothing else."""
        restore_tables(self.session)

    def close(self) -> None:
        self._session.close()


@contextlib.contextmanager
def shared_database(template: Any, name: str) -> Iterator[SharedDatabase]:
    """Clone the template, and drop the clone in the end."""
    server = {"host": template.host, "port": template.port, "user": template.user}
    password = template.password or None
    dbname = f"{template.dbname}_{name}"
    given = {"template_dbname": template.template_dbname, "password": password}
    with DatabaseJanitor(**server, dbname=dbname, **given):
        dsn = make_conninfo(**server, dbname=dbname, password=password)
        with contextlib.closing(SharedDatabase(dsn)) as database:
            save_tables(database.session)
            yield database


def save_tables(conn: Connection) -> None:
    """Remember what the tables hold, for `restore_tables()`."""
    conn.execute("create schema saved")
    for (table,) in conn.execute(TABLES).fetchall():
        conn.execute(f"create table saved.{table} as table pgsched.{table}".encode())


def restore_tables(conn: Connection) -> None:
    """What was remembered, and nothing else."""
    drop_partitions_ahead(conn)
    tables = [row[0] for row in conn.execute(TABLES).fetchall()]
    empty = [f"delete from pgsched.{table}" for table in tables]
    fill = [f"insert into pgsched.{table} table saved.{table}" for table in tables]
    with conn.transaction():
        conn.execute("set local session_replication_role = replica")  # no trigger, no foreign key
        conn.execute("; ".join([*empty, *fill]).encode())


def drop_partitions_ahead(conn: Connection) -> None:
    """Leave the partitions of today and tomorrow: each costs every restoration."""
    for name, is_ahead in conn.execute(PARTITIONS).fetchall():
        if is_ahead:
            conn.execute(f"drop table pgsched.{name}".encode())


def drop_partitions(conn: Connection) -> None:
    """Leave the nets alone, as under a clock that stands where no partition was made."""
    for name, _ in conn.execute(PARTITIONS).fetchall():
        conn.execute(f"drop table pgsched.{name}".encode())
