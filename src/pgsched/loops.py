"""The loops of a worker: none of them may die of an error."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from time import monotonic

import psycopg

from pgsched.errors import PgschedError

log = logging.getLogger(__name__)

# After an error, so that an outage does not become a storm of calls.
PAUSE = 1.0
# The same trouble is told again after so many seconds.
REPEAT = 30.0
# What happens when the database, or the way to it, is out.
FORESEEN = (PgschedError, psycopg.OperationalError, OSError)


async def forever(step: Callable[[], Awaitable[float]]) -> None:
    """
    Call *step* until cancelled; it returns how many seconds to wait before the next call.

    After 0 it is called again at once, before anything else has its turn: so a
    call of the database can follow the last one, and what that one brought is
    worked on meanwhile.  Such a step must have waited for something itself.
    """
    name = step.__qualname__.replace("._", ".")
    trouble = Trouble(name)
    while True:
        try:
            seconds = await step()
            trouble.over()
        except Exception as exc:
            trouble.tell(exc)
            seconds = PAUSE
        if seconds > 0:
            await asyncio.sleep(seconds)


class Trouble:
    """
    A part that fails again and again: told now and then, and when it is over.

    *clock* gives monotonic seconds.
    """

    def __init__(self, part: str, clock: Callable[[], float] = monotonic) -> None:
        self._part = part
        self._clock = clock
        self._told_at: float | None = None

    def tell(self, exc: Exception) -> None:
        """Tell of *exc*; of one that nobody foresaw, with where it happened."""
        if self._told_at is not None and self._clock() - self._told_at < REPEAT:
            return
        self._told_at = self._clock()
        fields = {"part": self._part, "error": exc}
        if isinstance(exc, FORESEEN):
            log.warning("part of the process fails, and is tried again", extra=fields)
        else:
            log.error("part of the process has a fault, and goes on", exc_info=exc, extra=fields)

    def over(self) -> None:
        if self._told_at is not None:
            self._told_at = None
            log.info("part of the process works again", extra={"part": self._part})


async def end(loops: Iterable[asyncio.Task[None]]) -> None:
    """
    Cancel *loops* and wait until they have ended.

    Again and again: `asyncio.wait_for()` of Python 3.11 loses a cancellation
    that meets a result, and libraries use it.
    """
    while left := {loop for loop in loops if not loop.done()}:
        for loop in left:
            loop.cancel()
        await asyncio.wait(left, timeout=1.0)


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
