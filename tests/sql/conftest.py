"""`sched`: the functions of a database that is as good as new, under a clock the test turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from pytest_postgresql.janitor import DatabaseJanitor

from tests.sql.sched import Sched, fake_clock, open_sched, restore_tables, save_tables


@pytest.fixture(scope="session")
def shared_dsn(pgsched_db: Any) -> Iterator[str]:
    """One migrated database for all tests of this folder: to clone one takes too long."""
    server = {"host": pgsched_db.host, "port": pgsched_db.port, "user": pgsched_db.user}
    name, template = f"{pgsched_db.dbname}_shared", pgsched_db.template_dbname
    password = pgsched_db.password or None
    with DatabaseJanitor(**server, dbname=name, template_dbname=template, password=password):
        dsn = make_conninfo(**server, dbname=name, password=password)
        with psycopg.connect(dsn, autocommit=True) as conn:
            fake_clock(conn)
            save_tables(conn)
        yield dsn


@pytest.fixture
def connect(shared_dsn: str) -> Iterator[Callable[[], Sched]]:
    """Open as many sessions as the test needs; they are closed when it ends."""
    opened: list[Sched] = []

    def connect() -> Sched:
        opened.append(open_sched(shared_dsn))
        return opened[-1]

    yield connect
    for sched in opened:
        sched.conn.close()


@pytest.fixture
def sched(connect: Callable[[], Sched]) -> Sched:
    """A session, and a definition `job` of the default settings."""
    sched = connect()
    restore_tables(sched.conn)
    sched.define()
    return sched


@pytest.fixture
def another(connect: Callable[[], Sched], sched: Sched) -> Sched:
    """A second session on the database of `sched`."""
    return connect()
