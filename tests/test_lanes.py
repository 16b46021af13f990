"""A lane: what it pushes, how many at a time, together or alone, and what it gives back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, cast

import pytest

from pgsched.answers import Answer, Outcome, Reply, Verdict
from pgsched.batches import BatchAnswer, answers_of
from pgsched.breaker import THRESHOLD, Breaker
from pgsched.lanes import Held, Lane
from pgsched.lease import Lease
from pgsched.models import ClaimedTask, Completion, ExternalSystem
from pgsched.pace import MOMENT
from pgsched.settler import Settler
from tests.claimed import AT, claimed
from tests.waiting import until

ACCEPTED = Answer(Reply.ANSWERED, 202)
SYSTEM = ExternalSystem(
    "crm", "http://crm.example", None, Completion.CALLBACK, timedelta(seconds=5)
)


class Receiver:
    """In place of HTTP: answers what the test says, when it lets it."""

    def __init__(self) -> None:
        self.single: Answer | Exception = ACCEPTED
        self.held_answers: dict[str, Answer] = {}  # of tasks that wait for `may_answer`
        self.batch = ACCEPTED
        self.carries = 1000
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.pushed: list[list[str]] = []
        self.under_way = self.most_under_way = 0

    async def push_task_status(self, system: ExternalSystem, task: ClaimedTask) -> Answer:
        await self._take([task], is_held=not self.held_answers or task.id in self.held_answers)
        if task.id in self.held_answers:
            return self.held_answers[task.id]
        if isinstance(self.single, Exception):
            raise self.single
        return self.single

    async def push_batch(self, system: ExternalSystem, tasks: Sequence[ClaimedTask]) -> BatchAnswer:
        tasks = tasks[: self.carries]
        await self._take(tasks)
        return answers_of(self.batch, [task.id for task in tasks])

    async def _take(self, tasks: Sequence[ClaimedTask], *, is_held: bool = True) -> None:
        self.pushed.append([task.id for task in tasks])
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        if is_held:
            await self.may_answer.wait()
        self.under_way -= 1


class Book:
    """In place of the settler."""

    def __init__(self) -> None:
        self.settled: dict[str, Outcome] = {}
        self.released: list[str] = []

    def settle(self, task: ClaimedTask, outcome: Outcome) -> None:
        assert task.id not in self.settled, "settled twice"
        self.settled[task.id] = outcome

    def release(self, task: ClaimedTask) -> None:
        self.released.append(task.id)


class HeldLease:
    """In place of the lease."""

    is_held = True

    def holds(self, generation: int) -> bool:
        return self.is_held


class Store:
    """In place of the database of the breaker."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def open_breaker(self, system: str, reason: str) -> datetime | None:
        self.calls.append("open")
        return AT

    async def close_breaker(self, system: str) -> bool:
        self.calls.append("close")
        return True


class Scene:
    """One lane and all around it."""

    def __init__(self, slots: int = 2, **system: Any) -> None:
        self.receiver, self.book, self.lease, self.store = Receiver(), Book(), HeldLease(), Store()
        self.calls: list[str] = []
        self.lane = Lane(
            SYSTEM._replace(**system),
            self.receiver,
            cast("Lease", self.lease),
            cast("Settler", self.book),
            Breaker("crm", self.store),
            slots=slots,
            on_room=lambda: self.calls.append("room"),
            on_idle=lambda: self.calls.append("idle"),
        )

    def submit(self, *tasks: ClaimedTask, until: float = 60) -> None:
        for task in tasks:
            self.lane.submit(Held(task, monotonic() + until, 1))

    async def until_idle(self) -> None:
        await until(lambda: not self.lane.held)


def tasks(count: int) -> list[ClaimedTask]:
    return [claimed(n) for n in range(1, count + 1)]


def ids(given: Sequence[ClaimedTask]) -> list[str]:
    return [task.id for task in given]


async def test_no_more_requests_than_slots_are_under_way() -> None:
    scene = Scene(slots=3)
    scene.receiver.may_answer.clear()
    scene.submit(*tasks(6))
    await asyncio.sleep(0.01)
    assert scene.receiver.under_way == 3
    assert scene.lane.room == 0
    assert not scene.lane.has_room
    scene.lane.is_waited_for = True

    scene.receiver.may_answer.set()
    await scene.until_idle()

    assert scene.receiver.most_under_way == 3
    assert len(scene.book.settled) == 6
    assert scene.lane.has_room
    assert scene.calls == ["room", "idle"]


async def test_a_fast_system_has_more_at_hand_and_a_slow_one_no_more_than_it_pushes() -> None:
    scene = Scene(slots=3)
    pushed: list[ClaimedTask] = []
    began = monotonic()
    while monotonic() - began < 2 * MOMENT:
        pushed += (some := [claimed(len(pushed) + n) for n in range(6)])
        scene.submit(*some)
        await scene.until_idle()

    at_hand = scene.lane.room
    await asyncio.sleep(MOMENT)

    assert at_hand > 12
    assert scene.lane.room == 6


async def test_the_system_may_allow_fewer_and_change_its_mind() -> None:
    scene = Scene(slots=8, max_in_flight=1)
    scene.submit(*tasks(2))
    await scene.until_idle()
    assert scene.receiver.most_under_way == 1

    scene.lane.lead_to(SYSTEM._replace(max_in_flight=4), monotonic())
    scene.receiver.may_answer.clear()
    scene.submit(*tasks(8)[2:])
    await asyncio.sleep(0.01)

    assert scene.receiver.under_way == 4
    scene.receiver.may_answer.set()
    await scene.until_idle()


async def test_a_task_submitted_as_the_last_slot_ends_is_pushed() -> None:
    scene = Scene(slots=1)
    for task in tasks(50):
        scene.submit(task)
        for _ in range(20):  # so that some meet it just as it ends
            if task.id in scene.book.settled:
                break
            await asyncio.sleep(0)
    await scene.until_idle()

    assert ids(tasks(50)) == list(scene.book.settled)


@pytest.mark.parametrize("reason", ["held too long", "lease lost"])
async def test_what_cannot_be_pushed_in_time_is_given_back(reason: str) -> None:
    scene = Scene()
    scene.lease.is_held = reason != "lease lost"
    scene.submit(*tasks(3), until=9 if reason == "held too long" else 60)
    await scene.until_idle()

    assert scene.receiver.pushed == []
    assert scene.book.released == ids(tasks(3))


async def test_a_fault_of_our_own_defers_the_task_and_the_slot_goes_on() -> None:
    scene = Scene(slots=1)
    scene.receiver.single = RuntimeError("a bug")
    scene.submit(*tasks(2))
    await scene.until_idle()

    assert [o.verdict for o in scene.book.settled.values()] == [Verdict.DEFERRED] * 2
    assert "a bug" in scene.book.settled[claimed(1).id].reason


async def test_a_closed_lane_pushes_nothing_more() -> None:
    scene = Scene(slots=1)
    scene.receiver.may_answer.clear()
    scene.submit(*tasks(3))
    await asyncio.sleep(0.01)

    scene.lane.close()
    scene.receiver.may_answer.set()
    await scene.until_idle()

    assert list(scene.book.settled) == [claimed(1).id]
    assert scene.book.released == ids(tasks(3)[1:])


# Batches


async def test_what_waits_goes_together() -> None:
    scene = Scene(slots=1, batch_size=3)
    scene.submit(*tasks(7))
    await scene.until_idle()

    assert [len(one) for one in scene.receiver.pushed] == [3, 3, 1]
    assert {o.verdict for o in scene.book.settled.values()} == {Verdict.ACCEPTED}
    assert len(scene.book.settled) == 7


async def test_what_one_request_cannot_carry_goes_with_the_next() -> None:
    scene = Scene(slots=1, batch_size=4)
    scene.receiver.carries = 2
    scene.submit(*tasks(4))
    await scene.until_idle()

    assert scene.receiver.pushed == [ids(tasks(4)[:2]), ids(tasks(4)[2:])]
    assert len(scene.book.settled) == 4


async def test_what_a_batch_leaves_unanswered_is_pushed_alone_at_once() -> None:
    scene = Scene(slots=2, batch_size=3)
    body = b'[{"task_id": "%s"}]' % claimed(2).id.encode()
    scene.receiver.batch = ACCEPTED._replace(raw=body)
    scene.submit(*tasks(3))
    await scene.until_idle()

    assert scene.receiver.pushed == [ids(tasks(3)), [claimed(1).id], [claimed(3).id]]
    assert {o.verdict for o in scene.book.settled.values()} == {Verdict.ACCEPTED}


async def test_one_poisonous_task_fails_alone() -> None:
    scene = Scene(slots=2, batch_size=3)
    scene.receiver.batch = Answer(Reply.ANSWERED, 500)
    scene.submit(*tasks(3))
    await scene.until_idle()

    assert [len(one) for one in scene.receiver.pushed] == [3, 1, 1, 1]
    assert {o.verdict for o in scene.book.settled.values()} == {Verdict.ACCEPTED}


@pytest.mark.parametrize("completion", Completion)
@pytest.mark.parametrize(
    "whole",
    [Answer(Reply.TIMED_OUT), Answer(Reply.CUT), Answer(Reply.ANSWERED, 503)],
    ids=["timeout", "reset", "503"],
)
async def test_an_answer_that_defers_defers_the_batch_in_both_modes(
    whole: Answer, completion: Completion
) -> None:
    scene = Scene(slots=1, batch_size=3, completion=completion)
    scene.receiver.batch = whole
    scene.submit(*tasks(3))
    await scene.until_idle()

    assert len(scene.receiver.pushed) == 1
    assert [o.verdict for o in scene.book.settled.values()] == [Verdict.DEFERRED] * 3


@pytest.mark.parametrize("status", [404, 405, 415])
async def test_a_receiver_without_the_batch_path_gets_single_pushes_from_then_on(
    status: int,
) -> None:
    scene = Scene(slots=1, batch_size=3)
    scene.receiver.batch = Answer(Reply.ANSWERED, status)
    scene.submit(*tasks(6))
    await scene.until_idle()
    assert [len(one) for one in scene.receiver.pushed] == [3, 1, 1, 1, 1, 1, 1]
    assert scene.store.calls == []

    scene.lane.lead_to(SYSTEM._replace(batch_size=2), monotonic())
    scene.submit(*tasks(8)[6:])
    await scene.until_idle()

    assert scene.receiver.pushed[7:] == [ids(tasks(8)[6:]), [claimed(7).id], [claimed(8).id]]


# The breaker


async def test_ten_failures_open_the_breaker_and_give_back_what_waits() -> None:
    scene = Scene(slots=THRESHOLD)
    scene.receiver.single = Answer(Reply.UNREACHABLE)
    scene.receiver.may_answer.clear()
    scene.submit(*tasks(2 * THRESHOLD))
    await asyncio.sleep(0.01)
    scene.receiver.may_answer.set()
    await scene.until_idle()

    assert scene.store.calls == ["open"]
    pushed = [one[0] for one in scene.receiver.pushed]
    assert sorted(pushed + scene.book.released) == ids(tasks(2 * THRESHOLD))
    assert scene.book.released
    assert all(o.verdict is Verdict.DEFERRED for o in scene.book.settled.values())


async def test_pushes_that_hang_side_by_side_say_nothing_against_one_that_answers() -> None:
    scene = Scene(slots=THRESHOLD + 1)
    late = Answer(Reply.TIMED_OUT, elapsed=timedelta(seconds=60))
    scene.receiver.held_answers = dict.fromkeys(ids(tasks(THRESHOLD)), late)
    scene.receiver.may_answer.clear()
    scene.submit(*tasks(THRESHOLD + 1))
    await until(lambda: claimed(THRESHOLD + 1).id in scene.book.settled)

    scene.receiver.may_answer.set()
    await scene.until_idle()

    assert len(scene.book.settled) == THRESHOLD + 1
    assert scene.store.calls == []


@pytest.mark.parametrize("status", [202, 400, 409, 422, 429, 501])
async def test_an_answer_about_the_task_does_not_open_the_breaker(status: int) -> None:
    scene = Scene()
    scene.receiver.single = Answer(Reply.ANSWERED, status)
    scene.submit(*tasks(3 * THRESHOLD))
    await scene.until_idle()

    assert scene.store.calls == []


@pytest.mark.parametrize("status", [500, 503, 599, 302, 401, 403, 404, 407])
async def test_an_answer_that_blames_the_system_opens_the_breaker(status: int) -> None:
    scene = Scene()
    scene.receiver.single = Answer(Reply.ANSWERED, status)
    scene.submit(*tasks(THRESHOLD))
    await scene.until_idle()

    assert scene.store.calls == ["open"]


async def test_what_another_worker_opened_is_given_back_but_for_the_probe() -> None:
    scene = Scene(slots=1)
    scene.receiver.may_answer.clear()
    probe = claimed(3, is_probe=True)
    scene.submit(*tasks(2), probe)
    await asyncio.sleep(0.01)

    scene.lane.lead_to(SYSTEM._replace(is_open=True), monotonic())
    scene.receiver.may_answer.set()
    await scene.until_idle()

    assert scene.book.released == [claimed(2).id]
    assert scene.receiver.pushed == [[claimed(1).id], [probe.id]]
    assert scene.store.calls == ["close"]


async def test_an_open_breaker_lets_only_probes_through_one_by_one() -> None:
    scene = Scene(slots=1, batch_size=10, is_open=True)
    scene.lane.lead_to(scene.lane.system, monotonic())

    scene.submit(claimed(1), claimed(2, is_probe=True), claimed(3))
    await scene.until_idle()

    assert scene.receiver.pushed[0] == [claimed(2).id]
    assert claimed(1).id in scene.book.released


@pytest.mark.parametrize("completion", Completion)
@pytest.mark.parametrize("answer", [Answer(Reply.ANSWERED, 500), Answer(Reply.TIMED_OUT)])
async def test_a_failed_probe_spends_nothing(answer: Answer, completion: Completion) -> None:
    scene = Scene(is_open=True, completion=completion)
    scene.lane.lead_to(scene.lane.system, monotonic())
    scene.receiver.single = answer
    probe = claimed(1, is_probe=True)

    scene.submit(probe)
    await scene.until_idle()

    assert scene.book.settled[probe.id].verdict is Verdict.DEFERRED
    assert scene.store.calls == ["open"]
