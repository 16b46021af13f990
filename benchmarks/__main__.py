"""
    python -m benchmarks [part …]

Measures on a Postgres of its own, on this machine, now.  Machines are noisy:
compare what stands in one run.
"""

from __future__ import annotations

import os
import sys

from benchmarks import (
    batches,
    bench,
    bulk,
    drain,
    enqueue,
    isolation,
    latency,
    memory,
    push,
    reports,
    schedules,
    yardstick,
)

PARTS = {
    "yardstick": yardstick.run,
    "drain": drain.run,
    "push": push.run,
    "batches": batches.run,
    "latency": latency.run,
    "isolation": isolation.run,
    "enqueue": enqueue.run,
    "bulk": bulk.run,
    "memory": memory.run,
    "reports": reports.run,
    "schedules": schedules.run,
}


def main() -> None:
    chosen = sys.argv[1:] or list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        sys.exit(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    with bench.server() as own:
        print(f"Postgres of {own.data.name}, {os.cpu_count()} CPUs", flush=True)
        for name in chosen:
            PARTS[name](own)


main()
