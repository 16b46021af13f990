"""Push tasks to an external system over HTTP, and tell what came back."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

import httpx

from pgsched.answers import Answer
from pgsched.batches import BatchAnswer, answers_of
from pgsched.clock import Now, here
from pgsched.messages import Messages
from pgsched.models import ClaimedTask, ExternalSystem
from pgsched.news import StatusPush, batch_of, message_of
from pgsched.posting import MAX_ANSWER, Poster
from pgsched.transport import Http1Transport

PUSH_PATH = "/api/tasks/status"
BATCH_PATH = PUSH_PATH + "/batch"
# A layer less to pass through with each step of a push.
Answering = Coroutine[Any, Any, Answer]
# What a result may be long in the answer to a batch.
RESULT_BYTES = 4096


def make_transport(slots: int, proxy: str | None = None) -> httpx.AsyncBaseTransport:
    """A transport for *slots* pushes at a time; through *proxy* if one is named, never else."""
    if proxy is None:
        return Http1Transport()
    limits = httpx.Limits(max_connections=slots, max_keepalive_connections=slots)
    return httpx.AsyncHTTPTransport(proxy=proxy, limits=limits, trust_env=False)


class ExternalSystemClient:
    """Knows HTTP and nothing of Postgres; what an answer means is `answers.py`'s to say."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        public_url: str | None,
        callback_secrets: Sequence[bytes] = (),
        now: Now = here,
    ) -> None:
        """
        Args:
            public_url: Where the receiver reports to; None: pushes carry no callback_url.
            callback_secrets: The first makes the callback_token; without one it is null.
            now: What time a push carries.
        """
        self._poster = Poster(transport, now)
        self._messages = Messages(public_url, callback_secrets, now)

    def push_task_status(self, system: ExternalSystem, task: ClaimedTask) -> Answering:
        """
        Tell *system* that *task* is ready for execution, at least once.

        The idempotency key names the attempt: the receiver can drop the second
        delivery of one attempt, and sees the next attempt as new.
        """
        return self._poster.post(system, PUSH_PATH, self._messages.single(task))

    async def push_batch(self, system: ExternalSystem, tasks: Sequence[ClaimedTask]) -> BatchAnswer:
        """Tell *system* of as many of *tasks*, from the first, as one request can carry."""
        message, count = self._messages.batch(tasks)
        most = MAX_ANSWER + RESULT_BYTES * count
        whole = await self._poster.post(system, BATCH_PATH, message, most)
        return answers_of(whole, [task.id for task in tasks[:count]])

    def push_news(self, system: ExternalSystem, push: StatusPush) -> Answering:
        """Tell *system* of one change of status."""
        return self._poster.post(system, PUSH_PATH, message_of(push))

    async def push_news_batch(
        self, system: ExternalSystem, pushes: Sequence[StatusPush]
    ) -> BatchAnswer:
        """Tell *system* of as many changes, of different tasks, as one request can carry."""
        message, count = batch_of(pushes)
        most = MAX_ANSWER + RESULT_BYTES * count
        whole = await self._poster.post(system, BATCH_PATH, message, most)
        return answers_of(whole, [push.task_id for push in pushes[:count]])
