"""What a stand-in for an external system receives and answers."""

from __future__ import annotations

import time
from typing import Any, Final, NamedTuple

READY = "READY_FOR_EXECUTION"


class Push:
    """One task, or news of one, as it arrived; in a request of its own or in a batch."""

    def __init__(
        self, body: dict[str, Any], headers: dict[str, str], raw: bytes, *, is_batched: bool
    ) -> None:
        self.body = body
        self.headers: Final = headers  # by their names in lower case
        self.raw: Final = raw  # the body of the request
        self.is_batched: Final = is_batched
        self.arrived_at: Final = time.time()

    def __repr__(self) -> str:
        return f"<Push {self.body.get('status')} {self.key}>"

    @property
    def task_id(self) -> str:
        return str(self.body["task_id"])

    @property
    def attempt(self) -> int:
        return int(self.body["attempt"])

    @property
    def key(self) -> str:
        """The idempotency key."""
        return str(self.body["idempotency_key"])

    @property
    def is_news(self) -> bool:
        """Whether it only tells of a status, and nothing is to be run."""
        return bool(self.body["status"] != READY)


class Reply(NamedTuple):
    """What a push is answered."""

    status: int = 202
    body: Any = None  # as JSON; None: an empty body
    headers: dict[str, str] = {}  # noqa: RUF012 (never written to)
    delay: float = 0  # seconds


# Close the connection without an answer.
RESET: Final = Reply(0)
