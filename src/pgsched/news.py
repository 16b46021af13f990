"""Changes of status that pgsched decided itself: how they are told, and what an answer means."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import uuid4

import orjson

from pgsched.answers import Answer, Reply, cause_of, deferral_of, is_deferral, reason_of
from pgsched.messages import MAX_BATCH_BYTES, Message
from pgsched.models import Json

log = logging.getLogger(__name__)

# Of all 4xx these alone say: later.
_LATER = frozenset({408, 425, 429})
# The external system knows it already.
_KNOWN = 409


class StatusPush(NamedTuple):
    """
    One message as a worker holds it, in the column order of `claim_status_pushes()`.

    `push_count` fences the settle; `hold_seconds` is how long the worker may
    keep it before another may send it.
    """

    sequence: int
    push_count: int
    external_system: str
    queue: str
    hold_seconds: float
    task_id: str
    status: str
    attempt: int
    error_msg: str | None
    created_at: datetime
    scheduled_time: datetime
    definition_id: str
    definition_name: str | None
    trace_id: str


def message_of(push: StatusPush) -> Message:
    """One request; each time it is sent it has the same key, and says the same."""
    key = f"{push.task_id}:status:{push.sequence}"
    return Message(key, orjson.dumps(_body(push, key), option=orjson.OPT_UTC_Z), push.trace_id, key)


def batch_of(pushes: Sequence[StatusPush]) -> tuple[Message, int]:
    """One request of as many of *pushes*, from the first, as fit in it; and how many do."""
    bodies: list[bytes] = []
    size = 1
    for push in pushes:
        body = message_of(push).body
        size += len(body) + 1
        if bodies and size > MAX_BATCH_BYTES:
            break
        bodies.append(body)
    return Message(f"batch:{uuid4()}", b"[" + b",".join(bodies) + b"]"), len(bodies)


def _body(push: StatusPush, key: str) -> dict[str, Any]:
    return {
        "task_id": push.task_id,
        "status": push.status,
        "timestamp": push.created_at,
        "scheduled_time": push.scheduled_time,
        "attempt": push.attempt,
        "sequence": push.sequence,
        "idempotency_key": key,
        "error_msg": push.error_msg,
        "metadata": {
            "definition_id": push.definition_id,
            "definition_name": push.definition_name,
            "trace_id": push.trace_id,
            "queue": push.queue,
        },
        "callback_url": None,
        "callback_token": None,
    }


def outcome_of(answer: Answer) -> str:
    """ACKNOWLEDGED, GIVEN_UP or DEFERRED: what *answer* means for a message."""
    status = answer.status_code if answer.reply is Reply.ANSWERED else None
    if status is None:
        return "DEFERRED"
    if status in range(200, 300) or status == _KNOWN:
        return "ACKNOWLEDGED"
    is_refusal = status in range(400, 500) and status not in _LATER
    return "GIVEN_UP" if is_refusal else "DEFERRED"


def is_outage(answer: Answer) -> bool:
    """Whether the next message would fare no better."""
    return outcome_of(answer) == "DEFERRED" and is_deferral(answer)


def result_of(push: StatusPush, answer: Answer) -> dict[str, Json]:
    """What `settle_status_pushes()` is to be told of *push*."""
    outcome = outcome_of(answer)
    result: dict[str, Json] = {**_fence(push), "outcome": outcome}
    if outcome == "ACKNOWLEDGED":
        return result
    if outcome == "GIVEN_UP":
        log.warning("status push given up", extra=_fields_of(push, answer))
    elif (delay := deferral_of(answer, push.push_count - 1).delay) is not None:
        result["delay"] = f"{delay.total_seconds():f} seconds"
    return {**result, "error_msg": reason_of(answer)}


def _fields_of(push: StatusPush, answer: Answer) -> dict[str, str]:
    return {
        "task_id": push.task_id,
        "trace_id": push.trace_id,
        "status": push.status,
        "external_system": push.external_system,
        "answer": cause_of(answer),
    }


def released(push: StatusPush) -> dict[str, Json]:
    """What is to be told of a message that was not sent."""
    return {**_fence(push), "outcome": "RELEASED"}


def _fence(push: StatusPush) -> dict[str, Json]:
    return {"sequence": push.sequence, "push_count": push.push_count}
