"""
The tests through a PgBouncer in transaction mode, for `make test-pgbouncer`.

With PGSCHED_TEST_PGBOUNCER=1 the database of a test has the address of a
pooler, and `poll_only` is set for all that reads settings, in this process and
in others.  What makes databases goes to the server itself, as does the session
of the fixture `postgresql`.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgsched import doctor
from pgsched.database import Database
from pgsched.visit import visit
from tests.pgbouncer import pgbouncer

IS_POOLED = os.environ.get("PGSCHED_TEST_PGBOUNCER") == "1"

# What cannot go through it, by the beginning of its name, and why not.
LEFT_OUT: dict[str, str] = {}


def pytest_configure(config: pytest.Config) -> None:
    if not IS_POOLED:
        return
    os.environ["PGSCHED_POLL_ONLY"] = "true"
    calls: list[Any] = [Database.__init__, visit, doctor.examine]
    for call in calls:  # as those say who read the setting
        getattr(call, "__wrapped__", call).__kwdefaults__["is_pooled"] = True
    for owner, name in ((psycopg, "connect"), (psycopg.AsyncConnection, "connect")):
        setattr(owner, name, _unprepared(getattr(owner, name)))


def _unprepared(connect: Callable[..., Any]) -> Callable[..., Any]:
    """What tests connect with prepares nothing; what pgsched connects with is its own affair."""

    @functools.wraps(connect)
    def connecting(*given: Any, **named: Any) -> Any:
        if sys._getframe(1).f_globals["__name__"].startswith("tests."):
            named.setdefault("prepare_threshold", None)
        return connect(*given, **named)

    return connecting


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not IS_POOLED:
        return
    left_out = [item for item in items if item.nodeid.startswith(tuple(LEFT_OUT))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def pooled(pg_server: SimpleNamespace) -> Iterator[Callable[[str], str]]:
    """The address of a database as the tests are to see it."""
    if not IS_POOLED:
        yield str
        return
    server = make_conninfo(host=pg_server.host, port=pg_server.port, user=pg_server.user)
    with pgbouncer(server) as bouncer:
        yield bouncer.dsn
