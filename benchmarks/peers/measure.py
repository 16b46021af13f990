"""One measurement of one peer in one database."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import psycopg

from benchmarks import bench
from benchmarks.peers.peer import Peer, Working

PATIENCE = 120.0
Connection = psycopg.Connection[Any]


class Drained(NamedTuple):
    """How fast jobs were done; and what each cost the database, from enqueue to end."""

    per_second: float
    enqueued_per_second: float
    wal_bytes: float
    commits: float
    dead_rows: float


class Cost(NamedTuple):
    """What the server has counted so far."""

    wal: int
    commits: int
    dead: int


class Tally:
    """
    Counts the jobs that workers have handled.

    Workers tell; but what POSTs is counted by the receiver, for all peers alike,
    and a batch is one there.  To be made before the workers start.
    """

    def __init__(self, url: str | None = None, batch: int = 1) -> None:
        self._url = url
        self._batch = batch
        self._before = self._posts()

    def _posts(self) -> int:
        return int(bench.get(f"{self._url}/count")) if self._url else 0

    def handled(self, crew: list[Working]) -> int:
        """How many, so far."""
        if self._url:
            return self._batch * (self._posts() - self._before)
        return sum(one.count for one in crew)

    def has_begun(self, crew: list[Working]) -> bool:
        """Whether each of them has handled one."""
        return self.handled(crew) > 0 if self._url else all(one.count for one in crew)


def drain(
    peer: Peer,
    dsn: str,
    count: int,
    *,
    workers: int = 1,
    kind: str = "noop",
    url: str | None = None,
    batch: int = 1,
) -> Drained:
    """Enqueue *count* jobs, then let workers finish them."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        before = cost(connection)
        enqueued = peer.run("bulk", dsn, count=count)
        analyze(connection)
        tally = Tally(url, batch)
        with peer.workers(dsn, workers, kind=kind, url=url, batch=batch) as crew:
            left, seconds = finish(peer, connection, count, crew, tally)
        after = cost(connection)
    each = [(b - a) / count for a, b in zip(before, after, strict=True)]
    return Drained(left / seconds, count / enqueued["seconds"], *each)


def finish(
    peer: Peer,
    connection: Connection,
    count: int,
    crew: list[Working],
    tally: Tally,
    on_start: Callable[[], object] = lambda: None,
) -> tuple[int, float]:
    """
    Wait until *count* jobs are done: how many after the clock had started, and in how many seconds.

    The clock starts once each worker has done its first job, so that no start
    of a process counts, and ends when the tables say that all is done.
    """
    wait_until(lambda: tally.has_begun(crew) or tally.handled(crew) > count / 2)
    on_start()
    started, done = time.perf_counter(), tally.handled(crew)
    wait_until(lambda: tally.handled(crew) >= count)
    wait_until(lambda: unfinished(peer, connection) == 0)
    return count - done, time.perf_counter() - started


def unfinished(peer: Peer, connection: Connection) -> int:
    row = connection.execute(peer.unfinished.encode()).fetchone()
    assert row is not None
    return int(row[0])


def analyze(connection: Connection) -> None:
    """What autovacuum would come to do a little later."""
    connection.execute("vacuum (analyze, skip_locked)")


def cost(connection: Connection) -> Cost:
    connection.execute("select pg_stat_clear_snapshot()")
    row = connection.execute("""
        select
          pg_current_wal_insert_lsn() - '0/0',
          (select xact_commit from pg_stat_database where datname = current_database()),
          (select sum(n_tup_upd + n_tup_del) from pg_stat_user_tables)
    """).fetchone()
    assert row is not None
    return Cost(*(int(value or 0) for value in row))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so within {PATIENCE:g} s")
        time.sleep(0.01)


def enqueue(peer: Peer, dsn: str, clients: int, seconds: float) -> float:
    """Jobs enqueued per second, one by one, while one worker takes what comes."""
    with peer.workers(dsn, 1, kind="noop") as crew:
        peer.run("enqueue", dsn, clients=1, seconds=0.1)
        wait_until(lambda: crew[0].count > 0)
        told = peer.run("enqueue", dsn, clients=clients, seconds=seconds)
    return float(told["count"] / told["seconds"])


class Waited(NamedTuple):
    """Milliseconds from just before the enqueue to the start of the job."""

    median: float
    p99: float


def latency(peer: Peer, dsn: str, rate: float, seconds: float) -> Waited:
    """How long jobs wait for their start, at *rate* a second."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        with peer.workers(dsn, 1, kind="stamp") as crew:
            peer.run("trickle", dsn, rate=20, seconds=1)  # all have connected
            wait_until(lambda: crew[0].count > 0)
            wait_until(lambda: unfinished(peer, connection) == 0)
            warm = crew[0].count
            peer.run("trickle", dsn, rate=rate, seconds=seconds)
            wait_until(lambda: unfinished(peer, connection) == 0)
        waited = [1000 * seconds for seconds in crew[0].waited[warm:]]
    return Waited(statistics.median(waited), bench.percentile(waited, 99))
