"""The database of `pgsched dev`."""

from __future__ import annotations

import psycopg
from psycopg import sql

from pgsched import migrator
from pgsched.devdb import DevServer


def make_database(server: DevServer, name: str) -> str:
    """Its DSN; it is created where it is missing, and brought to this version."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        query = "select from pg_database where datname = %s"
        if connection.execute(query, [name]).fetchone() is None:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    migrator.migrate(server.dsn(name))
    return server.dsn(name)
