"""The memory of one worker over 200,000 tasks of 4 KiB each."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg

from benchmarks import bench, push
from pgsched.devdb import DevServer

COUNT = 200_000
PORTION = 20_000
PAYLOAD = """
    update pgsched.scheduled_tasks set input_params = jsonb_build_object('x', repeat('x', 4080))
"""


def run(own: DevServer) -> None:
    dsn = bench.new_database(own, "memory")
    sizes: list[int] = []
    with (
        psycopg.connect(dsn, autocommit=True) as connection,
        bench.receiver() as url,
        bench.workers(dsn, url) as (pid,),
    ):
        for _ in range(COUNT // PORTION):
            with connection.transaction():
                bench.fill(connection, PORTION)
                connection.execute(PAYLOAD)
            bench.wait_until(connection, push.DONE)
            connection.execute("truncate pgsched.scheduled_tasks")
            sizes.append(_resident(pid))
        peak = _peak(pid)
    bench.row(
        f"resident memory of a worker, {COUNT:,} tasks of 4 KiB: after a tenth / all / peak",
        f"{sizes[0]} / {sizes[-1]} / {peak} MB",
        "<= 120 MB, flat",
    )


def _resident(pid: int) -> int:
    return _megabytes(pid, "VmRSS")


def _peak(pid: int) -> int:
    return _megabytes(pid, "VmHWM")


def _megabytes(pid: int, name: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found
    return int(found[1]) // 1024
