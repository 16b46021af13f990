"""
What a plan of capacity wants to know: what there is to pay for workers that have nothing to
do, or little, and how much room a task takes while it waits and once it is in the record.
"""

from __future__ import annotations

import time
from typing import Any

import psycopg

from benchmarks import bench
from benchmarks.drain import Drainer
from benchmarks.peers.peer import PGSCHED
from pgsched.devdb import DevServer

SECONDS = 15.0
WORKERS = (1, 8)
RATE = 100
TASKS = 200_000

CALLS = "select xact_commit from pg_stat_database where datname = current_database()"
SIZE = """
    select sum(pg_total_relation_size(oid)) from pg_class
    where relnamespace = 'pgsched'::regnamespace and relkind = 'r' and relname ^@ %s
"""


def run(own: DevServer) -> None:
    for count in WORKERS:
        dsn = bench.new_database(own, "busy")
        for rate in (0, RATE):
            _watch(dsn, count, rate)
    _room(bench.new_database(own, "room"))


def _watch(dsn: str, count: int, rate: int) -> None:
    """*rate*: tasks a second, for all the workers together."""
    with (
        PGSCHED.workers(dsn, count, kind="noop") as crew,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        bench.wait_until(connection, f"select count(*) >= {count} from pgsched.workers")
        time.sleep(2)  # whatever is done once is done
        pids, sessions = [one.pid for one in crew], bench.sessions(connection)
        before, began = _spent(connection, pids, sessions), time.perf_counter()
        if rate:
            PGSCHED.run("trickle", dsn, rate=rate, seconds=SECONDS)
        else:
            time.sleep(SECONDS)
        seconds = (time.perf_counter() - began) * count
        spent = zip(before, _spent(connection, pids, sessions), strict=True)
    calls, worker, postgres = ((after - at_first) / seconds for at_first, after in spent)
    what = f"at {rate} tasks/s" if rate else "idle"
    bench.row(
        f"each of {count} workers, {what}: calls of the database",
        f"{calls - rate / count:.0f}/s, {len(sessions) / count:.0f} sessions",
    )
    bench.row(
        f"each of {count} workers, {what}: CPU of the worker / of Postgres",
        f"{1000 * worker:.0f} / {1000 * postgres:.0f} ms/s",
    )


def _spent(
    connection: psycopg.Connection[Any], workers: list[int], sessions: list[int]
) -> tuple[float, float, float]:
    connection.execute("select pg_stat_clear_snapshot()")
    row = connection.execute(CALLS).fetchone()
    assert row is not None
    return float(row[0]), bench.cpu_of(workers), bench.cpu_of(sessions)


def _room(dsn: str) -> None:
    drainer = Drainer(dsn)
    bench.fill(drainer.connection, TASKS)
    for what, table in (("unfinished", "scheduled_tasks"), ("finished", "task_instances")):
        row = drainer.connection.execute(SIZE, [table]).fetchone()
        assert row is not None
        bench.row(f"a task that is {what}, with its indexes", f"{row[0] / TASKS:.0f} bytes")
        if what == "unfinished":
            drainer.drain(TASKS)
