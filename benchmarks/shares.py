"""
    python -m benchmarks.shares

Where the time of a task goes: CPU of the worker process, of the sessions of
Postgres and of the receiver, with a handler that does nothing and with a POST.
What a POST costs more than the handler is the share of HTTP.
"""

from __future__ import annotations

import statistics
import time
from typing import NamedTuple

import psycopg

from benchmarks import bench
from benchmarks.peers import measure
from benchmarks.peers.peer import PGSCHED
from pgsched.devdb import DevServer

COUNT = 50_000
ROUNDS = 3


class Share(NamedTuple):
    """Microseconds a task."""

    wall: float
    worker: float
    postgres: float


def run(own: DevServer) -> None:
    with bench.receiver("--status", "200") as url:
        for what, kind in (("a handler that does nothing", "noop"), ("a POST", "post")):
            found = [_share(own, kind, url if kind == "post" else None) for _ in range(ROUNDS)]
            wall, worker, postgres = (statistics.median(f) for f in zip(*found, strict=True))
            bench.row(
                f"{what}: CPU of worker / Postgres, of {wall:.1f} us a task",
                f"{worker:.1f} / {postgres:.1f} us",
            )


def _share(own: DevServer, kind: str, url: str | None) -> Share:
    dsn = bench.new_database(own, "shares")
    with psycopg.connect(dsn, autocommit=True) as connection:
        PGSCHED.run("bulk", dsn, count=COUNT)
        measure.analyze(connection)
        with PGSCHED.workers(dsn, 1, kind=kind, url=url) as (worker,):
            measure.wait_until(lambda: measure.unfinished(PGSCHED, connection) < COUNT)
            began, cpu = (
                time.perf_counter(),
                (bench.cpu_of([worker.pid]), bench.cpu_of(bench.sessions(connection))),
            )
            left = measure.unfinished(PGSCHED, connection)
            measure.wait_until(lambda: measure.unfinished(PGSCHED, connection) == 0)
            wall = time.perf_counter() - began
            after = (bench.cpu_of([worker.pid]), bench.cpu_of(bench.sessions(connection)))
    each = [1e6 * (b - a) / left for a, b in zip(cpu, after, strict=True)]
    return Share(1e6 * wall / left, *each)


def main() -> None:
    with bench.server() as own:
        run(own)


if __name__ == "__main__":
    main()
