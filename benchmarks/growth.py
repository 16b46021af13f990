"""
    python -m benchmarks.growth [KIND ...]

What a task costs as things grow: future tasks, finished tasks, queues, workers.
A quarter of an hour for all of it, and 15 GB of disk.  What was found goes to
docs/benchmarks/growth.json, from which `python -m benchmarks.page` makes plots.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import bench
from benchmarks.drain import Drainer
from benchmarks.peers import measure
from benchmarks.peers.peer import PGSCHED
from pgsched.devdb import DevServer

FILE = Path(__file__).parents[1] / "docs" / "benchmarks" / "growth.json"
BACKLOG = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
RECORD = (0, 100_000, 1_000_000, 5_000_000, 20_000_000)
QUEUES = (1, 5, 20, 50, 100, 200)
WORKERS = (1, 2, 4, 8, 16)
PORTION = 10_000
LARGE = 30_000  # for processes, whose count is some milliseconds old
ROUNDS = 5
# Of one statement.
CHUNK = 500_000
# All tasks of a portion come due together, so long after it was begun to be enqueued, in seconds:
# none is enqueued late, which would make them a matter for sweeps.
LEAD = 2.0

ENDED = """
    insert into pgsched.task_instances (
      id, status, queue, schedule_type, scheduled_time, execute_after, max_retries,
      definition_id, trace_id, input_params, schedule_config, started_at, created_at, finished_at
    )
    select
      pgsched.uuid7(), 'SUCCESS', 'default', 'IMMEDIATE', now(), now(), 3,
      d.id, gen_random_uuid(), '{"x": 1}', '{}', now(), now(), now()
    from pgsched.task_definitions as d
    cross join generate_series(1, %s)
    where d.name = 'bench'
"""
DEFINE = """
    select pgsched.define_queue('queue-' || n), pgsched.define_task(
      'bench-' || n, p_queue => 'queue-' || n
    )
    from generate_series(1, %s) as n
"""

Points = list[tuple[int, float]]  # how much there is, and microseconds for a task


def backlog(own: DevServer) -> Iterator[tuple[int, float]]:
    """Future tasks of ten priorities beside those that are due."""
    drainer = Drainer(bench.new_database(own, "growth_backlog"))
    there = 0
    for size in BACKLOG:
        while there < size:
            more = min(size - there, CHUNK)
            for priority in range(10):
                bench.fill(drainer.connection, more // 10, due_in="1 day", priority=priority)
            there += more
        drainer.connection.execute("vacuum analyze pgsched.scheduled_tasks")
        yield size, _cost(drainer)


def record(own: DevServer) -> Iterator[tuple[int, float]]:
    """Finished tasks of today, all in one partition."""
    drainer = Drainer(bench.new_database(own, "growth_record"))
    there = 0
    for size in RECORD:
        while there < size:
            drainer.connection.execute(ENDED, [min(size - there, CHUNK)])
            there += min(size - there, CHUNK)
        drainer.connection.execute("vacuum analyze pgsched.task_instances")
        yield size, _cost(drainer)


def _cost(drainer: Drainer) -> float:
    """Of claim and settle, on one connection."""
    rates = []
    for _ in range(ROUNDS):
        bench.fill(drainer.connection, PORTION)
        rates.append(drainer.drain(PORTION))
    return 1e6 / statistics.median(rates)


def queues(own: DevServer) -> Iterator[tuple[int, float]]:
    """A worker that serves so many queues, all with tasks."""
    for count in QUEUES:
        dsn = bench.new_database(own, "growth_queues")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(DEFINE, [count])
            yield count, _worked(dsn, connection, LARGE // count, "bench-%")


def workers(own: DevServer) -> Iterator[tuple[int, float]]:
    """Worker processes on one queue, with a handler that does nothing."""
    for count in WORKERS:
        dsn = bench.new_database(own, "growth_workers")
        with psycopg.connect(dsn, autocommit=True) as connection:
            yield count, _worked(dsn, connection, LARGE, "bench", count)


def _worked(
    dsn: str, connection: psycopg.Connection[Any], each: int, definitions: str, size: int = 1
) -> float:
    """From when the tasks are due until the last has ended, by workers that wait for them."""
    costs, goal, tally = [], 0, measure.Tally()
    with PGSCHED.workers(dsn, size, kind="noop") as crew:
        bench.wait_until(connection, f"select count(*) >= {size} from pgsched.workers")
        for _ in range(ROUNDS):
            due = time.perf_counter() + LEAD
            bench.fill(connection, each, due_in=f"{LEAD} seconds", definitions=definitions)
            count = measure.unfinished(PGSCHED, connection)
            goal += count
            time.sleep(due - time.perf_counter())  # raises if the tasks were late
            measure.wait_until(lambda: tally.handled(crew) >= goal)  # noqa: B023
            measure.wait_until(lambda: measure.unfinished(PGSCHED, connection) == 0)
            costs.append(1e6 * (time.perf_counter() - due) / count)
    return statistics.median(costs)


KINDS: dict[str, Callable[[DevServer], Iterator[tuple[int, float]]]] = {
    "backlog": backlog,
    "record": record,
    "queues": queues,
    "workers": workers,
}


def main() -> None:
    chosen = sys.argv[1:] or list(KINDS)
    if unknown := set(chosen) - set(KINDS):
        sys.exit(f"no such growth: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    found: dict[str, Points] = json.loads(FILE.read_text()) if FILE.exists() else {}
    FILE.parent.mkdir(exist_ok=True)
    for kind in chosen:
        with bench.server() as own:
            found[kind] = []
            for size, cost in KINDS[kind](own):
                found[kind].append((size, round(cost, 2)))
                bench.row(f"{kind} {size:,}", f"{cost:.1f} us a task")
                FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
