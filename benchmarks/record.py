"""
What an operator looks at, with 10,000,000 finished tasks in 61 partitions.

Beside the record there are 100,000 unfinished tasks and 1,000,000 events.
Each look is taken 40 times on one connection, as the command and the API take it.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg

from benchmarks import bench
from pgsched import reading, watching
from pgsched.census import take_census
from pgsched.cli import snapshot
from pgsched.db import Connection
from pgsched.devdb import DevServer

DAYS = 60
RECORD = 10_000_000
UNFINISHED = 100_000
EVENTS = 1_000_000
LOOKS = 40
# What is looked at again and again has a bar, in milliseconds.
BAR = 50.0
WITHOUT_BAR = {"health", "stuck_tasks", "recent_failures", "worker_status"}

PARTITION = """
    create table pgsched.{table}_{day:%Y%m%d} partition of pgsched.{table}
    for values from ('{day} 00:00+00') to ('{next} 00:00+00')
"""
# A UUIDv7 of that instant, and one task in fifty that failed.
FILL_DAY = """
    insert into pgsched.task_instances (
      id, status, queue, schedule_type, scheduled_time, execute_after, max_retries, error_msg,
      definition_id, trace_id, input_params, schedule_config, started_at, created_at, finished_at
    )
    select
      (
        lpad(to_hex((extract(epoch from n.at) * 1000)::bigint), 12, '0')
        || '7' || substr(md5(random()::text), 1, 3) || '8' || substr(md5(random()::text), 1, 15)
      )::uuid,
      case when n.i %% 50 = 0 then 'FAILED' else 'SUCCESS' end,
      'default', 'IMMEDIATE', n.at, n.at, 3,
      case when n.i %% 50 = 0 then 'no user ' || n.i end,
      d.id, gen_random_uuid(), '{"x": 1}', '{}', n.at, n.at, n.at + interval '200 milliseconds'
    from pgsched.task_definitions as d
    cross join (
      select i, %(start)s::timestamptz + i * (%(length)s::interval / %(count)s) as at
      from generate_series(0, %(count)s - 1) as i
    ) as n
    where d.name = 'bench'
"""
FILL_EVENTS = """
    insert into pgsched.task_events (at, task_id, event, attempt)
    select pgsched.now() - i * interval '5 seconds', gen_random_uuid(), 'RETRY', 1
    from generate_series(1, %s) as i
"""
SOME_IDS = """
    select id::text from pgsched.task_instances
    where finished_at > now() - interval '58 days' and get_byte(uuid_send(id), 9) = 7
    limit %s
"""

Look = Callable[[Connection], Awaitable[Any]]
LOOKS_AT: dict[str, Look] = {
    "queue_stats": reading.list_queues,
    "pgsched top, one look": snapshot.take,
    "the census of /metrics": take_census,
    "health": lambda connection: reading.list_rows(connection, "health"),
    "stuck_tasks": watching.list_stuck_tasks,
    "recent_failures": watching.list_recent_failures,
    "worker_status": watching.list_workers,
}


def run(own: DevServer) -> None:
    dsn = bench.new_database(own, "record")
    _fill(dsn)
    asyncio.run(_measure(dsn))


def _fill(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for table in ("task_instances", "task_events"):
            _add_partitions(connection, table)
        began, share = time.monotonic(), RECORD // (DAYS + 1)
        days: list[Any] = connection.execute(
            "select date_trunc('day', now()) - n * interval '1 day' from generate_series(0, %s) n",
            [DAYS],
        ).fetchall()
        for n, (day,) in enumerate(reversed(days)):
            span = "least(interval '1 day', now() - %(start)s)" if n == DAYS else "interval '1 day'"
            row: Any = connection.execute(f"select {span}".encode(), {"start": day}).fetchone()
            connection.execute(FILL_DAY, {"start": day, "length": row[0], "count": share})
            if sys.stdout.isatty():
                print(f"\r  filling: {n + 1} of {DAYS + 1} days", end="", flush=True)
        connection.execute(FILL_EVENTS, [EVENTS])
        bench.fill(connection, UNFINISHED // 2)
        bench.fill(connection, UNFINISHED // 2, due_in="1 hour")
        connection.execute("vacuum analyze")
        start = "\r" if sys.stdout.isatty() else ""
        print(f"{start}  filled in {time.monotonic() - began:.0f} s" + 20 * " ", flush=True)


def _add_partitions(connection: psycopg.Connection[Any], table: str) -> None:
    days: list[Any] = connection.execute(
        "select (now() at time zone 'UTC')::date - n, (now() at time zone 'UTC')::date - n + 1"
        " from generate_series(1, %s) as n",
        [DAYS],
    ).fetchall()
    for day, following in days:
        query = PARTITION.format(table=table, day=day, next=following)
        connection.execute(query.encode())


async def _measure(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, options="-c jit=off -c timezone=UTC"
    ) as connection:
        cursor = await connection.execute(SOME_IDS.encode(), [LOOKS])
        ids = [row[0] for row in await cursor.fetchall()]
        times = [await _timed(reading.get_task(connection, task_id)) for task_id in ids]
        _report("tasks by id", times)
        get = "select * from pgsched.get_task(%s)"
        _report("get_task()", [await _timed(connection.execute(get, [one])) for one in ids])
        for name, look in LOOKS_AT.items():
            _report(name, [await _timed(look(connection)) for _ in range(LOOKS)])


async def _timed(look: Awaitable[Any]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    await look
    return (time.perf_counter() - began) * 1000


def _report(name: str, times: list[float]) -> None:
    bench.row(
        f"{name}, {RECORD:,} rows of record: first / p50 / worst of the rest",
        f"{times[0]:.1f} / {statistics.median(times):.2f} / {max(times[1:]):.1f} ms",
        "" if name in WITHOUT_BAR else f"< {BAR:g} ms",
    )
