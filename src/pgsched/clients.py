"""Who takes tasks: the interface, and behind it a Python function of this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from time import perf_counter
from typing import Any, Protocol

import orjson

from pgsched.answers import Answer, Reply
from pgsched.batches import BatchAnswer
from pgsched.decoding import excerpt
from pgsched.messages import Messages
from pgsched.models import ClaimedTask, ExternalSystem, Json
from pgsched.storing import without_nul

log = logging.getLogger(__name__)

# What an external system would be sent, and what it could answer: None is SUCCESS.
Handler = Callable[[dict[str, Json]], Awaitable[dict[str, Json] | None]]


class Client(Protocol):
    """Takes tasks and answers: an external system over HTTP, or a handler."""

    async def push_task_status(self, system: ExternalSystem, task: ClaimedTask) -> Answer:
        """Deliver one task."""
        ...

    async def push_batch(self, system: ExternalSystem, tasks: Sequence[ClaimedTask]) -> BatchAnswer:
        """Deliver as many of these tasks, from the first, as can be delivered together."""
        ...


class HandlerClient:
    """
    Calls a Python function in place of an external system.

    It is given the body of the push as a dict.  Returning None, or a dict such
    as the body of an answer, is SUCCESS, unless the dict's `status` is FAILED;
    raising is FAILED.  What takes longer than the request_timeout of the system
    is cancelled, and is a try that ended unanswered.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._messages = Messages(None)

    async def push_task_status(self, system: ExternalSystem, task: ClaimedTask) -> Answer:
        started = perf_counter()
        body: dict[str, Any] = {"status": "SUCCESS"}
        reply = Reply.ANSWERED
        try:
            async with asyncio.timeout(system.request_timeout.total_seconds()) as timer:
                given = await self._handler(orjson.loads(self._messages.single(task).body))
            body |= without_nul(given or {})
        except Exception as exc:
            if timer.expired():
                reply = Reply.TIMED_OUT
            else:
                fields = {"task_id": task.id, "trace_id": task.trace_id}
                log.warning("handler failed", exc_info=True, extra=fields)
            body = {"status": "FAILED", "error_msg": excerpt(f"{type(exc).__name__}: {exc}")}
        elapsed = timedelta(seconds=perf_counter() - started)
        if reply is Reply.TIMED_OUT:
            return Answer(reply, elapsed=elapsed)
        return Answer(reply, 200, body, elapsed=elapsed)

    async def push_batch(self, system: ExternalSystem, tasks: Sequence[ClaimedTask]) -> BatchAnswer:
        """One after the other would be slower than single pushes, so all at once."""
        parts = await asyncio.gather(*(self.push_task_status(system, task) for task in tasks))
        return BatchAnswer(Answer(Reply.ANSWERED, 200), list(parts))
