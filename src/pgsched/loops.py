"""The loops of a worker: none of them may die of an error."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from pgsched.errors import PgschedError

log = logging.getLogger(__name__)

# After an error, so that an outage does not become a storm of calls.
PAUSE = 1.0


async def forever(step: Callable[[], Awaitable[float]]) -> None:
    """Call *step* until cancelled; it returns how many seconds to wait before the next call."""
    while True:
        try:
            seconds = await step()
        except PgschedError as exc:
            log.warning("%s: %s", step.__name__.strip("_"), exc)
            seconds = PAUSE
        except Exception:
            log.exception("%s failed; it goes on", step.__name__.strip("_"))
            seconds = PAUSE
        await asyncio.sleep(seconds)


def jittered(seconds: float) -> float:
    """About *seconds*: workers that started together must not stay in step."""
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311


async def wait(event: asyncio.Event, seconds: float) -> bool:
    """Wait for *event*, *seconds* at most; whether it came."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
