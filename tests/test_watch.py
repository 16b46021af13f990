"""Blocks that take too long, and blocks that do not."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from pgsched.watch import TICK, Watch


async def test_a_block_that_takes_too_long_ends_with_a_timeout() -> None:
    watch, began = Watch(), monotonic()

    with pytest.raises(TimeoutError):
        async with watch.bound(0.1):
            await asyncio.sleep(30)

    assert 0.1 <= monotonic() - began < 10


async def test_only_the_block_that_is_late_is_cancelled() -> None:
    watch = Watch()
    ended: list[str] = []

    async def work(name: str, seconds: float) -> None:
        timeout = watch.bound(seconds)
        try:
            async with timeout:
                await asyncio.sleep(3 * TICK)
            ended.append(name)
        except TimeoutError:
            ended.append(f"{name} was late")
        finally:
            watch.end(timeout)

    await asyncio.gather(work("a", 0.0), work("b", 30), work("c", TICK))

    assert sorted(ended) == ["a was late", "b", "c was late"]


async def test_a_block_that_was_left_is_never_cancelled() -> None:
    watch = Watch()
    timeout = watch.bound(TICK)
    async with timeout:
        pass
    watch.end(timeout)

    await asyncio.sleep(3 * TICK)

    assert not timeout.expired()


async def test_a_cancellation_from_outside_stays_one() -> None:
    watch = Watch()

    async def work() -> None:
        async with watch.bound(30):
            await asyncio.sleep(30)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
