"""
64 clients that enqueue one by one, each in a transaction of its own.

With and without the trigger that wakes the workers, in alternating rounds;
with a worker that only listens, and with one that takes what comes.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import bench
from pgsched.devdb import DevServer, find_bindir

CLIENTS = 64
SECONDS = 4
ROUNDS = 3
ENQUEUE = "select pgsched.schedule_immediate('bench');\n"
SWITCH = "alter table pgsched.scheduled_tasks {} trigger scheduled_tasks_after_insert_wake"


def run(own: DevServer) -> None:
    for state in ("idle", "busy"):
        _compare(own, state)


def _compare(own: DevServer, state: str) -> None:
    dsn = bench.new_database(own, f"enqueue_{state}")
    rates: dict[str, list[float]] = {"enable": [], "disable": []}
    with (
        psycopg.connect(dsn, autocommit=True) as connection,
        bench.receiver() as url,
        bench.workers(dsn, url, 2),
    ):
        if state == "idle":
            connection.execute("select pgsched.pause_queue('default')")
        for _ in range(ROUNDS):
            for switch, found in rates.items():
                connection.execute(SWITCH.format(switch).encode())
                found.append(_enqueue_rate(connection, dsn))
    with_trigger, without = (statistics.median(rates[s]) for s in ("enable", "disable"))
    bench.row(
        f"enqueue, {CLIENTS} clients, 2 workers {state}: with / without trigger",
        f"{with_trigger:,.0f} / {without:,.0f} per s",
        f"ratio {with_trigger / without:.2f} >= 0.80",
    )


def _enqueue_rate(connection: psycopg.Connection[Any], dsn: str) -> float:
    connection.execute("truncate pgsched.scheduled_tasks, pgsched.task_instances")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "enqueue.sql"
        script.write_text(ENQUEUE)
        program = str(find_bindir() / "pgbench")
        load = ["-c", str(CLIENTS), "-j", "2", "-T", str(SECONDS)]
        command = [program, "-n", "-M", "prepared", "-f", str(script), *load, dsn]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"tps = ([\d.]+)", done.stdout)
    assert found, done.stdout
    return float(found[1])
