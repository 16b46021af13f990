"""The ledger of migrations: what it says, and how that differs from the files here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

import psycopg
from psycopg.rows import class_row

from pgsched.migrations import Migration


class Row(NamedTuple):
    """A row of the ledger."""

    version: int
    name: str
    checksum: str | None
    breaking: bool
    applied_at: datetime
    applied_by: str


class State(StrEnum):
    """What became of a migration."""

    APPLIED = "applied"
    PENDING = "pending"
    # It was applied from a file with other bytes than the one here.
    DRIFTED = "drifted"
    # This version does not know it.
    NEWER = "newer"


class Entry(NamedTuple):
    """A migration that is here, or in the ledger, or both."""

    version: int
    name: str
    state: State
    file: Migration | None
    row: Row | None

    def __str__(self) -> str:
        return f"{self.version:03d} {self.name}"

    @property
    def is_breaking(self) -> bool:
        return bool(self.row and self.row.breaking)


# Who may read no table may call a function in its place.
_SOURCES = """
    select
      has_schema_privilege(c.relnamespace, 'usage') and has_table_privilege(c.oid, 'select'),
      exists (
        select
        from pg_catalog.pg_proc as p
        where p.pronamespace = c.relnamespace
          and p.proname = 'applied_migrations'
          and p.pronargs = 0
      )
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = 'pgsched'
      and c.relname = 'schema_migrations'
"""
_ROWS = """
    select m.version, m.name, m.checksum, m.breaking, m.applied_at, m.applied_by
    from {source} as m
    order by m.version
"""


def read(connection: psycopg.Connection) -> dict[int, Row]:
    """
    What the ledger says, by version; empty without a schema.

    Raises:
        psycopg.errors.InsufficientPrivilege: This role may not read it.
    """
    found = connection.execute(_SOURCES).fetchone()
    if found is None:
        return {}
    may_select, has_function = found
    by_function = has_function and not may_select
    source = "pgsched.applied_migrations()" if by_function else "pgsched.schema_migrations"
    with connection.cursor(row_factory=class_row(Row)) as cursor:
        cursor.execute(_ROWS.format(source=source).encode())
        return {row.version: row for row in cursor}


def entries(rows: dict[int, Row], files: Sequence[Migration]) -> list[Entry]:
    """Every migration, in order."""
    here = {file.version: file for file in files}
    return [
        _entry(version, here.get(version), rows.get(version))
        for version in sorted(here.keys() | rows.keys())
    ]


def _entry(version: int, file: Migration | None, row: Row | None) -> Entry:
    if row is None:
        return Entry(version, file.name if file else "", State.PENDING, file, row)
    if file is None:
        return Entry(version, row.name, State.NEWER, file, row)
    is_other = row.name != file.name or row.checksum not in (None, file.checksum)
    return Entry(version, row.name, State.DRIFTED if is_other else State.APPLIED, file, row)


def faults(found: Sequence[Entry]) -> Iterator[str]:
    """What is wrong, a line each."""
    for entry in found:
        match entry.state:
            case State.PENDING:
                yield f"migration {entry} is pending: run `pgsched migrate`"
            case State.DRIFTED:
                yield f"migration {entry} {_other(entry)}"
            case State.NEWER if entry.is_breaking:
                yield f"migration {entry} is breaking, and newer than this version: upgrade pgsched"


def _other(entry: Entry) -> str:
    if entry.file is None or entry.row is None:
        return ""
    if entry.row.name != entry.file.name:
        return f"is {entry.file.path.name} here: another file was applied"
    return (
        f"was applied from a file with sha256 {entry.row.checksum},"
        f" and {entry.file.path.name} here has {entry.file.checksum}"
    )
