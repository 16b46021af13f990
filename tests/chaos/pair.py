"""A primary and its standby on this machine; what is committed is in both."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from pgsched import migrator
from pgsched.devbin import Programs, find_bindir
from pgsched.devdb import LOCK, DevServer
from tests.asked import ROOT
from tests.roles import make_logins
from tests.waiting import eventually

SETTINGS: dict[str, str | int] = {
    "fsync": "off",  # processes are killed, and no machine
    "synchronous_commit": "on",
    "autovacuum": "off",
    "shared_buffers": "64MB",
    "wal_keep_size": "64MB",
}
# Where it is asked for a primary, as it is done from Postgres 14 on.
SESSIONS = """
    select count(*) from pg_stat_activity
    where backend_type = 'client backend' and application_name like 'pgsched%'
"""


class Pair:
    """`primary` and `standby` are what they were in the beginning, whatever they are now."""

    def __init__(self, root: Path) -> None:
        self.primary = DevServer(root.with_name(f"{root.name}-primary"))
        self.standby = DevServer(root.with_name(f"{root.name}-standby"))

    @property
    def dsn(self) -> str:
        """Whichever takes writes."""
        servers = self.primary, self.standby
        return make_conninfo(
            host=",".join(str(server.socket_dir) for server in servers),
            port="5432,5432",
            user="postgres",
            dbname="postgres",
            target_session_attrs="read-write",
        )

    def start(self) -> None:
        """Both; from then on a commit waits until the standby has it."""
        self.primary.start(**SETTINGS)
        programs = Programs(find_bindir())
        programs.claim(self.standby.root, LOCK)
        source = self.primary.dsn()
        copy = ["-D", str(self.standby.data), "-d", source, "-R", "-X", "stream", "-c", "fast"]
        programs.run("pg_basebackup", *copy)
        self.standby.start(**SETTINGS)
        execute(self.primary, "alter system set synchronous_standby_names = '*'")
        execute(self.primary, "select pg_reload_conf()")
        query = "select count(*) from pg_stat_replication where sync_state = 'sync'"
        eventually(lambda: value(self.primary, query) == 1)

    def kill_primary(self, number: int) -> None:
        """End its first process by a signal, and wait until none of it is left."""
        pid = int((self.primary.data / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, number)
        eventually(lambda: not self.primary.running())

    def promote(self) -> None:
        """Make the standby the primary."""
        execute(self.standby, "select pg_promote()")
        eventually(lambda: value(self.standby, "select pg_is_in_recovery()") is False)

    def return_as_standby(self) -> None:
        """Start the one that was killed, which takes no writes now."""
        (self.primary.data / "standby.signal").touch()
        self.primary.start(**SETTINGS)
        assert value(self.primary, "select pg_is_in_recovery()") is True


@contextmanager
def pair() -> Iterator[Pair]:
    """A pair with the schema and its logins."""
    it = Pair(Path(f"{os.environ[ROOT]}-{secrets.token_hex(3)}"))
    try:
        it.start()
        migrator.migrate(it.primary.dsn())
        with psycopg.connect(it.primary.dsn(), autocommit=True) as connection:
            make_logins(connection)
        yield it
    finally:
        it.primary.remove()
        it.standby.remove()


def execute(server: DevServer, query: str) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(query.encode())


def value(server: DevServer, query: str) -> object:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
        return row[0] if row else None


KILLS = {"at once": signal.SIGQUIT, "without a word": signal.SIGKILL}
