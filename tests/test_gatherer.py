"""Gatherer: reports that come together travel together, and fail alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pgsched.api.gatherer import BATCH, CALLS, Gatherer
from pgsched.errors import Invalid, Unavailable
from pgsched.models import ReportAnswer

Bodies = list[dict[str, Any]]


class Database:
    """Answers when it is let, and refuses poison."""

    def __init__(self) -> None:
        self.calls: list[list[Any]] = []
        self.may_answer = asyncio.Event()
        self.error: Exception | None = None

    async def send(self, bodies: Bodies) -> list[ReportAnswer]:
        self.calls.append([body["n"] for body in bodies])
        await self.may_answer.wait()
        if self.error:
            raise self.error
        if any(body["n"] == "poison" for body in bodies):
            raise Invalid("poison")
        return [
            ReportAnswer(i, str(body["n"]), "RUNNING", None, None) for i, body in enumerate(bodies)
        ]


@pytest.fixture
async def database() -> Database:
    return Database()


def report_all(gatherer: Gatherer, numbers: list[Any]) -> list[asyncio.Task[list[ReportAnswer]]]:
    return [asyncio.create_task(gatherer.send([{"n": n}])) for n in numbers]


async def settle(tasks: list[asyncio.Task[list[ReportAnswer]]]) -> list[Any]:
    done = await asyncio.gather(*tasks, return_exceptions=True)
    return [r if isinstance(r, BaseException) else r[0].task_id for r in done]


async def a_few_turns_of_the_loop() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_first_reports_leave_at_once_and_the_rest_together(database: Database) -> None:
    gatherer = Gatherer(database.send)
    first = report_all(gatherer, list(range(CALLS)))
    await a_few_turns_of_the_loop()
    assert len(database.calls) == 1
    rest = report_all(gatherer, list(range(CALLS, CALLS + 2 * BATCH)))
    await asyncio.sleep(0)

    database.may_answer.set()

    expected = [str(n) for n in range(CALLS + 2 * BATCH)]
    assert await settle(first + rest) == expected
    assert max(map(len, database.calls)) == BATCH
    assert len(database.calls) <= CALLS + 3


async def test_no_more_calls_are_under_way_than_allowed(database: Database) -> None:
    gatherer = Gatherer(database.send)
    tasks: list[asyncio.Task[list[ReportAnswer]]] = []
    for n in range(3 * CALLS):
        tasks += report_all(gatherer, [n])
        await a_few_turns_of_the_loop()

    assert len(database.calls) == CALLS
    database.may_answer.set()
    assert len(await settle(tasks)) == 3 * CALLS


async def test_one_poisonous_report_does_not_fail_its_neighbours(database: Database) -> None:
    gatherer = Gatherer(database.send)
    tasks = report_all(gatherer, [1, "poison", 2])
    database.may_answer.set()

    before, poison, after = await settle(tasks)

    assert (before, after) == ("1", "2")
    assert isinstance(poison, Invalid)


@pytest.mark.parametrize("error", [Unavailable("down"), RuntimeError("a fault")])
async def test_when_the_database_is_gone_everybody_hears_of_it(
    database: Database, error: Exception
) -> None:
    gatherer = Gatherer(database.send)
    database.error = error
    tasks = report_all(gatherer, [1, 2, 3])
    database.may_answer.set()

    assert await settle(tasks) == [error] * 3

    database.error = None
    assert await settle(report_all(gatherer, [4])) == ["4"]


async def test_a_caller_that_has_gone_does_not_hold_up_the_others(database: Database) -> None:
    gatherer = Gatherer(database.send)
    gone, stays = report_all(gatherer, [1, 2])
    await a_few_turns_of_the_loop()
    assert len(database.calls) == 1
    gone.cancel()
    database.may_answer.set()

    assert await settle([stays]) == ["2"]


async def test_a_report_that_comes_as_the_calls_end_is_not_forgotten(database: Database) -> None:
    gatherer = Gatherer(database.send)

    async def report_twice() -> list[ReportAnswer]:
        await gatherer.send([{"n": 1}])
        return await gatherer.send([{"n": 2}])

    twice = asyncio.create_task(report_twice())
    others: list[asyncio.Task[list[ReportAnswer]]] = []
    for n in range(1, CALLS):
        await a_few_turns_of_the_loop()
        others += report_all(gatherer, [n])
    await a_few_turns_of_the_loop()
    database.may_answer.set()  # all calls end in the same turn

    async with asyncio.timeout(5):
        assert await settle([twice]) == ["2"]
