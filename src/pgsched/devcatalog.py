"""Renew `sql/catalog.json`, after a change of the SQL, from a database made for that."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from pgsched import catalog, drift, migrator
from pgsched.devdb import DevServer, state_dir
from pgsched.migrations import folder


@contextmanager
def _scratch(server: DevServer) -> Iterator[str]:
    """A database with the schema in it, for a moment."""
    name = f"catalog_{secrets.token_hex(4)}"
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        try:
            migrator.migrate(server.dsn(name))
            yield server.dsn(name)
        finally:
            connection.execute(sql.SQL("drop database {}").format(sql.Identifier(name)))


def main() -> None:
    """Write the file."""
    with (
        DevServer(state_dir() / "dev").shared() as server,
        _scratch(server) as dsn,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        facts = catalog.read(connection)
    path = folder() / drift.NAME
    path.write_text(drift.written(facts), encoding="utf-8")
    sys.stdout.write(f"{path.name}: {len(facts)} objects\n")


if __name__ == "__main__":
    main()
