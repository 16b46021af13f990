"""
100,000 schedules due in the same second, one worker: until all have fired, and
what a trickle of other tasks feels of it.

The runs they make wait in a paused queue: their pushes are measured elsewhere.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import psycopg

from benchmarks import bench
from pgsched.devdb import DevServer

COUNT = 100_000
# Due in the next minute that leaves time to write them all.
WRITE = """
    insert into pgsched.schedules
      (definition_id, name, cron_expr, timezone, next_run_at, counts_from, queue)
    select d.id, 's' || i, %(expr)s, 'UTC', %(at)s, %(at)s - interval '1 hour', 'cron'
    from pgsched.task_definitions as d
    cross join generate_series(1, %(count)s) as i
    where d.name = 'bench'
"""
# The time of the transaction that made the last run.
LAST = "select extract(epoch from max(created_at))::float8 from pgsched.tasks where queue = 'cron'"


def run(own: DevServer) -> None:
    dsn = bench.new_database(own, "schedules")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("select pgsched.define_queue('cron'), pgsched.pause_queue('cron')")
        with bench.receiver("--record") as url, bench.workers(dsn, url):
            time.sleep(1)
            idle = _trickle(connection, url, seconds=10)
            at = _write(connection)
            time.sleep(max(at.timestamp() - time.time(), 0))
            busy: list[float] = []
            while not _all_have_fired(connection):
                busy += _trickle(connection, url, seconds=1)
            last = connection.execute(LAST.encode()).fetchone()
    assert last is not None
    took = last[0] - at.timestamp()
    bench.row(
        f"{COUNT:,} schedules due in the same second, until the last has fired",
        f"{took:.1f} s, {COUNT / took:,.0f}/s",
    )
    bench.row(
        "  enqueue -> push meanwhile, p50 / p99",
        f"{bench.percentile(busy, 50):.1f} / {bench.percentile(busy, 99):.1f} ms",
        f"idle {bench.percentile(idle, 50):.1f} / {bench.percentile(idle, 99):.1f} ms",
    )


def _trickle(connection: psycopg.Connection[Any], url: str, seconds: float) -> list[float]:
    """Enqueue a task every 20 ms; how long each took until its push arrived, in ms."""
    began: dict[str, float] = {}
    end = time.time() + seconds
    while (at := time.time()) < end:
        row = connection.execute("select pgsched.schedule_immediate('bench')::text").fetchone()
        assert row is not None
        began[row[0]] = at
        time.sleep(0.02)
    bench.wait_until(
        connection,
        "select not exists (select from pgsched.tasks"
        " where queue = 'default' and dispatched_at is null)",
    )
    arrived = {key.split(":")[0]: at for key, at in json.loads(bench.get(f"{url}/times"))}
    return [(arrived[task] - at) * 1000 for task, at in began.items()]


def _write(connection: psycopg.Connection[Any]) -> datetime:
    """Schedules that want nothing computed before they are due; when that is."""
    now = time.time()
    at = datetime.fromtimestamp((now + 60) // 60 * 60 + 60, UTC)
    expr = f"{at.minute} {at.hour} * * *"
    connection.execute(WRITE, {"expr": expr, "at": at, "count": COUNT})
    connection.execute("vacuum analyze pgsched.schedules")
    return at


def _all_have_fired(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute("select count(*) = %s from pgsched.schedule_fires", [COUNT]).fetchone()
    return bool(row and row[0])
