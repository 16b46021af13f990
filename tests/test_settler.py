"""The settler: what it cannot write must not keep the rest from being written."""

from __future__ import annotations

import asyncio

import pytest

from pgsched.answers import Outcome, Verdict
from pgsched.errors import Unavailable
from pgsched.loops import end, forever
from pgsched.models import ClaimedTask, Json, ReportAnswer
from pgsched.settler import BATCH, Settler
from tests.claimed import claimed

Batch = list[dict[str, Json]]


def task(name: str) -> ClaimedTask:
    return claimed(id=name)


class Written:
    """In place of the database: it takes all but what the test says."""

    def __init__(self) -> None:
        self.settled: list[str] = []
        self.reported: Batch = []
        self.locked: set[str] = set()
        self.poison: set[str] = set()
        self.too_much: set[str] = set()
        self.is_away = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def settle(self, settlements: Batch) -> dict[str, str]:
        await self.may_answer.wait()
        ids = [s["task_id"] for s in settlements]
        if self.is_away:
            raise Unavailable("away")
        if self.poison & set(ids):
            raise ValueError("poison")
        self.settled += [i for i in ids if i not in self.locked]
        return dict.fromkeys(self.locked & set(ids), "LOCKED")

    async def report(self, reports: Batch) -> list[ReportAnswer]:
        refused = []
        for n, report in enumerate(reports):
            if report["task_id"] in self.too_much and "output_ref" in report:
                refused.append(ReportAnswer(n, report["task_id"], None, "PS422", "too much"))
            else:
                self.reported.append(report)
        return refused


@pytest.fixture
def written() -> Written:
    return Written()


@pytest.fixture
def settler(written: Written) -> Settler:
    return Settler(written)  # type: ignore[arg-type]


def accept(settler: Settler, *names: str) -> None:
    for name in names:
        settler.settle(task(name), Outcome(Verdict.ACCEPTED, "HTTP 202"))


async def test_what_cannot_be_written_keeps_nothing_else_from_it(
    settler: Settler, written: Written
) -> None:
    written.poison = {"b"}
    accept(settler, "a", "b", "c", "d", "e")

    await settler.flush()

    assert written.settled == ["a", "c", "d", "e"]
    assert not settler.is_pending


async def test_an_outage_loses_nothing(settler: Settler, written: Written) -> None:
    written.is_away = True
    accept(settler, "a", "b")
    with pytest.raises(Unavailable):
        await settler.flush()

    written.is_away = False
    await settler.flush()

    assert written.settled == ["a", "b"]


async def test_a_locked_task_is_said_again(settler: Settler, written: Written) -> None:
    written.locked = {"a"}
    accept(settler, "a", "b")
    assert await settler.flush() > 0

    written.locked = set()
    await settler.flush()

    assert written.settled == ["b", "a"]


async def test_a_success_whose_details_are_refused_is_a_success(
    settler: Settler, written: Written
) -> None:
    written.too_much = {"a"}
    settler.settle(task("a"), Outcome(Verdict.SUCCEEDED, "HTTP 200", output_ref="x" * 9999))

    await settler.drain()

    [report] = written.reported
    assert report["status"] == "SUCCESS"
    assert "output_ref" not in report


async def test_what_was_being_written_when_the_loop_ended_is_written_again(
    settler: Settler, written: Written
) -> None:
    written.may_answer.clear()
    loop = asyncio.create_task(forever(settler.step))
    accept(settler, "a", "b")
    while settler.is_pending:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)

    await end([loop])
    written.may_answer.set()
    await settler.drain()

    assert written.settled == ["a", "b"]


async def test_full_batches_are_written_one_right_after_the_other(
    settler: Settler, written: Written
) -> None:
    for n in range(2 * BATCH + 1):
        settler.settle(task(str(n)), Outcome(Verdict.SUCCEEDED, "HTTP 200"))
    loop = asyncio.create_task(forever(settler.step))

    await asyncio.sleep(0)
    await end([loop])

    assert len(written.reported) == 2 * BATCH
