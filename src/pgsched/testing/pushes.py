"""Pushes as an external system reads them, and answers as it gives them."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, Literal, NamedTuple, cast

import orjson

from pgsched.signing import BadSignature, verify
from pgsched.testing.server import Reply, Request

PUSH_PATH = "/api/tasks/status"
BATCH_PATH = "/api/tasks/status/batch"
READY = "READY_FOR_EXECUTION"


class _Reset(Enum):
    RESET = "RESET"


# In place of an answer: the connection is closed without one.
RESET: Final = _Reset.RESET
# A status; or with a body (bytes, or what becomes JSON); or with headers as well.
Answer = int | tuple[int, Any] | tuple[int, Any, Mapping[str, str]] | Literal[_Reset.RESET]


@dataclass(frozen=True)
class Push:
    """One task to execute, or news of one, as it came."""

    body: dict[str, Any]
    task_id: str
    status: str
    key: str  # the idempotency key
    path: str
    headers: Mapping[str, str]  # of the request; names in lower case
    raw: bytes  # the body of the request, which may be a batch
    delivery: int  # the number of the request; pushes of one batch share it
    at: datetime

    @property
    def is_news(self) -> bool:
        """Whether it tells of a status, and nothing is to be executed."""
        return self.status != READY

    @classmethod
    def of(cls, body: dict[str, Any], request: Request, delivery: int) -> Push:
        return cls(
            body=body,
            task_id=body["task_id"],
            status=body["status"],
            key=body["idempotency_key"],
            path=request.path,
            headers=request.headers,
            raw=request.raw,
            delivery=delivery,
            at=datetime.now(UTC),
        )


class Said(NamedTuple):
    """An answer, taken apart."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = {}

    @property
    def accepts(self) -> bool:
        return 200 <= self.status < 300

    def reply(self) -> Reply:
        if self.body is None:
            return Reply(self.status, b"", self.headers)
        if isinstance(self.body, bytes):
            return Reply(self.status, self.body, self.headers)
        typed = {"Content-Type": "application/json"} | dict(self.headers)
        return Reply(self.status, orjson.dumps(self.body), typed)

    def result(self, push: Push) -> dict[str, Any]:
        """The same, as one result in the answer to a batch."""
        result = {"task_id": push.task_id, "code": self.status}
        if isinstance(self.body, dict):
            result |= self.body
        for name, value in self.headers.items():
            if name.lower() == "retry-after":
                result["retry_after"] = int(value)
        return result


def said(answer: Answer) -> Said | None:
    """
    What goes out; None is a reset.

    Raises:
        TypeError: It is nothing that an answer may be.
    """
    if answer is RESET:
        return None
    given = cast("tuple[Any, ...]", answer if isinstance(answer, tuple) else (answer,))
    if not 1 <= len(given) <= 3 or not isinstance(given[0], int):
        kinds = "a status, (status, body), (status, body, headers) or RESET"
        raise TypeError(f"an answer is {kinds}, not {answer!r}")
    return Said(*given)


class Refusal(Exception):
    """A request that brings no pushes."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def read_pushes(
    request: Request, secrets: str | Sequence[bytes] | None, api_key: str | None
) -> list[dict[str, Any]]:
    """
    The bodies of the pushes that *request* brings.

    Raises:
        Refusal: It has not the right key or signature, or brings something else.
    """
    given = request.headers.get("authorization", "").encode(errors="replace")
    if api_key is not None and not hmac.compare_digest(given, f"Bearer {api_key}".encode()):
        raise Refusal(401, "the bearer key is missing or wrong")
    if secrets is not None:
        try:
            verify(secrets, request.headers, request.raw)
        except BadSignature as exc:
            raise Refusal(401, str(exc)) from None
    try:
        found = orjson.loads(request.raw)
    except orjson.JSONDecodeError as exc:
        raise Refusal(400, f"the body is not JSON: {exc}") from None
    bodies = found if request.path == BATCH_PATH else [found]
    if not (isinstance(bodies, list) and all(map(_is_push, bodies))):
        raise Refusal(400, "the body is no push, or on the path for batches no array of them")
    return bodies


def _is_push(body: Any) -> bool:
    names = ("task_id", "status", "idempotency_key")
    return isinstance(body, dict) and all(isinstance(body.get(name), str) for name in names)
