"""
Claim and settle, on one connection, in batches of 100.

The same drain in an otherwise empty database, with a snapshot held open after
200,000 finished tasks, and behind 1,000,000 future tasks over ten priorities.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import orjson
import psycopg

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


class _Text(psycopg.adapt.Loader):
    def load(self, data: Any) -> str:
        return str(data, "utf-8")


class Drainer:
    """One worker on one connection: as a real one claims, with cursors, and settles as SUCCESS."""

    def __init__(self, dsn: str) -> None:
        self.connection = psycopg.connect(dsn, autocommit=True)
        for kind in ("uuid", "jsonb"):
            self.connection.adapters.register_loader(kind, _Text)
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
            self.cursors.sweep(QUEUES, BATCH, horizon, [])
            return 0
        reports = [{"task_id": t.id, "attempt": t.attempt, "status": "SUCCESS"} for t in tasks]
        self.connection.execute(SETTLE, [orjson.dumps(reports).decode()]).fetchall()
        return len(tasks)


def run(own: DevServer) -> None:
    plain = _plain(own)
    bench.row(
        "claim + settle, batches of 100, one connection", f"{plain:,.0f} tasks/s", ">= 20,000"
    )
    held = _held_snapshot(own)
    bench.row(
        "  the same, a snapshot held open, 200,000 finished",
        f"{held:,.0f} tasks/s",
        f"ratio {held / plain:.2f} >= 0.90",
    )
    future = _future(own)
    bench.row(
        "  the same, behind 1,000,000 future tasks, 10 priorities",
        f"{future:,.0f} tasks/s",
        f"ratio {future / plain:.2f} >= 0.90",
    )


def _plain(own: DevServer, count: int = 50_000) -> float:
    drainer = Drainer(bench.new_database(own, "plain"))
    bench.fill(drainer.connection, count)
    drainer.connection.execute("checkpoint")
    return drainer.drain(count)


def _held_snapshot(own: DevServer) -> float:
    dsn = bench.new_database(own, "held")
    drainer = Drainer(dsn)
    with psycopg.connect(dsn) as stranger:
        stranger.execute("set transaction isolation level repeatable read")
        stranger.execute("select count(*) from pgsched.scheduled_tasks")
        bench.fill(drainer.connection, 200_000)
        drainer.drain(200_000)
        bench.fill(drainer.connection, 50_000)
        drainer.connection.execute("checkpoint")
        return drainer.drain(50_000)


def _future(own: DevServer) -> float:
    drainer = Drainer(bench.new_database(own, "future"))
    for priority in range(10):
        bench.fill(drainer.connection, 100_000, due_in="1 day", priority=priority)
    bench.fill(drainer.connection, 50_000)
    drainer.connection.execute("vacuum analyze pgsched.scheduled_tasks")
    drainer.connection.execute("checkpoint")
    return drainer.drain(50_000)
