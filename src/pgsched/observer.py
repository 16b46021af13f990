"""A database that tells others of the calls a worker makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from time import perf_counter
from typing import Any

from psycopg.rows import TupleRow

from pgsched.database import Database
from pgsched.models import ClaimedTask, Json, ReportAnswer

Items = list[dict[str, Json]]


class Observer:
    """
    Is told of each call after it has ended; what it does not care for it leaves out.

    *seconds* is how long the call took.  Nothing here may wait, or raise.
    """

    def claimed(self, tasks: list[ClaimedTask], horizon: datetime, seconds: float) -> None:
        """*horizon* is 100 ms before the claim, by the clock of the database."""

    def settled(self, settlements: Items, refused: dict[str, str], seconds: float) -> None:
        """*refused* says why, by the id of the task."""

    def reported(self, reports: Items, refused: list[ReportAnswer], seconds: float) -> None:
        """The result was in the answer to the push, so the worker reports it."""

    def told(self, results: Items) -> None:
        """Messages of the outbox, and what became of them."""

    def fired(self, count: int) -> None:
        """Instants of schedules."""

    def failed(self, exc: Exception) -> None:
        """A call did not go through."""


def taken(reports: Items, refused: list[ReportAnswer]) -> Counter[str]:
    """How many reports were not refused, by status."""
    statuses = [report["status"] for report in reports]
    return Counter(statuses) - Counter(statuses[answer.report_index] for answer in refused)


class ObservedDatabase(Database):
    """The same, with observers."""

    def __init__(self, dsn: str, observers: Sequence[Observer], **options: Any) -> None:
        super().__init__(dsn, **options)
        self.observers = observers

    async def _rows(self, query: str, given: Sequence[object] = ()) -> list[TupleRow]:
        try:
            return await super()._rows(query, given)
        except Exception as exc:
            self._tell_failed(exc)
            raise

    def _tell_failed(self, exc: Exception) -> None:
        for observer in self.observers:
            observer.failed(exc)

    async def claim(
        self, worker_id: str, limit: int, queues: list[str], cursors: Json
    ) -> tuple[datetime, list[ClaimedTask]]:
        began = perf_counter()
        horizon, tasks = await super().claim(worker_id, limit, queues, cursors)
        seconds = perf_counter() - began
        for observer in self.observers:
            observer.claimed(tasks, horizon, seconds)
        return horizon, tasks

    async def settle(self, settlements: Items) -> dict[str, str]:
        began = perf_counter()
        refused = await super().settle(settlements)
        seconds = perf_counter() - began
        for observer in self.observers:
            observer.settled(settlements, refused, seconds)
        return refused

    async def report(self, reports: Items) -> list[ReportAnswer]:
        began = perf_counter()
        refused = await super().report(reports)
        seconds = perf_counter() - began
        for observer in self.observers:
            observer.reported(reports, refused, seconds)
        return refused

    async def settle_news(self, results: Items) -> int:
        count = await super().settle_news(results)
        for observer in self.observers:
            observer.told(results)
        return count

    async def fire_schedules(self, ticks: Items) -> int:
        count = await super().fire_schedules(ticks)
        for observer in self.observers:
            observer.fired(count)
        return count
