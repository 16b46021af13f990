"""Wait for a condition, never for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T], timeout: float = 30.0) -> T:
    """What *condition* returns, once it is true."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)
    return found


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop go on until *condition* is true."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 (it may be about anything)
            await asyncio.sleep(0.001)
