"""A worker's parts with spans: claims, pushes, settles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from time import time_ns
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer

from pgsched.answers import Answer, Reply
from pgsched.batches import BatchAnswer
from pgsched.clients import Client, HandlerClient
from pgsched.external import BATCH_PATH, PUSH_PATH
from pgsched.models import ClaimedTask, ExternalSystem, ReportAnswer
from pgsched.observer import Items, Observer
from pgsched.spans import below, headers_of, parent_of
from pgsched.tracing import HEADERS

Attributes = dict[str, str | int]
# As many as the SDK keeps of a span.
MOST_LINKS = 128


class SpanObserver(Observer):
    """A trace for each claim that found tasks, and for each call that writes how pushes ended."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def claimed(self, tasks: list[ClaimedTask], horizon: datetime, seconds: float) -> None:
        if tasks:
            self._record("pgsched claim", seconds, {"pgsched.tasks": len(tasks)})

    def settled(self, settlements: Items, refused: dict[str, str], seconds: float) -> None:
        counts: Attributes = {"pgsched.tasks": len(settlements), "pgsched.refused": len(refused)}
        self._record("pgsched settle", seconds, counts)

    def reported(self, reports: Items, refused: list[ReportAnswer], seconds: float) -> None:
        counts: Attributes = {"pgsched.tasks": len(reports), "pgsched.refused": len(refused)}
        self._record("pgsched report", seconds, counts)

    def _record(self, name: str, seconds: float, attributes: Attributes) -> None:
        began = time_ns() - int(seconds * 1e9)
        self._tracer.start_span(name, Context(), attributes=attributes, start_time=began).end()


class TracedClient:
    """A span around each push: of one task in its trace, of a batch in one of its own."""

    def __init__(self, client: Client, tracer: Tracer) -> None:
        self._client = client
        self._tracer = tracer
        self._is_local = isinstance(client, HandlerClient)

    async def push_task_status(self, system: ExternalSystem, task: ClaimedTask) -> Answer:
        about: Attributes = {
            "pgsched.task_id": task.id,
            "pgsched.attempt": task.attempt,
            "pgsched.definition": task.definition_name,
            "pgsched.queue": task.queue,
        }
        with self._span(system, PUSH_PATH, about, below(parent_of(task, self._tracer))) as span:
            answer = await self._client.push_task_status(system, task)
            self._note(span, answer)
            return answer

    async def push_batch(self, system: ExternalSystem, tasks: Sequence[ClaimedTask]) -> BatchAnswer:
        if self._is_local:  # each by itself
            return await self._client.push_batch(system, tasks)
        links = [Link(parent_of(task, self._tracer)) for task in tasks[:MOST_LINKS]]
        with self._span(system, BATCH_PATH, {}, Context(), links) as span:
            found = await self._client.push_batch(system, tasks)
            span.set_attribute("pgsched.tasks", len(found.parts))
            self._note(span, found.whole)
            return found

    @contextmanager
    def _span(
        self,
        system: ExternalSystem,
        path: str,
        about: Attributes,
        context: Context,
        links: Sequence[Link] = (),
    ) -> Iterator[Span]:
        name = "pgsched handler" if self._is_local else f"POST {path}"
        kind = SpanKind.CONSUMER if self._is_local else SpanKind.CLIENT
        about["pgsched.external_system"] = system.name
        if not self._is_local:
            about |= _address(system.base_url, path)
        span = self._tracer.start_span(name, context, kind, about, links)
        headers = [(k.encode(), v.encode()) for k, v in headers_of(span).items()]
        token = HEADERS.set(headers)
        try:
            with trace.use_span(span, end_on_exit=True):
                yield span
        finally:
            HEADERS.reset(token)

    def _note(self, span: Span, answer: Answer) -> None:
        status = answer.status_code
        if status is not None and not self._is_local:
            span.set_attribute("http.response.status_code", status)
        if (error := self._error_of(answer)) is not None:
            span.set_attribute("error.type", error)
            span.set_status(Status(StatusCode.ERROR))

    def _error_of(self, answer: Answer) -> str | None:
        if answer.reply is not Reply.ANSWERED:
            return answer.reply.lower()
        if self._is_local:
            return "handler" if (answer.body or {}).get("status") == "FAILED" else None
        return str(answer.status_code) if (answer.status_code or 0) >= 400 else None


@lru_cache(maxsize=256)
def _addressed(base_url: str, path: str) -> tuple[tuple[str, str | int], ...]:
    url = urlsplit(base_url)
    port = url.port or (443 if url.scheme == "https" else 80)
    return (
        ("http.request.method", "POST"),
        ("url.full", base_url.rstrip("/") + path),
        ("server.address", url.hostname or ""),
        ("server.port", port),
    )


def _address(base_url: str, path: str) -> Attributes:
    try:
        return dict(_addressed(base_url, path))
    except ValueError:  # such a push fails, and says why
        return {"http.request.method": "POST"}
