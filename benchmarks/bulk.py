"""
100,000 tasks through SchedulerService.schedule_many, in one transaction.

Beside it the least that Postgres can do: the same rows from the same JSON into
the same table, with nothing looked up, checked or handed back.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import orjson
import psycopg

from benchmarks import bench
from pgsched.devdb import DevServer
from pgsched.options import NewTask
from pgsched.scheduler import SchedulerService

COUNT = 100_000
ROUNDS = 3
PLAIN = """
    insert into pgsched.scheduled_tasks (
      id, queue, schedule_type, scheduled_time, execute_after, max_retries, definition_id, trace_id,
      input_params, schedule_config
    )
    select
      pgsched.uuid7(), 'default', 'IMMEDIATE', n.at, n.at, 3, d.id, pgsched.uuid7(),
      t.input_params, '{}'
    from jsonb_to_recordset(%s::jsonb) as t (definition text, input_params jsonb)
    join pgsched.task_definitions as d on d.name = t.definition
    cross join (select now() as at) as n
"""

Connection = psycopg.AsyncConnection[Any]


def run(own: DevServer) -> None:
    asyncio.run(_compare(bench.new_database(own, "bulk")))


async def _compare(dsn: str) -> None:
    tasks: list[NewTask] = [{"definition": "bench", "input_params": {"n": n}} for n in range(COUNT)]
    body = orjson.dumps(tasks).decode()
    scheduler = SchedulerService()

    async def many(connection: Connection) -> None:
        await scheduler.schedule_many(connection, tasks)

    async def plain(connection: Connection) -> None:
        await connection.execute(PLAIN.encode(), [body])

    rates: dict[Any, list[float]] = {many: [], plain: []}
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        for _ in range(ROUNDS):
            for way, found in rates.items():
                await connection.execute("truncate pgsched.scheduled_tasks")
                await connection.commit()
                started = time.perf_counter()
                await way(connection)
                await connection.commit()
                found.append(COUNT / (time.perf_counter() - started))
    by_us, at_best = (statistics.median(found) for found in rates.values())
    bench.row(
        f"bulk: {COUNT:,} tasks by schedule_many / by a plain insert",
        f"{by_us:,.0f} / {at_best:,.0f} per s",
        f"ratio {by_us / at_best:.2f}",
    )
