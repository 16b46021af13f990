"""Limits under eight workers at once: never exceeded, and used."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import psycopg
import pytest

from pgsched.clients import Handler
from pgsched.configuration import load_settings
from pgsched.worker import Worker
from tests.roles import as_role
from tests.waiting import until

WORKERS = 8
# The tokens that come while the machine stands still are lost.
TRIES = 3
STANDSTILL = 0.05
Span = tuple[float, float]  # since when, until when

# Each claim leaves its own time: what the bucket counts by.
RECORD_CLAIMS = """
    create table public.claims (at timestamptz not null);
    create function public.record_claims() returns trigger language plpgsql
      security definer as $$
    begin
      insert into public.claims
      select n.deadline_at - interval '60 seconds' from claimed as n where n.status = 'SCHEDULED';
      return null;
    end $$;
    create trigger record_claims after update on pgsched.scheduled_tasks
      referencing new table as claimed for each statement execute function public.record_claims();
"""
IN_FLIGHT = "select count(*) from pgsched.scheduled_tasks where deadline_at is not null"


@contextlib.asynccontextmanager
async def working(dsn: str, handler: Handler) -> AsyncIterator[None]:
    """Eight workers in this process, each with connections of its own."""
    stop = asyncio.Event()
    settings = load_settings(database_url=as_role(dsn, "worker"))
    workers = [asyncio.create_task(Worker(settings, handler).run(stop)) for _ in range(WORKERS)]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*workers)


async def schedule(conn: psycopg.AsyncConnection[Any], count: int) -> None:
    await conn.execute(
        "select pgsched.schedule_immediate('job') from generate_series(1, %s)", [count]
    )


@pytest.mark.own_database
async def test_tasks_in_flight_never_exceed_the_limit_and_use_it(dsn: str) -> None:
    limit, count = 20, 400
    under_way = most = done = 0

    async def handler(push: dict[str, Any]) -> None:
        nonlocal under_way, most, done
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.5)
        under_way -= 1
        done += 1

    seen: list[int] = []
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await conn.execute("select pgsched.define_task('job')")
        await conn.execute("select pgsched.define_queue('default', p_max_in_flight => %s)", [limit])
        async with working(dsn, handler):
            await schedule(conn, count)
            await until(lambda: done >= limit)  # it has got going
            while done < count - limit:
                row = await (await conn.execute(IN_FLIGHT)).fetchone()
                assert row
                seen.append(row[0])
                await asyncio.sleep(0.01)
            await until(lambda: done == count)

    assert max(seen) == limit
    assert most <= limit
    assert sum(seen) / len(seen) >= 0.95 * limit


@pytest.mark.own_database
@pytest.mark.parametrize(("rate", "burst"), [(100, None), (40, 20)])
async def test_the_rate_is_never_exceeded_and_used(dsn: str, rate: int, burst: int | None) -> None:
    count, spare = 6 * rate, burst or rate / 10
    uses: list[float] = []

    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await conn.execute("select pgsched.define_task('job')")
        await conn.execute(
            "select pgsched.define_queue('default', p_rate_per_second => %s, p_burst => %s)",
            [rate, burst],
        )
        await conn.execute(RECORD_CLAIMS)
        while len(uses) < TRIES and max(uses, default=0.0) < 0.95:
            with standstills() as lost:
                times = await times_of_claims(dsn, conn, count)
            assert len(times) == count
            assert most_in_a_window(times, rate) <= spare + 1e-3
            uses.append(use(times, rate, spare, lost))

    assert max(uses) >= 0.95, uses


@contextlib.contextmanager
def standstills() -> Iterator[list[Span]]:
    """From when until when nothing at all went on: not even a thread that only sleeps."""
    found: list[Span] = []
    stop = threading.Event()

    def watch() -> None:
        before = time.time()
        while not stop.wait(0.01):
            now = time.time()
            if now - before > STANDSTILL:
                found.append((before, now))
            before = now

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def use(times: Sequence[float], rate: float, spare: float, lost: Sequence[Span]) -> float:
    """Which share of the tokens that came was claimed, but for those that came while all stood."""
    first, last = times[0], times[-1]
    stood = sum(max(0.0, min(until, last) - max(since, first)) for since, until in lost)
    return (len(times) - spare) / (last - first - stood) / rate


async def times_of_claims(
    dsn: str, conn: psycopg.AsyncConnection[Any], count: int
) -> Sequence[float]:
    """Have so many tasks claimed; when each of them was, in order."""
    done = 0

    async def handler(push: dict[str, Any]) -> None:
        nonlocal done
        done += 1

    await conn.execute("truncate public.claims")
    await schedule(conn, count)
    async with working(dsn, handler):
        await until(lambda: done == count)
    found = await conn.execute("select extract(epoch from at)::float from public.claims order by 1")
    return [row[0] for row in await found.fetchall()]


def most_in_a_window(times: Sequence[float], rate: float) -> float:
    """By how much the claims of any window, ever so short or long, exceed rate times its length."""
    lowest, most = float("inf"), 0.0
    for n, at in enumerate(times):
        spent = n - rate * (at - times[0])
        lowest = min(lowest, spent)
        most = max(most, spent + 1 - lowest)
    return most


def test_the_use_leaves_out_what_came_while_all_stood() -> None:
    times = [n / 10 for n in range(100)]
    assert use([0.0] * 10 + times[1:], 10, 10, []) == pytest.approx(1.0)
    late = [0.0] * 10 + [at + (2.0 if at > 5 else 0.0) for at in times[1:]]
    assert use(late, 10, 10, []) == pytest.approx(9.9 / 11.9)
    assert use(late, 10, 10, [(-3.0, -1.0), (5.0, 7.0), (11.9, 20.0)]) == pytest.approx(1.0)


def test_the_count_of_a_window_is_exact() -> None:
    assert most_in_a_window([0, 0, 0, 1], 1) == 3
    assert most_in_a_window([0, 10, 10.5, 10.5], 1) == 2.5
