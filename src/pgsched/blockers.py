"""Which sessions a connection waits for, seen from another connection."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import NamedTuple, Self

import psycopg

# Seconds between two looks; a lock is waited for at least some of them.
EVERY = 0.1


class Blocker(NamedTuple):
    """A session that holds, or is to get before, a lock another one waits for."""

    pid: int
    application_name: str
    user: str

    def __str__(self) -> str:
        if self.pid == 0:
            return "a prepared transaction, see pg_prepared_xacts"
        return (
            f"pid {self.pid} ({self.application_name or 'without application_name'}, {self.user})"
        )


_QUERY = """
    select b.pid, coalesce(a.application_name, ''), coalesce(a.usename::text, 'unknown')
    from unnest(pg_catalog.pg_blocking_pids(%s)) as b (pid)
    left join pg_catalog.pg_stat_activity as a on a.pid = b.pid
    order by b.pid
"""


class Watch:
    """Remembers who has blocked a session; without a connection to spare it knows nobody."""

    def __init__(self, dsn: str, pid: int) -> None:
        self._dsn, self._pid = dsn, pid
        self._is_over = threading.Event()
        self._seen: list[Blocker] = []
        self._thread = threading.Thread(target=self._look, name="blockers", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def take(self) -> list[Blocker]:
        """Those it saw last, which are forgotten."""
        seen, self._seen = self._seen, []
        return seen

    def _look(self) -> None:
        with (
            suppress(psycopg.Error),
            psycopg.connect(
                self._dsn,
                autocommit=True,
                prepare_threshold=None,
                connect_timeout=5,
                application_name="pgsched",
            ) as connection,
        ):
            while not self._is_over.wait(EVERY):
                rows = connection.execute(_QUERY, [self._pid]).fetchall()
                if rows:
                    self._seen = [Blocker(*row) for row in rows]
