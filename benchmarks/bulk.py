"""
100,000 tasks through SchedulerService.schedule_many, in one transaction.

Beside it the least that Postgres can do: the same rows from the same JSON into
the same table, with nothing looked up, checked or handed back.
"""

from __future__ import annotations

import asyncio
import operator
import statistics
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import psycopg

from benchmarks import bench
from pgsched.devdb import DevServer
from pgsched.models import Json
from pgsched.options import NewTask
from pgsched.scheduler import SchedulerService

COUNT = 100_000
DEFINITIONS = 5
DEFAULTS: dict[str, Json] = {"a": 1}
ROUNDS = 3
PLAIN = """
    insert into pgsched.scheduled_tasks (
      id, queue, priority, schedule_type, scheduled_time, execute_after, max_retries, definition_id,
      trace_id, input_params, schedule_config
    )
    select
      pgsched.uuid7(n.at), 'default', t.priority, t.schedule_type,
      coalesce(t.scheduled_time, n.at + t.delay * interval '1 second', n.at),
      coalesce(t.scheduled_time, n.at + t.delay * interval '1 second', n.at), 3, d.id,
      gen_random_uuid(), t.input_params, '{}'
    from jsonb_to_recordset(%s::jsonb) as t (
      definition text, input_params jsonb, priority integer, schedule_type text, delay float8,
      scheduled_time timestamptz
    )
    join pgsched.task_definitions as d on d.name = t.definition
    cross join (select now() as at) as n
"""

Connection = psycopg.AsyncConnection[Any]


def run(own: DevServer) -> None:
    asyncio.run(_compare(bench.new_database(own, "bulk")))


def _mixed() -> list[NewTask]:
    """Of several definitions and all priorities; a third now, a third by delay, a third by time."""
    tasks: list[NewTask] = []
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    for n in range(COUNT):
        task: NewTask = {"definition": f"bulk-{n % DEFINITIONS}", "input_params": {"n": n}}
        task["priority"] = n % 19 - 9
        if n % 3 == 1:
            task["delay"] = timedelta(seconds=n % 3600)
        elif n % 3 == 2:
            task["scheduled_time"] = tomorrow + timedelta(seconds=n % 3600)
        tasks.append(task)
    return tasks


def _plain_body(tasks: list[NewTask]) -> str:
    """The same as JSON, with all that a plain insert needs."""
    kinds = ("IMMEDIATE", "DELAYED", "DELAYED")
    rows = [
        {**task, "schedule_type": kinds[n % 3], "input_params": DEFAULTS | {"n": n}}
        for n, task in enumerate(tasks)
    ]
    return orjson.dumps(rows, default=timedelta.total_seconds).decode()


async def _compare(dsn: str) -> None:
    tasks = _mixed()
    body = _plain_body(tasks)
    scheduler = SchedulerService()

    async def many(connection: Connection) -> None:
        await scheduler.schedule_many(connection, tasks)

    async def plain(connection: Connection) -> None:
        await connection.execute(PLAIN.encode(), [body])

    rates: dict[Any, list[float]] = {many: [], plain: []}
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        for n in range(DEFINITIONS):
            await scheduler.define_task(connection, f"bulk-{n}", input_params=DEFAULTS)
        for _ in range(ROUNDS):
            for way, found in rates.items():
                await connection.execute("truncate pgsched.scheduled_tasks")
                await connection.commit()
                started = time.perf_counter()
                await way(connection)
                await connection.commit()
                found.append(COUNT / (time.perf_counter() - started))
    by_us, at_best = (statistics.median(found) for found in rates.values())
    ratio = statistics.median(map(operator.truediv, rates[many], rates[plain]))
    bench.row(
        f"bulk: {COUNT:,} tasks by schedule_many / by a plain insert",
        f"{by_us:,.0f} / {at_best:,.0f} per s",
        f"ratio {ratio:.2f}; at least 40,000 per s",
    )
