"""The metrics of the API: its requests and reports, and what there is in the database."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from time import monotonic, perf_counter

import psycopg
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pgsched.api.census import describe
from pgsched.build import version
from pgsched.census import Census, take_census
from pgsched.db import Connection
from pgsched.errors import PgschedError
from pgsched.families import counter, gauge, histogram, registry_of, render
from pgsched.models import Json, ReportAnswer
from pgsched.tallies import CALL_SECONDS, Distribution

log = logging.getLogger(__name__)

# In seconds: within this time ten who ask cost as much as one, and none waits for longer.
CENSUS_AGE = 5.0
CENSUS_WAIT = 3.0
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})

Transaction = Callable[[], AbstractAsyncContextManager[Connection]]
Endpoint = tuple[str, str]  # method and route


def _distributions() -> defaultdict[Endpoint, Distribution]:
    return defaultdict(lambda: Distribution(CALL_SECONDS))


class ApiMetrics(Collector):
    """Counts, and asks the database now and then."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._registry = registry_of(self, version())
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._seconds = _distributions()
        self._reports: Counter[tuple[str, str]] = Counter()
        self._census: Census | None = None
        self._census_seconds = 0.0
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """*route* is the template of the path, as /api/tasks/{task_id}."""
        self._requests[method, route, f"{status // 100}xx"] += 1
        self._seconds[method, route].observe(seconds)

    def count_reports(
        self, reports: Sequence[dict[str, Json]], answers: Sequence[ReportAnswer]
    ) -> None:
        for answer in answers:
            status = reports[answer.report_index]["status"]
            self._reports[status, answer.code or "ok"] += 1

    async def render(self, accept: str) -> tuple[bytes, str]:
        """All metrics, and their content type."""
        async with self._looking:
            if monotonic() - self._looked_at >= CENSUS_AGE:
                await self._look()
        return render(self._registry, accept)

    async def _look(self) -> None:
        began = perf_counter()
        self._census = None
        try:
            async with asyncio.timeout(CENSUS_WAIT), self._transaction() as connection:
                self._census = await take_census(connection)
        except (PgschedError, psycopg.Error, TimeoutError) as exc:
            log.warning("metrics lack what is in the database", extra={"error": exc})
        self._census_seconds = perf_counter() - began
        self._looked_at = monotonic()

    def collect(self) -> Iterator[Metric]:
        labels = ("method", "route")
        yield counter(
            "pgsched_api_requests_total",
            "Requests, by the template of their path and the class of the status.",
            (*labels, "status"),
            sorted(self._requests.items()),
        )
        yield histogram(
            "pgsched_api_request_duration_seconds",
            "From the head of a request to the end of the response.",
            labels,
            sorted(self._seconds.items()),
        )
        yield counter(
            "pgsched_api_reports_total",
            "Reports, by the status they bring, and what the database said: ok, or a code.",
            ("status", "answer"),
            sorted(self._reports.items()),
        )
        yield gauge(
            "pgsched_database_up",
            "Whether the database said what there is.",
            (),
            [((), self._census is not None)],
        )
        yield gauge(
            "pgsched_database_look_duration_seconds",
            "How long the latest look took.",
            (),
            [((), self._census_seconds)],
        )
        yield from describe(self._census)


class Measure:
    """ASGI middleware around all else: counts requests."""

    def __init__(self, app: ASGIApp, metrics: ApiMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.count_request(method, route_of(scope), status, perf_counter() - began)


def route_of(scope: Scope) -> str:
    """The template of the path, once the request was routed; one name for all that was not."""
    return getattr(scope.get("route"), "path", None) or "none"
