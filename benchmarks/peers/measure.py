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
    """
    Enqueue *count* jobs, then let workers finish them.

    The clock starts once each worker has done its first job, so that no start
    of a process counts, and ends when the tables say that all is done.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        before = cost(connection)
        enqueued = peer.run("bulk", dsn, count=count)
        analyze(connection)
        posted = posts(url)
        with peer.workers(dsn, workers, kind=kind, url=url, batch=batch) as crew:

            def handled() -> int:
                # What POSTs is counted by the receiver, for all alike; it counts a batch as one.
                return batch * (posts(url) - posted) if url else sum(one.count for one in crew)

            def begun() -> bool:
                return handled() > count / 2 or (handled() > 0 if url else all_begun(crew))

            wait_until(begun)
            started, done = time.perf_counter(), handled()
            wait_until(lambda: handled() >= count)
            wait_until(lambda: unfinished(peer, connection) == 0)
            rate = (count - done) / (time.perf_counter() - started)
        after = cost(connection)
    each = [(b - a) / count for a, b in zip(before, after, strict=True)]
    return Drained(rate, count / enqueued["seconds"], *each)


def posts(url: str | None) -> int:
    """How many POSTs a receiver has counted so far."""
    return int(bench.get(f"{url}/count")) if url else 0


def all_begun(crew: list[Working]) -> bool:
    return all(one.count for one in crew)


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
