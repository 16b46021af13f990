"""Limited queues: tasks in flight, tasks per second, and the ramp after a pause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.sql.sched import HOUR, MINUTE, SECOND, Sched, settlement
from tests.sql.test_wake import Ears

MS = timedelta(milliseconds=1)

Settle = Callable[[Sched, Any], object]


def limit(sched: Sched, queue: str = "limited", **limits: object) -> None:
    sched.call("define_queue", queue, **limits)


def fill(sched: Sched, count: int, queue: str = "limited") -> None:
    query = "select pgsched.schedule_immediate('job', p_queue => %s) from generate_series(1, %s)"
    sched.rows(query, queue, count)


def queues_of(claimed: list[Any]) -> Counter[str]:
    return Counter(row.queue for row in claimed)


# Tasks in flight


def test_no_more_are_claimed_than_may_be_in_flight(sched: Sched) -> None:
    limit(sched, max_in_flight=3)
    fill(sched, 10)

    assert len(sched.claim()) == 3
    assert sched.claim() == []


def test_what_is_scheduled_dispatched_or_running_is_in_flight(sched: Sched) -> None:
    limit(sched, max_in_flight=4)
    fill(sched, 10)
    dispatched, running, _ = sched.claim(3)
    sched.settle(dispatched)
    sched.settle(running)
    sched.report(running.id, "RUNNING")

    assert len(sched.claim()) == 1


@pytest.mark.parametrize(
    "free",
    [
        lambda sched, task: sched.report(task.id, "SUCCESS"),
        lambda sched, task: sched.report(task.id, "FAILED"),
        lambda sched, task: sched.call("cancel_task", task.id),
        lambda sched, task: sched.settle(task, "REFUSED"),
        lambda sched, task: sched.settle(task, "RETRY"),
        lambda sched, task: sched.settle(task, "DEFERRED", delay="1 hour"),
        lambda sched, task: sched.settle(task, "RELEASED", delay="1 hour"),
    ],
    ids=["success", "failure", "cancelled", "refused", "retried", "deferred", "released"],
)
def test_whatever_ends_a_delivery_frees_its_slot(sched: Sched, free: Settle) -> None:
    limit(sched, max_in_flight=2)
    fill(sched, 10)
    task, _ = sched.claim()

    free(sched, task)

    assert len(sched.claim()) == 1


def test_a_report_of_what_the_executor_holds_already_may_exceed_the_limit(sched: Sched) -> None:
    limit(sched, max_in_flight=1)
    fill(sched, 3)
    task = sched.claim_one()
    sched.settle(task, "DEFERRED")
    sched.claim_one()

    sched.report(task.id, "RUNNING")

    assert sched.claim() == []


def test_two_sessions_do_not_exceed_the_limit_and_neither_waits(
    sched: Sched, another: Sched
) -> None:
    limit(sched, max_in_flight=3)
    fill(sched, 10)
    fill(sched, 1, "default")
    assert another.worker
    sched.conn.execute("begin")
    assert queues_of(sched.claim()) == {"limited": 3, "default": 1}
    fill(another, 1, "default")
    another.conn.execute("set lock_timeout = '1s'")

    # The first is still at it: the queue is passed over, and the others are not.
    assert queues_of(another.claim()) == {"default": 1}

    sched.conn.execute("commit")
    assert another.claim() == []


def test_what_a_rollback_gives_back_is_claimed_by_the_next(sched: Sched, another: Sched) -> None:
    limit(sched, max_in_flight=3, rate_per_second=1, burst=3)
    fill(sched, 10)
    with sched.transaction():
        assert len(sched.claim()) == 3

    assert len(another.claim()) == 3


def test_the_limit_may_be_raised_lowered_and_lifted(sched: Sched) -> None:
    limit(sched, max_in_flight=2)
    fill(sched, 10)
    assert len(sched.claim()) == 2

    limit(sched, max_in_flight=4)
    assert len(sched.claim()) == 2

    limit(sched, max_in_flight=1)
    assert sched.claim() == []

    limit(sched)
    assert len(sched.claim()) == 6


def test_each_queue_has_a_limit_of_its_own(sched: Sched) -> None:
    limit(sched, max_in_flight=2)
    limit(sched, "another", max_in_flight=3)
    fill(sched, 10)
    fill(sched, 10, "another")

    assert queues_of(sched.claim()) == {"limited": 2, "another": 3}


def test_urgent_tasks_of_a_limited_queue_go_first(sched: Sched) -> None:
    limit(sched, max_in_flight=1)
    fill(sched, 3)
    urgent = sched.schedule(queue="limited", priority=9)

    assert sched.claim_one().id == urgent


def test_a_cursor_does_not_hide_the_tasks_of_a_limited_queue(sched: Sched) -> None:
    limit(sched, max_in_flight=5)
    fill(sched, 2)
    late = ["2030-01-01T00:00:00Z", "00000000-0000-0000-0000-000000000000"]

    assert len(sched.claim(cursors={"limited": {"*": late}})) == 2


# Both kinds of queues in one claim


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (["limited", "default"], {"limited": 4, "default": 6}),
        (["default", "limited"], {"default": 10}),
    ],
)
def test_limited_and_other_queues_are_claimed_in_the_order_given(
    sched: Sched, order: list[str], expected: dict[str, int]
) -> None:
    limit(sched, max_in_flight=4)
    fill(sched, 20)
    fill(sched, 20, "default")

    assert queues_of(sched.claim(10, order)) == expected


def test_no_queue_starves_when_the_order_turns(sched: Sched) -> None:
    queues = ["default", "limited", "tiny", "free"]
    limit(sched, max_in_flight=20)
    limit(sched, "tiny", max_in_flight=1)
    limit(sched, "free")
    for queue in queues:
        fill(sched, 30, queue)

    claimed: Counter[str] = Counter()
    for turn in range(4):
        claimed += queues_of(sched.claim(10, queues[turn:] + queues[:turn]))

    assert claimed == {"default": 10, "limited": 10, "tiny": 1, "free": 19}


# Tasks per second


def test_the_burst_is_a_tenth_of_a_second_unless_said(sched: Sched) -> None:
    limit(sched, rate_per_second=50)
    fill(sched, 100)

    assert len(sched.claim()) == 5
    assert sched.claim() == []


@pytest.mark.parametrize("rate", [0.5, 1, 9])
def test_a_slow_queue_gives_one_at_a_time(sched: Sched, rate: float) -> None:
    limit(sched, rate_per_second=rate)
    fill(sched, 100)

    assert len(sched.claim()) == 1
    sched.clock(SECOND / rate - MS)
    assert sched.claim() == []
    sched.clock(2 * MS)
    assert len(sched.claim()) == 1


def test_tokens_come_back_up_to_the_burst(sched: Sched) -> None:
    limit(sched, rate_per_second=10, burst=20)
    fill(sched, 100)
    assert len(sched.claim()) == 20

    sched.clock(SECOND / 2)
    assert len(sched.claim()) == 5

    sched.clock(HOUR)
    assert len(sched.claim()) == 20


def test_a_queue_does_not_lose_the_part_of_a_token(sched: Sched) -> None:
    limit(sched, rate_per_second=10, burst=5)
    fill(sched, 100)
    sched.claim()

    claimed = 0
    for _ in range(40):  # 70 ms is less than a token
        sched.clock(70 * MS)
        claimed += len(sched.claim())

    assert claimed == 28


def test_in_no_window_are_more_claimed_than_burst_and_rate_allow(
    sched: Sched, another: Sched
) -> None:
    rate, burst = 20, 10
    limit(sched, rate_per_second=rate, burst=burst)
    fill(sched, 300)
    steps = [0, 10, 40, 300, 5, 5, 900, 60, 0, 120, 2000, 30, 30, 30, 400, 1, 250, 70]
    at, claims = 0, []
    for n, step in enumerate(steps):
        at += step
        sched.clock(step * MS)
        claims.append((at, len((sched, another)[n % 2].claim())))

    for i, (begin, _) in enumerate(claims):
        for j, (end, _) in enumerate(claims[i:], i):
            within = sum(count for _, count in claims[i : j + 1])
            assert within <= burst + rate * (end - begin) / 1000


def test_a_claim_with_an_older_clock_makes_no_tokens(sched: Sched) -> None:
    limit(sched, rate_per_second=10, burst=10)
    fill(sched, 100)
    assert len(sched.claim()) == 10

    sched.clock(-10 * SECOND)
    assert sched.claim() == []

    sched.clock(10 * SECOND)
    assert sched.claim() == []


def test_a_clock_that_was_set_back_does_not_starve_a_queue_until_it_has_caught_up(
    sched: Sched,
) -> None:
    limit(sched, rate_per_second=10, burst=10)
    fill(sched, 10)
    assert len(sched.claim()) == 10

    sched.clock(-HOUR)
    fill(sched, 100)
    assert len(sched.claim()) == 10
    assert sched.claim() == []
    sched.clock(SECOND / 2)
    assert len(sched.claim()) == 5


@pytest.mark.parametrize(
    ("stop", "go"), [("pause_queue", "resume_queue"), ("open_breaker", "close_breaker")]
)
@pytest.mark.parametrize("back", [5 * SECOND, MINUTE, HOUR, 8760 * HOUR])
def test_a_clock_that_was_set_back_does_not_stop_the_ramp(
    sched: Sched, stop: str, go: str, back: timedelta
) -> None:
    sched.call(stop, "default")
    sched.call(go, "default")

    sched.clock(-back)
    fill(sched, 30, "default")

    assert sched.call("next_due_in") is None
    assert len(sched.claim()) == (1 if back < MINUTE else 30)
    assert sched.rows("select * from pgsched.queue_stats")[0].is_ramping == (back < MINUTE)


def test_another_rate_holds_at_once(sched: Sched) -> None:
    limit(sched, rate_per_second=1)
    fill(sched, 100)
    sched.claim()

    limit(sched, rate_per_second=1000)
    sched.clock(50 * MS)
    assert len(sched.claim()) == 50

    limit(sched, rate_per_second=10, burst=3)
    sched.clock(MINUTE)
    assert len(sched.claim()) == 3

    limit(sched)
    assert len(sched.claim()) == 46


def test_both_limits_hold(sched: Sched) -> None:
    limit(sched, max_in_flight=12, rate_per_second=10, burst=10)
    fill(sched, 100)

    assert len(sched.claim()) == 10
    sched.clock(SECOND)
    assert len(sched.claim()) == 2


def test_an_empty_claim_spends_no_tokens(sched: Sched) -> None:
    limit(sched, rate_per_second=1)

    assert sched.claim() == []

    assert sched.rows("select * from pgsched.queue_rates") == []


# How long a worker may sleep


def test_the_next_token_is_waited_for(sched: Sched) -> None:
    limit(sched, rate_per_second=4)
    fill(sched, 2)
    assert sched.call("next_due_in") is None
    sched.claim()

    assert sched.call("next_due_in") == 250 * MS
    sched.clock(100 * MS)
    assert sched.call("next_due_in") == 150 * MS


@pytest.mark.parametrize(("rate", "burst", "wait"), [(1, 100, 1000), (10, 1000, 100)])
def test_a_large_burst_does_not_make_the_wait_longer(
    sched: Sched, rate: int, burst: int, wait: int
) -> None:
    limit(sched, rate_per_second=rate, burst=burst)
    fill(sched, burst + 1)
    sched.claim(burst)

    assert sched.call("next_due_in") == wait * MS


def test_a_fast_queue_is_not_woken_for_each_token(sched: Sched) -> None:
    limit(sched, rate_per_second=2000)
    fill(sched, 500)
    sched.claim(500)

    assert sched.call("next_due_in") == 25 * MS


def test_a_queue_that_is_full_does_not_make_a_worker_spin(sched: Sched) -> None:
    limit(sched, max_in_flight=1)
    fill(sched, 5)
    sched.claim()

    assert sched.call("next_due_in") is None


def test_a_queue_without_tokens_or_tasks_is_not_waited_for(sched: Sched) -> None:
    limit(sched, rate_per_second=1)
    fill(sched, 1)
    sched.claim()

    assert sched.call("next_due_in") is None


def test_a_token_of_another_queue_is_not_waited_for(sched: Sched) -> None:
    limit(sched, rate_per_second=1)
    fill(sched, 5)
    sched.claim()

    assert sched.call("next_due_in", ["default"]) is None


# Waking for a slot that was freed


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda sched, task: sched.report(task.id, "SUCCESS"), 1),
        (lambda sched, task: sched.settle(task, "RETRY"), 1),
        (lambda sched, task: sched.settle(task, "REFUSED"), 1),
        (lambda sched, task: sched.settle(task, "DEFERRED", delay="1 hour"), 1),
        (lambda sched, task: sched.settle(task), 0),
        (lambda sched, task: sched.report(task.id, "RUNNING"), 0),
    ],
    ids=["success", "retried", "refused", "deferred", "accepted", "running"],
)
@pytest.mark.parametrize("is_limited", [True, False])
def test_a_freed_slot_of_a_limited_queue_wakes_the_workers(
    sched: Sched, another: Sched, act: Settle, expected: int, is_limited: bool
) -> None:
    sched.define("slow", retry_delay=2 * HOUR)
    sched.call("define_external_system", "default", push_statuses=[])  # news wake as well
    limit(sched, max_in_flight=1 if is_limited else None)
    sched.schedule("slow", queue="limited")
    task = sched.claim_one()
    ears = Ears(another, sched)

    act(sched, task)

    assert ears.heard() == (expected if is_limited else 0)


def test_many_that_finish_together_wake_once(sched: Sched, another: Sched) -> None:
    limit(sched, max_in_flight=10)
    fill(sched, 10)
    claimed = sched.claim()
    ears = Ears(another, sched)

    sched.settle_many(*(settlement(task, "REFUSED") for task in claimed))

    assert ears.heard() == 1


# The ramp after a pause


def resume(sched: Sched, queue: str = "default") -> None:
    sched.call("pause_queue", queue)
    sched.clock(MINUTE)
    sched.call("resume_queue", queue)


def test_a_resumed_queue_begins_with_one_and_twice_as_many_each_second(sched: Sched) -> None:
    fill(sched, 2000, "default")
    resume(sched)

    assert len(sched.claim(2000)) == 1
    seconds = []
    for _ in range(4):
        claimed = 0
        for _ in range(20):
            sched.clock(50 * MS)
            claimed += len(sched.claim(2000))
        seconds.append(claimed)

    # 20, 40, 80 and 160 a second, at the beginning of each.
    for n, claimed in enumerate(seconds):
        assert 20 * 2**n <= claimed <= 20 * 2 ** (n + 1)


def test_the_ramp_ends_after_ten_seconds(sched: Sched) -> None:
    fill(sched, 3000, "default")
    resume(sched)
    sched.clock(10 * SECOND - MS)
    assert len(sched.claim(3000)) == 2047

    sched.clock(MS)

    assert len(sched.claim(3000)) == 953


def test_the_ramp_never_exceeds_the_rate_of_the_queue(sched: Sched) -> None:
    limit(sched, rate_per_second=30, burst=60)
    fill(sched, 1000)
    resume(sched, "limited")
    at, total = 0, 0
    while at < 10_000:
        total += len(sched.claim(1000))
        assert total <= 60 + 30 * at / 1000
        at += 100
        sched.clock(100 * MS)

    assert total >= 250


def test_a_slow_queue_is_no_faster_after_a_pause(sched: Sched) -> None:
    limit(sched, rate_per_second=1)
    fill(sched, 10)
    resume(sched, "limited")

    assert len(sched.claim()) == 1
    sched.clock(SECOND / 2)
    assert sched.claim() == []


def test_a_queue_that_was_not_paused_does_not_ramp(sched: Sched) -> None:
    fill(sched, 50, "default")

    sched.call("resume_queue", "default")

    assert len(sched.claim()) == 50


def test_the_ramp_of_one_queue_is_not_that_of_another(sched: Sched) -> None:
    limit(sched, "another")
    fill(sched, 20, "another")
    fill(sched, 20, "default")
    resume(sched)

    assert queues_of(sched.claim()) == {"default": 1, "another": 20}


def test_a_ramping_queue_does_not_make_a_worker_sleep_long(sched: Sched) -> None:
    fill(sched, 50, "default")
    resume(sched)
    sched.claim()

    assert sched.call("next_due_in") == 50 * MS


# What may be said of a queue


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"max_in_flight": 1_000_001}, "max_in_flight"),
        ({"rate_per_second": 0.0}, "rate_per_second"),
        ({"rate_per_second": 1e7}, "rate_per_second"),
        ({"rate_per_second": float("nan")}, "rate_per_second"),
        ({"rate_per_second": 1.0, "burst": 0}, "burst"),
        ({"burst": 5}, "burst"),
    ],
)
def test_a_limit_out_of_range_is_refused(sched: Sched, limits: dict[str, Any], field: str) -> None:
    with pytest.raises(psycopg.Error, match=field) as refused:
        limit(sched, **limits)

    assert refused.value.sqlstate == "PS422"


@pytest.mark.parametrize("name", ["", "a b", "a" * 101, None])
def test_a_queue_has_a_plain_name(sched: Sched, name: str | None) -> None:
    with pytest.raises(psycopg.Error, match="p_name") as refused:
        sched.call("define_queue", name)

    assert refused.value.sqlstate == "PS422"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 1001}, "batch_size"),
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"max_in_flight": 1001}, "max_in_flight"),
        ({"push_statuses": ["RUNNING"]}, "push_statuses"),
        ({"base_url": "ftp://a"}, "base_url"),
        ({"completion": "maybe"}, "completion"),
        ({"request_timeout": None}, "request_timeout"),
    ],
)
def test_an_external_system_out_of_range_is_refused(
    sched: Sched, options: dict[str, object], field: str
) -> None:
    with pytest.raises(psycopg.Error, match=field) as refused:
        sched.call("define_external_system", "mailer", **options)

    assert refused.value.sqlstate == "PS422"


def test_what_is_left_out_of_an_external_system_takes_its_default(sched: Sched) -> None:
    sched.call(
        "define_external_system", "a", batch_size=50, max_in_flight=4, push_statuses=["FAILED"]
    )
    query = """
        select batch_size, max_in_flight, push_statuses
        from pgsched.external_systems where name = 'a'
    """
    assert sched.rows(query) == [(50, 4, ["FAILED"])]

    sched.call("define_external_system", "a")

    assert sched.rows(query) == [(1, None, None)]
