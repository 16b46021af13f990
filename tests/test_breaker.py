"""The breaker of one worker: when it opens, and what a probe does to it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from time import monotonic

from pgsched.breaker import THRESHOLD, Breaker

UNTIL = datetime(2026, 11, 23, 18, 0, tzinfo=UTC)


class Store:
    """In place of the database: it agrees, unless it is held by somebody."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.is_locked = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def open_breaker(self, system: str, reason: str) -> datetime | None:
        self.calls.append(f"open {system}: {reason}")
        await self.may_answer.wait()
        return None if self.is_locked else UNTIL

    async def close_breaker(self, system: str) -> bool:
        self.calls.append(f"close {system}")
        return True


async def fail(breaker: Breaker, times: int) -> list[bool]:
    return [await breaker.note(True, "HTTP 503", is_probe=False) for _ in range(times)]


async def test_it_opens_at_the_tenth_failure_in_a_row_and_says_so_once() -> None:
    store = Store()
    breaker = Breaker("crm", store)

    opened = await fail(breaker, THRESHOLD + 3)

    assert opened == [False] * (THRESHOLD - 1) + [True] + [False] * 3
    assert breaker.is_open
    assert store.calls == ["open crm: HTTP 503"]


async def test_one_good_answer_begins_the_count_anew() -> None:
    store = Store()
    breaker = Breaker("crm", store)
    await fail(breaker, THRESHOLD - 1)

    await breaker.note(False, "HTTP 202", is_probe=False)
    await fail(breaker, THRESHOLD - 1)

    assert not breaker.is_open
    assert store.calls == []


async def test_what_began_before_the_latest_good_answer_is_not_counted() -> None:
    """All slots wait for answers that do not come; meanwhile one more push was answered."""
    store = Store()
    breaker = Breaker("crm", store)
    await breaker.note(False, "HTTP 202", is_probe=False)

    for _ in range(2 * THRESHOLD):
        assert not await breaker.note(True, "no answer", is_probe=False, seconds=30.0)

    assert await fail(breaker, THRESHOLD) == [False] * (THRESHOLD - 1) + [True]


async def test_while_the_row_is_locked_it_stays_closed_and_asks_again() -> None:
    store = Store()
    store.is_locked = True
    breaker = Breaker("crm", store)
    assert await fail(breaker, THRESHOLD) == [False] * THRESHOLD
    store.is_locked = False

    assert await fail(breaker, 1) == [True]


async def test_a_failed_probe_keeps_it_open_and_gives_nothing_back() -> None:
    store = Store()
    breaker = Breaker("crm", store)
    breaker.set_open(True, monotonic())

    assert not await breaker.note(True, "HTTP 503", is_probe=True)

    assert breaker.is_open
    assert store.calls == ["open crm: HTTP 503"]


async def test_a_probe_that_is_answered_closes_it() -> None:
    store = Store()
    breaker = Breaker("crm", store)
    breaker.set_open(True, monotonic())

    await breaker.note(False, "HTTP 202", is_probe=True)

    assert not breaker.is_open
    assert store.calls == ["close crm"]


async def test_a_late_good_answer_does_not_close_it() -> None:
    store = Store()
    breaker = Breaker("crm", store)
    await fail(breaker, THRESHOLD)

    await breaker.note(False, "HTTP 202", is_probe=False)

    assert breaker.is_open


async def test_one_that_another_worker_has_closed_counts_from_zero() -> None:
    breaker = Breaker("crm", Store())
    await fail(breaker, THRESHOLD)

    breaker.set_open(False, monotonic())

    assert await fail(breaker, THRESHOLD - 1) == [False] * (THRESHOLD - 1)
    assert not breaker.is_open


async def test_failures_that_come_while_it_is_being_opened_do_not_open_it_again() -> None:
    store = Store()
    store.may_answer.clear()
    breaker = Breaker("crm", store)
    failing = [asyncio.create_task(fail(breaker, 1)) for _ in range(3 * THRESHOLD)]
    await asyncio.sleep(0)
    store.may_answer.set()

    opened = [await one for one in failing]

    assert opened.count([True]) == 1
    assert len(store.calls) == 1


async def test_what_was_read_before_it_opened_does_not_close_it() -> None:
    breaker = Breaker("crm", Store())
    read_at = monotonic()
    await fail(breaker, THRESHOLD)

    breaker.set_open(False, read_at)

    assert breaker.is_open
