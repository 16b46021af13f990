"""
Apply the files of `sql/` in order.

A file is one transaction that begins by asking the ledger whether it is its
turn, so this module needs no lock of its own: of twenty migrators that start
together each file is applied by one, and the others see that it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import psycopg

from pgsched import ledger, preflight
from pgsched.blockers import Blocker, Watch
from pgsched.errors import MigrationError
from pgsched.ledger import State
from pgsched.migrations import Migration, migrations
from pgsched.preflight import Say

__all__ = ["Migration", "check", "migrate", "migrations", "pending", "require_current"]

APPLICATION = "pgsched migrate"
# Seconds before a file is tried again that met a lock: others work meanwhile.
PAUSE = 5.0

_IN_THE_WAY = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)


def _quiet(_: str) -> None:
    """Say nothing."""


def migrate(
    dsn: str,
    *,
    files: Sequence[Migration] | None = None,
    retries: int = 0,
    pause: float = PAUSE,
    say: Say = _quiet,
) -> list[Migration]:
    """
    Bring the schema to this version; returns what was applied by this call.

    Args:
        dsn: Where the database is.
        files: In place of those this version brings.
        retries: How often a file is tried again that met another session's lock.
        pause: Seconds before that.
        say: Takes a line for each step; one that begins with `warning:` is a warning.

    Raises:
        MigrationError: A file failed, or could not have its locks; rights are
            missing; or the schema is newer in a way this version must not touch.
    """
    files = migrations() if files is None else files
    with psycopg.connect(
        dsn,
        autocommit=True,
        prepare_threshold=None,
        connect_timeout=10,
        application_name=APPLICATION,
    ) as connection:
        preflight.prepare(connection, say)
        check(connection, files)
        with Watch(dsn, _pid(connection)) as watch:
            run = _Run(connection, watch, retries, pause, say)
            done = [file for file in files if run.apply(file)]
        _compare_checksums(connection, files, say)
    return done


def _pid(connection: psycopg.Connection) -> int:
    """Of the server's process; a pooler in between would name another."""
    (pid,) = connection.execute("select pg_backend_pid()").fetchone() or (0,)
    return int(pid)


class _Run:
    """One migrator at work."""

    def __init__(
        self, connection: psycopg.Connection, watch: Watch, retries: int, pause: float, say: Say
    ) -> None:
        self._connection, self._watch, self._say = connection, watch, say
        self._retries, self._pause = retries, pause

    def apply(self, file: Migration) -> bool:
        """Apply *file*, and tell whether it was this call that did."""
        left = self._retries
        while file.version not in ledger.read(self._connection):
            began = time.monotonic()
            try:
                self._connection.execute(file.sql)
            except psycopg.Error as exc:
                self._connection.rollback()
                if file.version in ledger.read(self._connection):  # somebody else was first
                    return False
                left -= self._wait(file, exc, left)
            else:
                self._record(file)
                self._say(f"applied {file} in {time.monotonic() - began:.2f} s")
                return True
        return False

    def _wait(self, file: Migration, exc: psycopg.Error, left: int) -> bool:
        """Wait if *file* may be tried again, and tell whether that counts; else raise."""
        if not isinstance(exc, _IN_THE_WAY):
            raise MigrationError(
                f"migration failed, nothing of this file was applied: {file.path.name}: {exc}"
            ) from exc
        blockers = self._watch.take()
        if blockers and all(b.application_name == APPLICATION for b in blockers):
            self._say(f"{file} waits for another migrator: {_listed(blockers)}")
            return False
        if not left:
            raise MigrationError(_locked(file, blockers)) from exc
        self._say(f"{file} met a lock of {_listed(blockers)}; again in {self._pause:g} s")
        time.sleep(self._pause)
        return True

    def _record(self, file: Migration) -> None:
        self._connection.execute(
            "update pgsched.schema_migrations set checksum = %s"
            " where version = %s and checksum is null",
            [file.checksum, file.version],
        )


def _listed(blockers: list[Blocker]) -> str:
    return ", ".join(map(str, blockers)) or "another session"


def _locked(file: Migration, blockers: list[Blocker]) -> str:
    return (
        f"migration {file} gave up, and nothing of it was applied: another session holds a lock"
        f" that it needs, and it waits only for its lock_timeout, so that nobody waits long behind"
        f" it. In its way: {_listed(blockers)}. Let that transaction end and try again, or let"
        f" `pgsched migrate --retries 20` find a gap"
    )


def _compare_checksums(
    connection: psycopg.Connection, files: Sequence[Migration], say: Say
) -> None:
    """Note the checksums of what psql has applied, and warn of those that differ."""
    found = ledger.entries(ledger.read(connection), files)
    for entry in found:
        if entry.file and entry.row and entry.state is State.APPLIED and not entry.row.checksum:
            connection.execute(
                "update pgsched.schema_migrations set checksum = %s"
                " where version = %s and checksum is null",
                [entry.file.checksum, entry.version],
            )
    for fault in ledger.faults([e for e in found if e.state is State.DRIFTED]):
        say(f"warning: {fault}")


def check(connection: psycopg.Connection, files: Sequence[Migration] | None = None) -> None:
    """
    Refuse a schema that this version cannot work with.

    Raises:
        MigrationError: It has a breaking migration this version does not know.
    """
    known = {m.version for m in (migrations() if files is None else files)}
    for version, row in ledger.read(connection).items():
        if row.breaking and version not in known:
            raise MigrationError(
                f"the schema has the breaking migration {version} {row.name}, which this version"
                " of pgsched does not know: upgrade pgsched"
            )


def pending(connection: psycopg.Connection) -> Iterator[Migration]:
    """What `migrate` would apply."""
    rows = ledger.read(connection)
    return (m for m in migrations() if m.version not in rows)


def require_current(dsn: str) -> None:
    """
    Make sure that a worker or an API can work with the schema.

    Raises:
        MigrationError: It is missing, behind, or too new.
    """
    with psycopg.connect(
        dsn, autocommit=True, prepare_threshold=None, connect_timeout=10
    ) as connection:
        check(connection)
        missing = [str(m) for m in pending(connection)]
    if len(missing) == len(migrations()):
        raise MigrationError("the database has no schema pgsched: run `pgsched migrate`")
    if missing:
        raise MigrationError(f"the schema lacks {', '.join(missing)}: run `pgsched migrate`")
