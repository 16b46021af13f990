"""One worker process whose external system takes batches of 50: claim, POST, settle."""

from __future__ import annotations

from benchmarks import bench, push
from pgsched.devdb import DevServer

COUNT = 100_000


def run(own: DevServer) -> None:
    rate = push.push_rate(own, COUNT, batch_size=50)
    bench.row("  in batches of 50", f"{rate:,.0f} tasks/s", ">= 20,000")
