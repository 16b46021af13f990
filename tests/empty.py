"""Databases with nothing in them, and logins that may do nothing."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pytest_postgresql.janitor import DatabaseJanitor

Empty = Callable[[str], str]
Login = Callable[..., str]


@pytest.fixture
def login(pg_server: Any) -> Iterator[Login]:
    """Make roles with some options, which have nothing else; their names."""
    made: list[sql.Identifier] = []
    dsn = make_conninfo(
        host=pg_server.host,
        port=pg_server.port,
        user=pg_server.user,
        password=pg_server.password or None,
        dbname=pg_server.maintenance_dbname,
    )

    def make(options: str = "") -> str:
        name = f"test_{secrets.token_hex(4)}"
        text = f"create role {{}} login {options} password {{}}"
        create = sql.SQL(text).format(sql.Identifier(name), pg_server.password or None)
        connection.execute(create)
        made.append(sql.Identifier(name))
        return name

    with psycopg.connect(dsn, autocommit=True) as connection:
        yield make
        for name in made:
            connection.execute(sql.SQL("drop role {}").format(name))


@pytest.fixture
def empty(pg_server: Any, login: Login) -> Iterator[Empty]:
    """Make databases with nothing in them; they are dropped before the logins."""
    made: list[DatabaseJanitor] = []
    server = {k: getattr(pg_server, k) for k in ("host", "port", "user")}
    password = pg_server.password or None

    def make(name: str) -> str:
        made.append(DatabaseJanitor(**server, dbname=f"pgsched_{name}", password=password))
        made[-1].init()
        return make_conninfo(**server, dbname=f"pgsched_{name}", password=password)

    yield make
    for janitor in made:
        janitor.drop()
