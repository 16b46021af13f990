"""Every test that asks for one gets a database of its own, cloned from a migrated template."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from pytest_postgresql import factories

from pgsched.devdb import DevServer, state_dir
from tests.asked import ROOT, check
from tests.restoring import SharedDatabase, drop_partitions_ahead, shared_database
from tests.roles import make_logins, make_owner

pytest_plugins = [
    "tests.clocked",
    "tests.commanding",
    "tests.empty",
    "tests.pooled",
    "tests.working",
]

SQL = Path(__file__).parents[1] / "sql"

# What it would cost to survive a power failure.
FAST: dict[str, str | int] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "jit": "off",
    "max_connections": 200,
    "max_prepared_transactions": 4,
    "shared_buffers": "64MB",
}

HOUR = 3600.0


def pytest_configure(config: pytest.Config) -> None:
    """Name this run's server; the workers of pytest-xdist share it."""
    if hasattr(config, "workerinput"):
        return
    os.environ[ROOT] = str(state_dir() / f"test-{secrets.token_hex(4)}")
    for root in state_dir().glob("test-*"):  # of runs that were killed
        if time.time() - root.stat().st_mtime > HOUR:
            DevServer(root).remove()
    check(os.environ)  # what follows a refusal needs the name


def pytest_xdist_auto_num_workers() -> int:
    """More than cores: many tests wait, for processes or for time to pass."""
    return max(2, 3 * (os.cpu_count() or 1) // 2)


def pytest_unconfigure(config: pytest.Config) -> None:
    root = Path(os.environ[ROOT])
    if root.exists() and not hasattr(config, "workerinput"):
        DevServer(root).remove()


@pytest.fixture(scope="session")
def pg_server(request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    """The server of this run, or the one named by --postgresql-host."""
    given = request.config.option
    common = {"options": "", "template_dbname": None}
    if given.postgresql_host:
        yield SimpleNamespace(
            host=given.postgresql_host,
            port=given.postgresql_port or 5432,
            user=given.postgresql_user or "postgres",
            password=given.postgresql_password,
            maintenance_dbname=given.postgresql_maintenance_dbname or "postgres",
            **common,
        )
        return
    with DevServer(Path(os.environ[ROOT])).shared(**FAST) as server:
        yield SimpleNamespace(
            host=str(server.socket_dir),
            port=server.port,
            user="postgres",
            password=None,
            maintenance_dbname="postgres",
            **common,
        )


def install_schema(**connection: Any) -> None:
    """Run the files of `sql/` in order, as `psql -f` would, for an owner who is no superuser."""
    with psycopg.connect(**connection) as conn:
        make_owner(conn)
        for path in sorted(SQL.glob("*.sql")):
            try:
                conn.execute(path.read_bytes())
            except psycopg.Error as exc:
                exc.add_note(f"in {path}")
                raise
        make_logins(conn)
        drop_partitions_ahead(conn)


pgsched_db = factories.postgresql_noproc(
    depends_on="pg_server",
    dbname="pgsched_test",
    load=[install_schema],
    load_autocommit=True,  # the files begin and commit themselves
)
postgresql = factories.postgresql("pgsched_db")


@pytest.fixture(scope="session")
def shared(pgsched_db: Any) -> Iterator[SharedDatabase]:
    with shared_database(pgsched_db, "shared") as database:
        yield database


@pytest.fixture
def dsn(request: pytest.FixtureRequest, pooled: Callable[[str], str]) -> str:
    """
    A database as good as new, for code that makes its own connections.

    It is that of `postgresql` for a test that asks for both, or is marked
    `own_database` since it changes the schema; else one that is restored.
    """
    own = request.node.get_closest_marker("own_database")
    if own is None and "postgresql" not in request.fixturenames:
        shared: SharedDatabase = request.getfixturevalue("shared")
        shared.restore()
        return pooled(shared.dsn)
    info = request.getfixturevalue("postgresql").info
    own_dsn = make_conninfo(
        host=info.host,
        port=info.port,
        user=info.user,
        password=info.password or None,
        dbname=info.dbname,
    )
    return pooled(own_dsn)
