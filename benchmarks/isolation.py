"""
A black hole that holds half of all tasks, and the latency of the other half.

It takes connections and requests and never answers.  Tasks come at a steady
rate, the same for the good system with and without the other one; in turn, so
that noise meets both alike.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg

from benchmarks import bench
from pgsched.devdb import DevServer

RATE = 200
SECONDS = 10
ROUNDS = 3


def run(own: DevServer) -> None:
    found: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(ROUNDS):
        for has_hole, latencies in found.items():
            latencies += _latencies(own, has_hole)
    (a50, a99), (b50, b99) = (
        (bench.percentile(found[h], 50), bench.percentile(found[h], 99)) for h in (False, True)
    )
    bench.row(f"enqueue -> push at {RATE}/s, p50 / p99", f"{a50 * 1000:.1f} / {a99 * 1000:.1f} ms")
    bench.row(
        "  with as many tasks for a black hole, p50 / p99",
        f"{b50 * 1000:.1f} / {b99 * 1000:.1f} ms",
        f"ratio of p99 {b99 / a99:.2f} <= 1.3",
    )


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """A server that reads, and says nothing; its base URL."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as server:
        kept: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    kept.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for connection in kept:
                connection.close()


def _latencies(own: DevServer, has_hole: bool) -> list[float]:
    dsn = bench.new_database(own, "isolation")
    with psycopg.connect(dsn, autocommit=True) as connection, black_hole() as hole:
        connection.execute(
            "select pgsched.define_external_system('hole', %s, p_request_timeout => '2 s')", [hole]
        )
        connection.execute("select pgsched.define_queue('hole', 'hole')")
        # That the hole takes nothing is no news here.
        with bench.receiver("--record") as url, bench.workers(dsn, url, PGSCHED_LOG_LEVEL="ERROR"):
            time.sleep(1)
            began = _trickle(connection, ("default", "hole") if has_hole else ("default",))
            time.sleep(1)
            arrived = {key.split(":")[0]: at for key, at in json.loads(bench.get(f"{url}/times"))}
    return [arrived[task] - at for task, at in began.items()]


def _trickle(connection: psycopg.Connection[Any], queues: tuple[str, ...]) -> dict[str, float]:
    """The tasks of the default queue, and when each was begun."""
    began: dict[str, float] = {}
    start = time.time()
    for n in range(RATE * SECONDS):
        time.sleep(max(start + n / RATE - time.time(), 0))
        for queue in queues:
            at = time.time()
            query = "select pgsched.schedule_immediate('bench', p_queue => %s)::text"
            row = connection.execute(query, [queue]).fetchone()
            if queue == "default" and row:
                began[row[0]] = at
    return began
