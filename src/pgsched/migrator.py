"""
Apply the files of `sql/` in order.

A file is one transaction that begins by asking the ledger whether it is its
turn, so this module needs no lock of its own: of twenty migrators that start
together each file is applied by one, and the others see that it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg

from pgsched.errors import MigrationError

_LEDGER = "select to_regclass('pgsched.schema_migrations') is not null"


class Migration(NamedTuple):
    """One file of `sql/`."""

    version: int
    name: str
    path: Path

    @property
    def sql(self) -> bytes:
        return self.path.read_bytes()

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql).hexdigest()


def migrations() -> list[Migration]:
    """The files this version brings, beside the package when installed, else in the checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "sql", here.parents[1] / "sql"):
        found = sorted(folder.glob("[0-9][0-9][0-9]_*.sql"))
        if found:
            return [Migration(int(p.name[:3]), p.stem[4:], p) for p in found]
    raise MigrationError("the SQL files of pgsched are missing from this installation")


def applied(connection: psycopg.Connection) -> dict[int, tuple[str, str | None, bool]]:
    """What the ledger says: version to (name, checksum, breaking); empty without a schema."""
    if connection.execute(_LEDGER).fetchone() != (True,):
        return {}
    query = "select version, name, checksum, breaking from pgsched.applied_migrations()"
    return {row[0]: (row[1], row[2], row[3]) for row in connection.execute(query)}


def migrate(dsn: str) -> list[Migration]:
    """
    Bring the schema to this version; returns what was applied by this call.

    Raises:
        MigrationError: A file failed, or the schema is newer in a way this
            version must not touch.
    """
    with psycopg.connect(dsn, autocommit=True, connect_timeout=10) as connection:
        check(connection)
        done = [m for m in migrations() if _apply(connection, m)]
        for migration in migrations():
            connection.execute(
                "update pgsched.schema_migrations set checksum = %s"
                " where version = %s and checksum is null",
                [migration.checksum, migration.version],
            )
    return done


def _apply(connection: psycopg.Connection, migration: Migration) -> bool:
    if migration.version in applied(connection):
        return False
    try:
        connection.execute(migration.sql)
    except psycopg.Error as exc:
        connection.rollback()
        if migration.version in applied(connection):  # somebody else was first
            return False
        where = f"{migration.path.name}: {exc}"
        raise MigrationError(
            f"migration failed, nothing of this file was applied: {where}"
        ) from exc
    return True


def check(connection: psycopg.Connection) -> None:
    """
    Refuse a schema that this version cannot work with.

    Raises:
        MigrationError: It has a breaking migration this version does not know.
    """
    known = {m.version for m in migrations()}
    for version, (name, _, breaking) in applied(connection).items():
        if breaking and version not in known:
            raise MigrationError(
                f"the schema has the breaking migration {version} {name}, which this version of "
                "pgsched does not know: upgrade pgsched"
            )


def pending(connection: psycopg.Connection) -> Iterator[Migration]:
    """What `migrate` would apply."""
    ledger = applied(connection)
    return (m for m in migrations() if m.version not in ledger)


def require_current(dsn: str) -> None:
    """
    Make sure that a worker or an API can work with the schema.

    Raises:
        MigrationError: It is missing, behind, or too new.
    """
    with psycopg.connect(dsn, autocommit=True, connect_timeout=10) as connection:
        check(connection)
        missing = [f"{m.version:03d} {m.name}" for m in pending(connection)]
    if len(missing) == len(migrations()):
        raise MigrationError("the database has no schema pgsched: run `pgsched migrate`")
    if missing:
        raise MigrationError(f"the schema lacks {', '.join(missing)}: run `pgsched migrate`")
