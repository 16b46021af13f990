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
    capacity,
    drain,
    enqueue,
    isolation,
    latency,
    memory,
    push,
    record,
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
# These are measured only when they are named.
LONG = {"capacity": capacity.run, "record": record.run}


def main() -> None:
    known = PARTS | LONG
    chosen = sys.argv[1:] or list(PARTS)
    if unknown := set(chosen) - set(known):
        sys.exit(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(known)}")
    with bench.server() as own:
        print(f"Postgres of {own.data.name}, {os.cpu_count()} CPUs", flush=True)
        for name in chosen:
            known[name](own)


main()
