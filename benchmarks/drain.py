"""
Claim and settle, on one connection, in batches of 100.

The same drain in an otherwise empty database, with a snapshot held open after
200,000 finished tasks, and behind 1,000,000 future tasks over ten priorities.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import orjson
import psycopg
from psycopg.types.string import TextLoader

from benchmarks import bench
from pgsched.cursors import Cursors
from pgsched.devdb import DevServer
from pgsched.models import ClaimedTask

BATCH = 100
QUEUES = ["default"]
CLAIM = """
    select h.horizon, c.*
    from (select pgsched.now() - interval '100 milliseconds' as horizon) as h
    left join lateral pgsched.claim_due_tasks(%s, %s, %s, %s) as c on true
"""
SETTLE = "select a.code from pgsched.report_statuses(%s) as a"


class Drainer:
    """One worker on one connection: as a real one claims, with cursors, and settles as SUCCESS."""

    def __init__(self, dsn: str) -> None:
        self.connection = psycopg.connect(dsn, autocommit=True)
        for kind in ("uuid", "jsonb"):
            self.connection.adapters.register_loader(kind, TextLoader)
        self.cursors = Cursors()
        self.worker = self._value("select pgsched.register_worker('bench', 1, '0')")
        self.beat = time.monotonic()

    def _value(self, query: str, *given: object) -> Any:
        row = self.connection.execute(query.encode(), given).fetchone()
        return row[0] if row else None

    def drain(self, count: int) -> float:
        """Finish *count* tasks; tasks per second."""
        started, done = time.perf_counter(), 0
        while done < count:
            found = self._round()
            assert found, f"only {done} of {count} were found"
            done += found
        return done / (time.perf_counter() - started)

    def _round(self) -> int:
        if time.monotonic() - self.beat > 5:
            self._value("select pgsched.heartbeat(%s)", self.worker)
            self.beat = time.monotonic()
        given = orjson.dumps(self.cursors.of(QUEUES)).decode()
        rows = self.connection.execute(CLAIM, [self.worker, BATCH, QUEUES, given]).fetchall()
        horizon: datetime = rows[0][0]
        tasks = [ClaimedTask._make(r[1:]) for r in rows if r[1] is not None]
        self.cursors.advance(QUEUES, BATCH, horizon, tasks, epoch=self.cursors.epoch)
        if not tasks:
            self.cursors.sweep(QUEUES, BATCH, horizon, [], since={})
            return 0
        reports = [{"task_id": t.id, "attempt": t.attempt, "status": "SUCCESS"} for t in tasks]
        self.connection.execute(SETTLE, [orjson.dumps(reports).decode()]).fetchall()
        return len(tasks)


ROUNDS = 7
PORTION = 10_000


def run(own: DevServer) -> None:
    """All three in turn, round by round, so that noise meets them alike; medians."""
    with _plain(own) as plain, _held_snapshot(own) as held, _future(own) as future:
        rates: dict[Drainer, list[float]] = {plain: [], held: [], future: []}
        for _ in range(ROUNDS):
            for drainer, found in rates.items():
                bench.fill(drainer.connection, PORTION)
                found.append(drainer.drain(PORTION))
    best = statistics.median(rates[plain])
    for what, drainer, bar in (
        ("claim + settle, batches of 100, one connection", plain, ">= 20,000"),
        ("  with a snapshot held open, after 200,000 finished", held, ">= 0.90"),
        ("  behind 1,000,000 future tasks of ten priorities", future, ">= 0.90"),
    ):
        rate = statistics.median(rates[drainer])
        ratio = "" if drainer is plain else f"ratio {rate / best:.2f} "
        bench.row(what, f"{rate:,.0f} tasks/s", ratio + bar)


@contextlib.contextmanager
def _plain(own: DevServer) -> Iterator[Drainer]:
    drainer = Drainer(bench.new_database(own, "plain"))
    bench.fill(drainer.connection, PORTION)
    drainer.drain(PORTION)
    yield drainer


@contextlib.contextmanager
def _held_snapshot(own: DevServer) -> Iterator[Drainer]:
    dsn = bench.new_database(own, "held")
    drainer = Drainer(dsn)
    with psycopg.connect(dsn) as stranger:
        stranger.execute("set transaction isolation level repeatable read")
        stranger.execute("select count(*) from pgsched.scheduled_tasks")
        bench.fill(drainer.connection, 200_000)
        drainer.drain(200_000)
        yield drainer


@contextlib.contextmanager
def _future(own: DevServer) -> Iterator[Drainer]:
    drainer = Drainer(bench.new_database(own, "future"))
    for priority in range(10):
        bench.fill(drainer.connection, 100_000, due_in="1 day", priority=priority)
    drainer.connection.execute("vacuum analyze pgsched.scheduled_tasks")
    yield drainer
