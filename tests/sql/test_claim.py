"""claim_due_tasks(): which tasks a worker is given, how many, and in which order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.sql.sched import HOUR, MINUTE, SECOND, Sched

MILLISECOND = timedelta(milliseconds=1)
NO_ID = "00000000-0000-0000-0000-000000000000"


def ids(claimed: list[Any]) -> list[str]:
    return [row.id for row in claimed]


def schedule_many(sched: Sched, count: int, **named: object) -> list[str]:
    """Tasks that come due one millisecond after the other, the last of them now."""
    start = sched.now - count * MILLISECOND
    made = []
    for n in range(1, count + 1):
        sched.clock(start + n * MILLISECOND)
        made.append(sched.schedule(**named))
    return made


# How many


@pytest.mark.parametrize("limit", [1, 5, 60])
def test_a_claim_never_gives_more_than_its_limit(sched: Sched, limit: int) -> None:
    schedule_many(sched, 50)

    assert len(sched.claim(limit)) == min(limit, 50)
    assert len(sched.tasks("status = 'SCHEDULED'")) == min(limit, 50)


def test_no_join_method_makes_a_claim_exceed_its_limit(sched: Sched) -> None:
    """A LIMIT in a subquery is run again for each outer row when nothing else is allowed."""
    schedule_many(sched, 50)
    for method in ("hashjoin", "mergejoin", "material", "sort", "memoize"):
        sched.conn.execute(f"set enable_{method} = off".encode())

    assert len(sched.claim(5)) == 5
    assert len(sched.tasks("status = 'SCHEDULED'")) == 5


def test_of_eight_claims_at_once_none_exceeds_its_limit_and_no_task_is_held_twice(
    sched: Sched, connect: Callable[[], Sched]
) -> None:
    made = schedule_many(sched, 200)
    claimed: list[list[str]] = []
    barrier = threading.Barrier(8)

    def claim(session: Sched) -> None:
        session.conn.execute("set enable_hashjoin = off; set enable_material = off")
        barrier.wait()
        while batch := session.claim(7):
            claimed.append(ids(batch))

    threads = [threading.Thread(target=claim, args=[connect()]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert max(map(len, claimed)) <= 7
    assert sorted(task for batch in claimed for task in batch) == sorted(made)


@pytest.mark.parametrize("limit", [0, -1, 10001, None])
def test_a_limit_out_of_range_is_refused(sched: Sched, limit: int) -> None:
    with pytest.raises(psycopg.Error, match="p_limit") as refused:
        sched.claim(limit)

    assert refused.value.sqlstate == "PS422"


def test_a_claimed_task_is_not_claimed_again(sched: Sched) -> None:
    sched.schedule()

    assert (len(sched.claim()), len(sched.claim())) == (1, 0)


# What a claim tells


def test_a_claim_carries_all_that_the_push_needs(sched: Sched) -> None:
    definition = sched.define("a", content={"run": "it"}, input_params={"x": 1})
    task_id = sched.schedule("a", input_params={"y": 2}, priority=3, schedule_config={"z": 3})

    claimed = sched.claim_one()

    assert claimed.id == task_id
    assert (str(claimed.definition_id), claimed.definition_name) == (definition, "a")
    assert (claimed.content, claimed.schedule_config) == ({"run": "it"}, {"z": 3})
    assert claimed.input_params == {"x": 1, "y": 2}
    assert (claimed.queue, claimed.priority) == ("default", 3)
    assert (claimed.attempt, claimed.delivery_count, claimed.retry_count) == (1, 1, 0)
    assert (claimed.round_index, claimed.scheduled_time) == (0, sched.now)


def test_every_claim_draws_a_higher_sequence_and_delivery(sched: Sched) -> None:
    sched.schedule()
    first = sched.claim_one()
    sched.settle(first, "RELEASED")
    second = sched.claim_one()

    assert second.sequence > first.sequence
    assert (first.delivery_count, second.delivery_count) == (1, 2)
    assert second.attempt == first.attempt


def test_the_hold_covers_the_request_and_a_margin(sched: Sched) -> None:
    sched.call("define_external_system", "slow", request_timeout=2 * MINUTE)
    sched.call("define_queue", "slow", "slow")
    task_id = sched.schedule(queue="slow")
    claimed = sched.claim_one()

    assert claimed.hold_seconds == 150
    assert sched.task(task_id).deadline_at == sched.now + 150 * SECOND


# Order


def test_urgent_tasks_come_first_then_the_oldest(sched: Sched) -> None:
    order = [(p, schedule_many(sched, 2, priority=p)) for p in (0, -9, 9, 5)]

    urgent_first = [task for _, tasks in sorted(order, reverse=True) for task in tasks]
    assert ids(sched.claim(3)) == urgent_first[:3]
    assert ids(sched.claim()) == urgent_first[3:]


def test_future_tasks_of_high_priority_hide_no_due_ones_of_low_priority(sched: Sched) -> None:
    for priority in (9, 0):
        for _ in range(20):
            sched.schedule(delay=HOUR, priority=priority)
    due = sched.schedule(priority=-9)

    assert ids(sched.claim(5)) == [due]


def test_tasks_are_taken_in_the_order_in_which_they_came_due_not_made(sched: Sched) -> None:
    later = sched.schedule(delay=2 * SECOND)
    sooner = sched.schedule(delay=SECOND)
    sched.clock(HOUR)

    assert ids(sched.claim(1)) == [sooner]
    assert ids(sched.claim(1)) == [later]


# Queues


def test_queues_are_emptied_in_the_order_given(sched: Sched) -> None:
    made = {}
    for name in "abc":
        sched.call("define_queue", name)
        made[name] = schedule_many(sched, 2, queue=name, priority=ord(name) - ord("a"))

    assert ids(sched.claim(3, ["b", "a"])) == [*made["b"], made["a"][0]]
    assert ids(sched.claim(3, ["b", "a"])) == [made["a"][1]]
    assert ids(sched.claim(3)) == made["c"]


def test_a_paused_queue_gives_nothing_and_what_is_under_way_goes_on(sched: Sched) -> None:
    waiting, under_way = sched.schedule(), sched.schedule()
    claimed = sched.claim(1)[0]
    sched.call("pause_queue", "default", "maintenance")

    assert sched.claim() == []
    assert sched.settle(claimed) is None
    sched.report(claimed.id, "SUCCESS")

    sched.call("resume_queue", "default")
    assert {claimed.id, *ids(sched.claim())} == {waiting, under_way}


def test_queues_that_do_not_exist_are_passed_over(sched: Sched) -> None:
    task_id = sched.schedule()

    assert ids(sched.claim(1, ["nowhere", "default"])) == [task_id]
    assert sched.claim(1, []) == []


# Leases


@pytest.mark.parametrize("who", ["nobody", "lapsed", "gone"])
def test_a_worker_without_a_lease_is_given_nothing(sched: Sched, who: str) -> None:
    sched.schedule()
    worker = sched.register()
    if who == "nobody":
        worker = str(sched.value("select pgsched.uuid7()"))
    elif who == "lapsed":
        sched.clock(30 * SECOND)
    else:
        sched.call("release_worker", worker)

    with pytest.raises(psycopg.Error, match="no lease") as refused:
        sched.claim(worker=worker)

    assert refused.value.sqlstate == "PS409"
    assert sched.claim() != []


# Cursors


def cursor(claimed: Any) -> list[str]:
    return [claimed.execute_after.isoformat(), str(claimed.id)]


def test_a_claim_does_not_see_what_lies_at_or_before_its_cursor(sched: Sched) -> None:
    made = schedule_many(sched, 5)
    position = cursor(sched.task(made[2]))

    assert ids(sched.claim(cursors={"default": {"0": position}})) == made[3:]


def test_tasks_of_the_same_moment_are_told_apart_by_id(sched: Sched) -> None:
    first, second = sorted([sched.schedule(), sched.schedule()])
    position = cursor(sched.task(first))

    assert ids(sched.claim(cursors={"default": {"0": position}})) == [second]


def test_the_star_stands_for_the_priorities_that_are_not_named(sched: Sched) -> None:
    low, high = schedule_many(sched, 1, priority=-1), schedule_many(sched, 1, priority=1)
    end = [sched.now.isoformat(), "ffffffff-ffff-ffff-ffff-ffffffffffff"]

    assert sched.claim(cursors={"default": {"*": end}}) == []
    early = {"default": {"*": end, "1": ["-infinity", NO_ID]}}
    assert ids(sched.claim(cursors=early)) == high
    assert ids(sched.claim(cursors={"default": {"1": end}})) == low


def test_a_cursor_holds_for_its_own_queue(sched: Sched) -> None:
    sched.call("define_queue", "other")
    here, there = sched.schedule(), sched.schedule(queue="other")
    end = [(sched.now + HOUR).isoformat(), NO_ID]

    assert ids(sched.claim(cursors={"default": {"*": end}})) == [there]
    assert ids(sched.claim(cursors={"elsewhere": {"*": end}})) == [here]


def test_what_commits_behind_a_cursor_is_found_by_a_claim_without_one(
    sched: Sched, another: Sched
) -> None:
    with another.conn.transaction():
        late = another.schedule()
        sched.clock(SECOND)
        sched.schedule()
        (seen,) = sched.claim()

    passed = {"default": {"0": cursor(seen)}}
    assert sched.claim(cursors=passed) == []
    assert ids(sched.claim()) == [late]


# Locks


def test_claims_at_the_same_time_neither_wait_nor_overlap(sched: Sched, another: Sched) -> None:
    made = schedule_many(sched, 4)
    another.conn.execute("set lock_timeout = '1s'")

    with sched.conn.transaction():
        first = ids(sched.claim(2))
        second = ids(another.claim(4))

    assert (first, second) == (made[:2], made[2:])


def test_a_claim_that_is_rolled_back_gives_its_tasks_to_the_next(
    sched: Sched, another: Sched
) -> None:
    task_id = sched.schedule()
    with sched.transaction():
        assert ids(sched.claim()) == [task_id]
        assert another.claim() == []

    assert another.claim_one().delivery_count == 1


def test_a_task_that_a_stranger_has_locked_is_passed_over(sched: Sched, another: Sched) -> None:
    made = schedule_many(sched, 3)
    with another.transaction():
        another.call("cancel_task", made[0])
        assert ids(sched.claim(2)) == made[1:]

    assert ids(sched.claim()) == made[:1]


def test_a_pause_does_not_wait_for_a_claim(sched: Sched, another: Sched) -> None:
    sched.schedule()
    another.conn.execute("set lock_timeout = '1s'")

    with sched.conn.transaction():
        sched.claim_one()
        another.call("pause_queue", "default")
