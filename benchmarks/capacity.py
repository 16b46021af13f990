"""
What a plan of capacity wants to know: what is there to pay for workers that have nothing to
do, and how much room a task takes while it waits and once it is in the record.
"""

from __future__ import annotations

import time
from typing import Any

import psycopg

from benchmarks import bench
from benchmarks.drain import Drainer
from pgsched.devdb import DevServer

SECONDS = 20.0
WORKERS = (1, 8)
TASKS = 200_000

CALLS = "select xact_commit from pg_stat_database where datname = current_database()"
SIZE = """
    select sum(pg_total_relation_size(oid)) from pg_class
    where relnamespace = 'pgsched'::regnamespace and relkind = 'r' and relname ^@ %s
"""


def run(own: DevServer) -> None:
    for count in WORKERS:
        _idle(bench.new_database(own, "idle"), count)
    _room(bench.new_database(own, "room"))


def _idle(dsn: str, count: int) -> None:
    with (
        bench.workers(dsn, "http://127.0.0.1:9", count) as pids,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        time.sleep(2)  # whatever is done once is done
        held = bench.sessions(connection)
        before, began = _spent(connection, pids), time.perf_counter()
        time.sleep(SECONDS)
        spent = zip(before, _spent(connection, pids), strict=True)
        seconds = (time.perf_counter() - began) * count
    calls, worker, postgres = ((after - at_first) / seconds for at_first, after in spent)
    bench.row(
        f"each of {count} idle workers: calls of the database",
        f"{calls:.1f}/s, {len(held) / count:.0f} sessions",
    )
    bench.row(
        f"each of {count} idle workers: CPU of the worker / of Postgres",
        f"{1000 * worker:.0f} / {1000 * postgres:.0f} ms/s",
    )


def _spent(connection: psycopg.Connection[Any], pids: list[int]) -> tuple[float, float, float]:
    row = connection.execute(CALLS).fetchone()
    assert row is not None
    return float(row[0]), bench.cpu_of(pids), bench.cpu_of(bench.sessions(connection))


def _room(dsn: str) -> None:
    drainer = Drainer(dsn)
    bench.fill(drainer.connection, TASKS)
    for what, table in (("unfinished", "scheduled_tasks"), ("finished", "task_instances")):
        row = drainer.connection.execute(SIZE, [table]).fetchone()
        assert row is not None
        bench.row(f"a task that is {what}, with its indexes", f"{row[0] / TASKS:.0f} bytes")
        if what == "unfinished":
            drainer.drain(TASKS)
