"""What is sent to an external system: the bodies of pushes, and what they are known by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import uuid4

import orjson

from pgsched.clock import Now, here
from pgsched.models import ClaimedTask
from pgsched.signing import callback_token

# No request is larger, unless a single task is.
MAX_BATCH_BYTES = 2**20


class Message(NamedTuple):
    """One request to be made."""

    id: str  # of the webhook
    body: bytes
    trace_id: str | None = None
    idempotency_key: str | None = None


class Messages:
    """Makes messages of tasks."""

    def __init__(
        self, public_url: str | None, callback_secrets: Sequence[bytes] = (), now: Now = here
    ) -> None:
        """
        Args:
            public_url: Where the receiver reports to; None: pushes carry no callback_url.
            callback_secrets: The first makes the callback_token; without one it is null.
            now: What time they carry.
        """
        self._now = now
        self._public_url = public_url.rstrip("/") if public_url else None
        self._callback_secrets = callback_secrets

    def single(self, task: ClaimedTask) -> Message:
        """The idempotency key names the attempt: each delivery of one attempt has the same."""
        key = key_of(task)
        return Message(key, self._body(task, key), task.trace_id, key)

    def batch(self, tasks: Sequence[ClaimedTask]) -> tuple[Message, int]:
        """One message of as many of *tasks*, from the first, as fit in it; and how many do."""
        bodies: list[bytes] = []
        size = 1
        for task in tasks:
            body = self._body(task, key_of(task))
            size += len(body) + 1
            if bodies and size > MAX_BATCH_BYTES:
                break
            bodies.append(body)
        return Message(f"batch:{uuid4()}", b"[" + b",".join(bodies) + b"]"), len(bodies)

    def _body(self, task: ClaimedTask, key: str) -> bytes:
        callback_url = token = None
        if self._callback_secrets:
            token = callback_token(self._callback_secrets[0], task.id, task.attempt)
        if self._public_url:
            path = f"/api/tasks/{task.id}/status?attempt={task.attempt}"
            callback_url = self._public_url + path
        return orjson.dumps(
            {
                "task_id": task.id,
                "status": "READY_FOR_EXECUTION",
                "timestamp": self._now(),
                "scheduled_time": task.scheduled_time,
                "attempt": task.attempt,
                "sequence": task.sequence,
                "idempotency_key": key,
                "metadata": {
                    "definition_id": task.definition_id,
                    "definition_name": task.definition_name,
                    "content": task.content,
                    "trace_id": task.trace_id,
                    "input_params": task.input_params,
                    "schedule_config": task.schedule_config,
                    "round_index": task.round_index,
                    "retry_count": task.retry_count,
                    "priority": task.priority,
                    "queue": task.queue,
                    "schedule_id": task.schedule_id,
                },
                "callback_url": callback_url,
                "callback_token": token,
            },
            option=orjson.OPT_UTC_Z,
        )


def key_of(task: ClaimedTask) -> str:
    """The idempotency key of the task's present execution."""
    return f"{task.id}:{task.attempt}"
