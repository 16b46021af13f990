"""From enqueue, or from the time a task is due, until its push arrives; on an idle system."""

from __future__ import annotations

import json
import time
from datetime import timedelta

import psycopg

from benchmarks import bench
from pgsched.devdb import DevServer

COUNT = 200


def run(own: DevServer) -> None:
    dsn = bench.new_database(own, "latency")
    with bench.receiver("--record") as url, bench.workers(dsn, url):
        time.sleep(1)
        enqueued = _immediate(dsn)
        due = _delayed(dsn)
        arrived = {key.split(":")[0]: at for key, at in json.loads(bench.get(f"{url}/times"))}
    now = [(arrived[task] - at) * 1000 for task, at in enqueued.items()]
    late = [(arrived[task] - at) * 1000 for task, at in due.items()]
    bench.row(
        "enqueue -> push, idle, p50 / p99",
        f"{bench.percentile(now, 50):.1f} / {bench.percentile(now, 99):.1f} ms",
        "<= 5 / 25 ms",
    )
    bench.row(
        "a delayed task starts after its time, p50 / p99",
        f"{bench.percentile(late, 50):.1f} / {bench.percentile(late, 99):.1f} ms",
        "<= 20 ms (p99)",
    )


def _immediate(dsn: str) -> dict[str, float]:
    began = {}
    with psycopg.connect(dsn, autocommit=True) as connection:
        for n in range(COUNT):
            at = time.time()
            row = connection.execute("select pgsched.schedule_immediate('bench')::text").fetchone()
            assert row
            began[row[0]] = at
            time.sleep(0.02 + 0.001 * (n % 20))  # idle between, and in no rhythm
    return began


def _delayed(dsn: str) -> dict[str, float]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for n in range(COUNT):
            delay = timedelta(seconds=1 + n * 0.0137)
            connection.execute("select pgsched.schedule_delayed('bench', %s)", [delay])
        rows = connection.execute(
            "select id::text, extract(epoch from scheduled_time)::float8"
            " from pgsched.tasks where schedule_type = 'DELAYED'"
        )
        due: dict[str, float] = dict(rows.fetchall())
        bench.wait_until(
            connection,
            "select not exists (select from pgsched.tasks"
            " where schedule_type = 'DELAYED' and dispatched_at is null)",
        )
    return due
