"""What a worker logs of its work: failed tasks, a line each minute, and trouble now and then."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from pgsched.database import Database
from pgsched.due import NewFailure
from pgsched.errors import Unavailable
from pgsched.failed_tasks import FailedTasks
from pgsched.lease import Lease
from pgsched.loops import REPEAT, Trouble
from pgsched.models import ReportAnswer
from pgsched.summary import Summary
from tests.claimed import claimed

START = datetime(2026, 3, 2, tzinfo=UTC)


@pytest.fixture(autouse=True)
def level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


# A line each minute


def test_a_minute_is_told_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    summary = Summary()
    summary.claimed([claimed(n) for n in range(5)], START, 0.01)
    settled = [("a", "ACCEPTED"), ("b", "ACCEPTED"), ("c", "RETRY_SAME"), ("d", "RELEASED")]
    summary.settled([{"task_id": t, "outcome": o} for t, o in settled], {"b": "STALE"}, 0.01)
    statuses = ["SUCCESS", "FAILED", "SUCCESS"]
    refused = [ReportAnswer(2, "r-2", "FAILED", "PS409", "too late")]
    summary.reported([{"status": status} for status in statuses], refused, 0.01)
    summary.fired(2)

    summary.tell()

    (line,) = caplog.records
    assert line.message == "work of the last minute"
    names = "claimed", "accepted", "retried", "given_back", "succeeded", "failed", "fired"
    assert [vars(line)[name] for name in names] == [5, 1, 1, 1, 1, 1, 2]


async def test_a_minute_without_work_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    summary = Summary()
    summary.claimed([], START, 0.01)
    summary.fired(0)

    assert await summary.step() == 60
    assert caplog.records == []
    summary.fired(1)
    await summary.step()
    await summary.step()
    assert len(caplog.records) == 1


# Failed tasks


class Failures:
    """Stands for the database and the lease; answers with the *counts* in turn."""

    worker_id = "w"

    def __init__(self, *counts: int) -> None:
        self._counts = list(counts)
        self.asked: list[datetime | None] = []

    async def new_failures(self, worker_id: str, after: datetime | None) -> list[NewFailure]:
        self.asked.append(after)
        count = self._counts.pop(0)
        until = START.replace(second=len(self.asked))
        none = NewFailure(until, 0, None, None, None, None, None)
        rows = [NewFailure(until, count, f"t-{n}", "trace", "job", "mail", 2) for n in range(count)]
        return rows[:20] or [none]


async def test_each_failed_task_is_told_and_of_many_the_rest_is_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Failures(0, 2, 0, 50)
    failed = FailedTasks(cast("Database", source), cast("Lease", source))

    told: list[list[str]] = []
    for _ in range(4):
        caplog.clear()
        assert 1 < await failed.step() < 3
        told.append([record.message for record in caplog.records])

    assert told == [[], ["task failed"] * 2, [], ["task failed"] * 20 + ["more tasks failed"]]
    assert vars(caplog.records[-1])["count"] == 30
    first = vars(caplog.records[0])
    fields = "task_id", "trace_id", "definition", "queue", "attempt"
    assert [first[name] for name in fields] == ["t-0", "trace", "job", "mail", 2]
    assert source.asked == [None, *(START.replace(second=n) for n in (1, 2, 3))]


# Trouble


def test_trouble_is_told_now_and_then_and_when_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 1000.0
    trouble = Trouble("claim", lambda: now)

    def told(exc: Exception | None) -> list[tuple[str, Any]]:
        caplog.clear()
        trouble.over() if exc is None else trouble.tell(exc)
        return [(record.levelname, record.exc_info) for record in caplog.records]

    assert told(None) == []
    assert told(Unavailable("no database")) == [("WARNING", None)]
    assert told(Unavailable("no database")) == []
    now += REPEAT
    assert told(Unavailable("no database")) == [("WARNING", None)]
    assert told(None) == [("INFO", None)]
    fault = KeyError("a fault of our own")
    assert told(fault) == [("ERROR", (KeyError, fault, None))]
    assert told(fault) == []
