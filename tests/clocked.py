"""`sched`: the functions of a database that is as good as new, under a clock the test turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.restoring import drop_partitions, restore_tables, shared_database
from tests.sql.sched import Sched, fake_clock, open_sched, restart_clock


@pytest.fixture(scope="session")
def clocked_dsn(pgsched_db: Any) -> Iterator[str]:
    """One migrated database for all tests that turn the clock."""
    with shared_database(pgsched_db, "clocked") as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            fake_clock(conn)
        yield dsn


@pytest.fixture
def connect(clocked_dsn: str, pooled: Callable[[str], str]) -> Iterator[Callable[[], Sched]]:
    """Open as many sessions as the test needs; they are closed when it ends."""
    opened: list[Sched] = []

    def connect() -> Sched:
        opened.append(open_sched(pooled(clocked_dsn)))
        return opened[-1]

    yield connect
    for sched in opened:
        sched.conn.close()


@pytest.fixture
def sched(connect: Callable[[], Sched]) -> Sched:
    """A session, and a definition `job` of the default settings."""
    sched = connect()
    restart_clock(sched.conn)
    drop_partitions(sched.conn)
    restore_tables(sched.conn)
    sched.define()
    return sched


@pytest.fixture
def another(connect: Callable[[], Sched], sched: Sched) -> Sched:
    """A second session on the database of `sched`."""
    return connect()
