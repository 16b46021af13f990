"""Reports, as an external system sends them back."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any, NamedTuple

import httpx

from pgsched.testing.pushes import Push

# Seconds between two tries of a report that was not heard.
PAUSE = 0.2
_NOT_HEARD = 599


class Report(NamedTuple):
    """What was reported of a push, and how that was answered."""

    push: Push
    status: str
    code: int
    body: Any  # JSON, or the text that it was


class Reporter:
    """Sends reports, on request or in threads of its own; *sent* and *failed* hear of each."""

    def __init__(
        self,
        key: str | None,
        sent: Callable[[Report], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._key, self._sent, self._failed = key, sent, failed
        self._http = httpx.Client(timeout=30, trust_env=False)
        self._threads = ThreadPoolExecutor(4)
        self._closing = Event()

    def send(self, push: Push, status: str, **fields: Any) -> Report:
        """One report to the push's callback_url, with its token or else the key."""
        if not (url := push.body.get("callback_url")):
            raise ValueError("the push has no callback_url: is PGSCHED_PUBLIC_URL set?")
        key = push.body.get("callback_token") or self._key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        body = {"status": status, "attempt": push.body["attempt"], **fields}
        response = self._http.post(url, json=body, headers=headers)
        try:
            said = response.json()
        except ValueError:
            said = response.text
        report = Report(push, status, response.status_code, said)
        self._sent(report)
        return report

    def send_later(self, push: Push, *statuses: str) -> None:
        """Each of *statuses* until it is heard, up to one that is refused."""
        self._threads.submit(self._send_all, push, statuses)

    def close(self) -> None:
        self._closing.set()
        self._threads.shutdown(cancel_futures=True)
        self._http.close()

    def _send_all(self, push: Push, statuses: tuple[str, ...]) -> None:
        try:
            for status in statuses:
                while (code := self._try(push, status)) >= 500:
                    if self._closing.wait(PAUSE):
                        return
                if code != 200:  # as executors are to do: stop working on it
                    return
        except Exception as exc:
            self._failed(exc)

    def _try(self, push: Push, status: str) -> int:
        try:
            return self.send(push, status).code
        except httpx.TransportError:
            return _NOT_HEARD
