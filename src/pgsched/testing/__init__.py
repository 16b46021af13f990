"""
A stand-in for an external system, to test what schedules tasks.

    with FakeExternalSystem(reports="SUCCESS") as system:
        ...  # a worker whose PGSCHED_EXTERNAL_SYSTEM_URL is system.url
        [push] = system.wait_for(1)
        assert push.body["metadata"]["input_params"] == {"order": 4711}

It is a real HTTP server on the loopback, in a thread, that keeps all it was
sent and answers as the test says.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import httpx
import orjson

from pgsched.external import BATCH_PATH, PUSH_PATH
from pgsched.signing import SignatureError, read_secrets, verify
from pgsched.testing.pushes import RESET, Push, Reply
from pgsched.testing.server import Server

__all__ = ["RESET", "FakeExternalSystem", "Push", "Reply"]

# A reply, or a status alone; or a function that says so of each push.
Answer = Reply | int
Answering = Answer | Callable[[Push], Answer]


class FakeExternalSystem:
    """
    Takes pushes, alone and in batches, and keeps them.

    Use it as a context manager.  `answer` may be changed at any time.
    """

    def __init__(
        self,
        answer: Answering = 202,
        *,
        api_key: str | None = None,
        secrets: str | None = None,
        takes_batches: bool = True,
        reports: str | None = None,
        reports_with: str | None = None,
    ) -> None:
        """
        Args:
            answer: What a push is answered: a status, a `Reply`, or a function of the push.
            api_key: The bearer token that a request must carry, else it is answered 401.
            secrets: With which a request must be signed, as in `signing_secret_env`; else 401.
            takes_batches: False answers 404 to them.
            reports: SUCCESS or FAILED: what is answered 2xx is reported RUNNING, then this.
            reports_with: The API key to report with; None: the callback_token of the push.

        Raises:
            ValueError: *secrets* holds none.
        """
        self.answer = answer
        self.takes_batches = takes_batches
        self.url = ""
        self.requests = 0
        self._api_key = api_key
        self._secrets = read_secrets(secrets) if secrets else ()
        self._reports = reports
        self._reports_with = reports_with
        self._arrived: list[Push] = []
        self._changed = threading.Condition()
        self._http = httpx.Client(timeout=10, trust_env=False)
        self._server: Server | None = None

    def __enter__(self) -> Self:
        self._server = Server(self.take)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None  # noqa: S101
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._http.close()

    # What has arrived

    @property
    def pushes(self) -> list[Push]:
        """Every delivery of a task, in the order they came."""
        with self._changed:
            return [push for push in self._arrived if not push.is_news]

    @property
    def news(self) -> list[Push]:
        """Every change of status that it was told of."""
        with self._changed:
            return [push for push in self._arrived if push.is_news]

    @property
    def executions(self) -> set[str]:
        """The idempotency keys: as often as tasks were meant to be run."""
        return {push.key for push in self.pushes}

    def of(self, task_id: str) -> list[Push]:
        """The deliveries of one task."""
        return [push for push in self.pushes if push.task_id == task_id]

    def wait_for(self, count: int, timeout: float = 30) -> list[Push]:
        """
        The deliveries, once there are *count*.

        Raises:
            TimeoutError: There were fewer after *timeout* seconds.
        """
        return self._wait(lambda: self.pushes, count, timeout)

    def wait_for_news(self, count: int, timeout: float = 30) -> list[Push]:
        """The news, once there are *count*; raises like `wait_for()`."""
        return self._wait(lambda: self.news, count, timeout)

    def _wait(self, seen: Callable[[], list[Push]], count: int, timeout: float) -> list[Push]:
        with self._changed:
            if not self._changed.wait_for(lambda: len(seen()) >= count, timeout):
                raise TimeoutError(f"{len(seen())} of {count} came within {timeout:g} s")
            return seen()

    # What goes back

    def report(self, push: Push, status: str, **fields: Any) -> tuple[int, dict[str, Any]]:
        """Report on a push to its callback_url; the status and the body of the answer."""
        token = self._reports_with or push.body["callback_token"]
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        body = {"status": status, **fields}
        answer = self._http.post(push.body["callback_url"], json=body, headers=headers)
        return answer.status_code, answer.json()

    # The server's side

    def take(self, path: str, headers: dict[str, str], raw: bytes) -> Reply:
        """Keep what has come, and say what it is answered."""
        self.requests += 1
        if path == BATCH_PATH and not self.takes_batches:
            return Reply(404)
        if path not in (PUSH_PATH, BATCH_PATH):
            return Reply(404, {"message": f"nothing is here but {PUSH_PATH} and {BATCH_PATH}"})
        if refusal := self._refusal(headers, raw):
            return Reply(401, {"message": refusal})
        body = orjson.loads(raw)
        is_batched = path == BATCH_PATH
        bodies = body if is_batched else [body]
        pushes = [Push(one, headers, raw, is_batched=is_batched) for one in bodies]
        with self._changed:
            self._arrived += pushes
            self._changed.notify_all()
        replies = [self._reply(push) for push in pushes]
        self._report_all(pushes, replies)
        return _together(pushes, replies) if is_batched else replies[0]

    def _refusal(self, headers: dict[str, str], raw: bytes) -> str | None:
        if self._api_key and headers.get("authorization") != f"Bearer {self._api_key}":
            return "Authorization does not carry the API key"
        if self._secrets:
            try:
                verify(self._secrets, headers, raw)
            except SignatureError as exc:
                return str(exc)
        return None

    def _reply(self, push: Push) -> Reply:
        if push.is_news:
            return Reply(202)
        answer = self.answer(push) if callable(self.answer) else self.answer
        return answer if isinstance(answer, Reply) else Reply(answer)

    def _report_all(self, pushes: Sequence[Push], replies: Iterable[Reply]) -> None:
        for push, reply in zip(pushes, replies, strict=True):
            if self._reports and not push.is_news and 200 <= reply.status < 300:
                threading.Thread(target=self._report_both, args=[push], daemon=True).start()

    def _report_both(self, push: Push) -> None:
        self.report(push, "RUNNING")
        self.report(push, self._reports or "SUCCESS")


def _together(pushes: Sequence[Push], replies: Sequence[Reply]) -> Reply:
    """The answer to a batch: one that resets resets all, and the slowest delays all."""
    if RESET in replies:
        return RESET
    results = [
        {**(reply.body or {}), "task_id": push.task_id, "code": reply.status}
        for push, reply in zip(pushes, replies, strict=True)
    ]
    return Reply(200, results, delay=max(reply.delay for reply in replies))
