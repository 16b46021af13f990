"""Coroutines that work side by side while there is something to do, and rest in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from pgsched.loops import end


class Slots:
    """At most `limit` at a time; the limit may change while they work."""

    def __init__(self, step: Callable[[], Awaitable[None]], has_work: Callable[[], bool]) -> None:
        """
        Args:
            step: Takes one piece of work and does it; must not raise.
            has_work: Whether there is one.
        """
        self._step = step
        self._has_work = has_work
        self._tasks: set[asyncio.Task[None]] = set()
        self._resting: list[asyncio.Event] = []
        self.limit = 1

    def wake(self) -> None:
        """Have one more at work, if there may be one."""
        if self._resting:
            self._resting.pop().set()
        elif len(self._tasks) < self.limit:
            self._tasks.add(asyncio.create_task(self._work()))

    async def _work(self) -> None:
        may_work = asyncio.Event()
        while len(self._tasks) <= self.limit:
            if self._has_work():
                await self._step()
            else:
                may_work.clear()
                self._resting.append(may_work)
                await may_work.wait()
        self._tasks.discard(cast("asyncio.Task[None]", asyncio.current_task()))
        if self._has_work():  # it was woken for that
            self.wake()

    async def end(self) -> None:
        """Cancel them all, and wait until they have ended."""
        await end(self._tasks)
