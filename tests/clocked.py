"""`sched`: the functions of a database that is as good as new, under a clock the test turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.restoring import SharedDatabase, drop_partitions, shared_database
from tests.sql.sched import Sched, fake_clock, open_sched, restart_clock


@pytest.fixture(scope="session")
def clocked(pgsched_db: Any) -> Iterator[SharedDatabase]:
    """One migrated database for all tests that turn the clock."""
    with shared_database(pgsched_db, "clocked") as database:
        fake_clock(database.session)
        yield database


@pytest.fixture
def connect(clocked: SharedDatabase, pooled: Callable[[str], str]) -> Iterator[Callable[[], Sched]]:
    """Open as many sessions as the test needs; they are closed when it ends."""
    opened: list[Sched] = []

    def connect() -> Sched:
        opened.append(open_sched(pooled(clocked.dsn)))
        return opened[-1]

    yield connect
    for sched in opened:
        sched.conn.close()


@pytest.fixture
def sched(clocked: SharedDatabase, connect: Callable[[], Sched]) -> Sched:
    """A session, and a definition `job` of the default settings."""
    restart_clock(clocked.session)
    drop_partitions(clocked.session)
    clocked.restore()
    Sched(clocked.session).define()
    return connect()


@pytest.fixture
def another(connect: Callable[[], Sched], sched: Sched) -> Sched:
    """A second session on the database of `sched`."""
    return connect()
