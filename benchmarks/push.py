"""One worker process: claim, POST to a loopback receiver, settle."""

from __future__ import annotations

import time

import psycopg

from benchmarks import bench
from pgsched.devdb import DevServer

COUNT = 30_000
DONE = """
    select not exists (
      select from pgsched.scheduled_tasks where status in ('PENDING', 'SCHEDULED')
    )
"""


def run(own: DevServer) -> None:
    rate = push_rate(own)
    bench.row("claim -> POST -> accepted, one worker process", f"{rate:,.0f} tasks/s", ">= 5,000")


def push_rate(own: DevServer, count: int = COUNT, batch_size: int = 1) -> float:
    """Tasks per second from the start of the worker's claims to the last settle."""
    dsn = bench.new_database(own, "push")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "select pgsched.define_external_system('default', p_batch_size => %s)", [batch_size]
        )
        connection.execute("select pgsched.pause_queue('default')")
        bench.fill(connection, count)
        connection.execute("vacuum analyze pgsched.scheduled_tasks")
        with bench.receiver() as url, bench.workers(dsn, url):
            # Not by resume_queue(), after which the rate ramps up.
            connection.execute("update pgsched.queues set is_paused = false")
            started = time.perf_counter()
            bench.wait_until(connection, DONE)
            return count / (time.perf_counter() - started)
