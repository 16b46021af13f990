"""Bounds the time of much that is under way, by one timer for all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

# In seconds: what is over is noticed so late at most.
TICK = 0.05


class Watch:
    """
    Lets blocks of `async with watch.bound(seconds)` take no longer, to within a tick.

    As `asyncio.timeout()`, but that this sets a timer for each block, which
    costs more than many a handler does.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._until: dict[asyncio.Timeout, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def bound(self, seconds: float) -> asyncio.Timeout:
        """
        Bound a block that is entered at once.

        Raises:
            TimeoutError: At the end of the block, which was cancelled.
        """
        timeout = asyncio.timeout(None)
        self._until[timeout] = self._clock() + seconds
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK, self._look)
        return timeout

    def end(self, timeout: asyncio.Timeout) -> None:
        """Forget a block that has been left."""
        self._until.pop(timeout, None)

    def _look(self) -> None:
        self._timer = None
        now, loop = self._clock(), asyncio.get_running_loop()
        for timeout in [one for one, until in self._until.items() if until <= now]:
            del self._until[timeout]
            timeout.reschedule(loop.time())
        if self._until:
            self._timer = loop.call_later(TICK, self._look)
