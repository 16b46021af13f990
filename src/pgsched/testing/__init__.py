"""
A test double of an external system, for those who test what they built on pgsched.

    with FakeExternalSystem(secrets="whsec_…") as system:
        system.answer(503, 202)  # the first push is deferred
        ...  # a worker with PGSCHED_EXTERNAL_SYSTEM_URL=system.url
        first, second = system.wait_for(2)
        system.report(second, "SUCCESS", output_ref="s3://bucket/4711")

It is a real HTTP server on loopback, in threads of its own.  Its methods block:
where worker or API are in the event loop of the test, call them in a thread, as
`await asyncio.to_thread(system.wait_for, 2)`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from threading import Condition, Event
from typing import Any, Literal, Self, TypeVar

from pgsched.testing.pushes import (
    BATCH_PATH,
    PUSH_PATH,
    RESET,
    Answer,
    Push,
    Refusal,
    Said,
    read_pushes,
    said,
)
from pgsched.testing.reports import Report, Reporter
from pgsched.testing.server import LoopbackServer, Reply, Request

__all__ = ["RESET", "Answer", "FakeExternalSystem", "Push", "Report"]

T = TypeVar("T")
P = TypeVar("P")
# An answer, or what makes one of the push.
Scripted = Answer | Callable[[Push], Answer]


class FakeExternalSystem:
    """
    Keeps every push, answers as told (202 until then), and can report back.

    What is to be executed and what tells of a status come side by side, in no
    order between them, so each has answers of its own.

    What it answers may be changed at any time.  What went wrong in one of its
    threads, as in a function of the test, is raised at the end of `with`.
    """

    def __init__(
        self,
        *,
        secrets: str | Sequence[bytes] | None = None,
        api_key: str | None = None,
        report_key: str | None = None,
        batches: bool = True,
        reports: Literal["SUCCESS", "FAILED", "CANCELLED"] | None = None,
        dedupe: bool = True,
    ) -> None:
        """
        Args:
            secrets: Pushes must be signed with one of them (`signing.verify()`), else 401.
            api_key: Pushes must carry it as bearer, else 401.
            report_key: What reports carry when the push brings no callback_token.
            batches: Whether there is the path for batches, else 404.
            reports: Report RUNNING, then this, of each READY push that was answered 2xx.
            dedupe: Report so once for each idempotency key, not once for each push.
        """
        self.url = ""
        self.pushes: list[Push] = []
        self.refused: list[str] = []  # why requests were answered 400 or 401 and are no pushes
        self.reported: list[Report] = []
        self._secrets, self._api_key, self._report_key = secrets, api_key, report_key
        self._paths = {PUSH_PATH, BATCH_PATH} if batches else {PUSH_PATH}
        self._reports, self._dedupe = reports, dedupe
        self._answers: deque[Scripted] = deque([202])
        self._news_answers: deque[Scripted] = deque([202])
        self._batch_answer: Answer | Callable[[list[Push]], Answer] | None = None
        self._delay, self._deliveries = 0.0, 0
        self._keys: set[str] = set()
        self._errors: list[Exception] = []
        self._changed, self._closing = Condition(), Event()

    # What the test says

    def answer(self, first: Scripted, *rest: Scripted, delay: float = 0) -> None:
        """
        Answer what is to be executed so, one push after the other, and all after like the last.

        An answer is a status, (status, body), (status, body, headers), RESET, or a
        function that makes one of a push; while it blocks, the push is held.

        Raises:
            TypeError: One of them is none of these.
        """
        self._answers, self._delay = _script(first, *rest), delay

    def answer_news(self, first: Scripted, *rest: Scripted) -> None:
        """Answer in the same way, and at once, what tells of a status and executes nothing."""
        self._news_answers = _script(first, *rest)

    def answer_batch(self, answer: Answer | Callable[[list[Push]], Answer] | None) -> None:
        """Answer batches so as a whole; None: 200, and a result for each as said of its kind."""
        if not callable(answer) and answer is not None:
            said(answer)
        self._batch_answer = answer

    def report(self, push: Push, status: str, **fields: Any) -> tuple[int, Any]:
        """Report to the push's callback_url, with its token; the answer's status and body."""
        report = self._reporter.send(push, status, **fields)
        return report.code, report.body

    # What the test sees

    def of(self, task_id: object) -> list[Push]:
        """The pushes of one task, in the order in which they came."""
        return [push for push in self.pushes if push.task_id == str(task_id)]

    @property
    def executions(self) -> list[str]:
        """The idempotency keys of what was to be executed, each once."""
        return list(dict.fromkeys(push.key for push in self.pushes if not push.is_news))

    @property
    def news(self) -> list[Push]:
        """The pushes that tell what became of a task, and execute nothing."""
        return [push for push in self.pushes if push.is_news]

    def wait_for(self, count: int, timeout: float = 30) -> list[Push]:
        """All pushes so far, as soon as there are *count*."""
        self.wait_until(lambda: len(self.pushes) >= count, timeout)
        return list(self.pushes)

    def wait_until(self, condition: Callable[[], T], timeout: float = 30) -> T:
        """What *condition* returns, as soon as it is true; asked at each request and report."""
        with self._changed:
            if found := self._changed.wait_for(condition, timeout):
                return found
        seen = f"{len(self.pushes)} pushes, {len(self.reported)} reports, refused: {self.refused}"
        raise TimeoutError(f"it did not come true within {timeout:g} s: {seen}")

    # Start and stop

    def __enter__(self) -> Self:
        self._reporter = Reporter(self._report_key, self._keep, self._errors.append)
        self._server = LoopbackServer(self._take)
        self.url = self._server.url
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._closing.set()
        self._server.stop()
        self._reporter.close()
        if self._errors and kind is None:
            raise self._errors[0]

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await asyncio.to_thread(self.__exit__, kind)

    # In other threads

    def _keep(self, report: Report) -> None:
        with self._changed:
            self.reported.append(report)
            self._changed.notify_all()

    def _take(self, request: Request) -> Reply | None:
        if request.path not in self._paths:
            return Reply(404)
        try:
            bodies = read_pushes(request, self._secrets, self._api_key)
        except Refusal as refusal:
            with self._changed:
                self.refused.append(refusal.reason)
                self._changed.notify_all()
            return Said(refusal.status, {"message": refusal.reason}).reply()
        with self._changed:
            self._deliveries += 1
            came = [Push.of(body, request, self._deliveries) for body in bodies]
            self.pushes += came
            self._changed.notify_all()
        if not all(push.is_news for push in came):
            self._closing.wait(self._delay)
        answer = self._batch(came) if request.path == BATCH_PATH else self._each(came)[0]
        return answer and answer.reply()

    def _batch(self, came: list[Push]) -> Said | None:
        if self._batch_answer is not None:
            whole = self._call(self._batch_answer, came)
            self._accept(came, [whole] * len(came))
            return whole
        results = [
            answer and answer.result(push)
            for push, answer in zip(came, self._each(came), strict=True)
        ]
        return None if None in results else Said(200, results)

    def _each(self, came: list[Push]) -> list[Said | None]:
        answers = []
        for push in came:
            with self._changed:
                held = self._news_answers if push.is_news else self._answers
                answer = held.popleft() if len(held) > 1 else held[0]
            answers.append(self._call(answer, push))
        self._accept(came, answers)
        return answers

    def _call(self, answer: Answer | Callable[[P], Answer], argument: P) -> Said | None:
        try:
            return said(answer(argument) if callable(answer) else answer)
        except Exception as exc:
            self._errors.append(exc)
            return Said(500, {"message": repr(exc)})

    def _accept(self, came: list[Push], answers: list[Said | None]) -> None:
        if self._reports is None or self._closing.is_set():
            return
        for push, answer in zip(came, answers, strict=True):
            if push.is_news or not (answer and answer.accepts):
                continue
            if not (self._dedupe and push.key in self._keys):
                self._keys.add(push.key)
                self._reporter.send_later(push, "RUNNING", self._reports)


def _script(*answers: Scripted) -> deque[Scripted]:
    """What is no answer is refused now, and not when a push comes, in a thread."""
    for answer in answers:
        if not callable(answer):
            said(answer)
    return deque(answers)
