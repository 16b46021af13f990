"""Reports that arrive at the same time, sent together."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from pgsched.errors import Invalid, PgschedError, Unavailable
from pgsched.models import Json, ReportAnswer
from pgsched.reports import Send

# Reports in one call at most.
BATCH = 200
# Calls under way at once; with more, each carries less.
CALLS = 2


class _Waiting(NamedTuple):
    body: dict[str, Json]
    answer: asyncio.Future[ReportAnswer]


class Gatherer:
    """
    Turns many callers with one report each into few calls with many.

    Nobody waits for company: a report leaves at once, unless so many calls
    are under way already; then it leaves with all that have come meanwhile.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: list[_Waiting] = []
        self._free_calls = CALLS
        self._tasks: set[asyncio.Task[None]] = set()

    async def send(self, bodies: list[dict[str, Json]]) -> list[ReportAnswer]:
        """One answer for each report, in their order."""
        loop = asyncio.get_running_loop()
        answers = [loop.create_future() for _ in bodies]
        self._waiting += map(_Waiting, bodies, answers)
        if self._free_calls:
            self._free_calls -= 1
            task = asyncio.create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return [await answer for answer in answers]

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                await self._deliver_or_fail(batch)
        finally:
            # In the same turn as the last look, so that nobody waits for a call that has ended.
            self._free_calls += 1

    async def _deliver_or_fail(self, batch: list[_Waiting]) -> None:
        try:
            await self._deliver(batch)
        except asyncio.CancelledError:
            _fail(batch, Unavailable("the API is stopping"))
            raise
        except Exception as exc:  # each of them hears of it
            _fail(batch, exc)

    async def _deliver(self, batch: list[_Waiting]) -> None:
        try:
            answers = await self._send([waiting.body for waiting in batch])
        except Invalid:
            if len(batch) == 1:
                raise
            for waiting in batch:  # one of them is poison, and only that one shall fail
                await self._deliver_alone(waiting)
        else:
            for waiting, answer in zip(batch, answers, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(answer)

    async def _deliver_alone(self, waiting: _Waiting) -> None:
        try:
            await self._deliver([waiting])
        except PgschedError as exc:
            _fail([waiting], exc)


def _fail(batch: list[_Waiting], exc: Exception) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(exc)
