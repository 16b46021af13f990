"""Logins that are no superusers, one for each role of pgsched, and the owner of the schema."""

from __future__ import annotations

import contextlib
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

ROLES = ("client", "executor", "worker", "operator", "reader")
OWNER = "pgsched_test_owner"

Connection = psycopg.Connection[Any]


def login_of(role: str) -> str:
    return f"pgsched_test_{role}"


def as_role(dsn: str, role: str) -> str:
    """The same database for a login that has that role of pgsched and no other right."""
    return make_conninfo(dsn, user=login_of(role))


def make_owner(conn: Connection) -> None:
    """Let one who is no superuser own what is installed next."""
    _make(conn, OWNER, "createrole")
    database = sql.Identifier(conn.info.dbname)
    conn.execute(
        sql.SQL("grant create on database {} to {}").format(database, sql.Identifier(OWNER))
    )
    conn.execute(sql.SQL("set role {}").format(sql.Identifier(OWNER)))


def make_logins(conn: Connection) -> None:
    conn.execute("reset role")
    for role in ROLES:
        _make(conn, login_of(role), "login")
        conn.execute(
            sql.SQL("grant {} to {}").format(
                sql.Identifier(f"pgsched_{role}"), sql.Identifier(login_of(role))
            )
        )


def _make(conn: Connection, name: str, options: str) -> None:
    """Roles are of the server, and so of all workers of pytest-xdist."""
    password = sql.Literal(conn.info.password or None)
    create = sql.SQL("create role {} {} password {}")
    with contextlib.suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
        conn.execute(create.format(sql.Identifier(name), sql.SQL(options), password))
