"""Retries and deferrals: their pauses, their budgets, and what still counts afterwards."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.sql.sched import HOUR, MINUTE, SECOND, Sched

DAY = timedelta(days=1)
# A pause is up to a tenth longer than asked.
JITTER = 1.1


def pause(sched: Sched, task_id: str) -> timedelta:
    waits: timedelta = sched.task(task_id).execute_after - sched.now
    return waits


def fail(sched: Sched, task_id: str, outcome: str = "RETRY") -> timedelta:
    """Fail the task once and tell the pause until its retry; then let it pass."""
    claimed = sched.claim_one()
    assert claimed.id == task_id
    sched.settle(claimed, outcome)
    waits = pause(sched, task_id)
    sched.clock(waits)
    return waits


def test_each_pause_is_twice_the_one_before(sched: Sched) -> None:
    sched.define(max_retries=5, retry_delay=10 * SECOND)
    task_id = sched.schedule()

    for n in range(5):
        wanted = 10 * SECOND * 2**n
        assert wanted <= fail(sched, task_id) <= wanted * JITTER


def test_a_fixed_pause_is_always_the_same(sched: Sched) -> None:
    sched.define(max_retries=5, retry_delay=10 * SECOND, retry_backoff="fixed")
    task_id = sched.schedule()

    for _ in range(5):
        assert 10 * SECOND <= fail(sched, task_id) <= 10 * SECOND * JITTER


def test_no_pause_is_longer_than_a_day_and_a_tenth(sched: Sched) -> None:
    sched.define(max_retries=100, retry_delay=HOUR)
    task_id = sched.schedule()

    pauses = [fail(sched, task_id) for _ in range(60)]

    assert DAY <= max(pauses) <= DAY * JITTER


def test_what_failed_together_does_not_come_back_together(sched: Sched) -> None:
    made = [sched.schedule() for _ in range(5)]
    for claimed in sched.claim():
        sched.settle(claimed, "RETRY")

    assert len({pause(sched, task_id) for task_id in made}) == 5


def test_a_pause_of_nothing_is_nothing(sched: Sched) -> None:
    sched.define(retry_delay=timedelta())
    task_id = sched.schedule()

    assert fail(sched, task_id) == timedelta()


@pytest.mark.parametrize("max_retries", [0, 1, 3])
def test_a_task_is_tried_once_and_as_often_again_as_its_budget(
    sched: Sched, max_retries: int
) -> None:
    sched.define(max_retries=max_retries)
    task_id = sched.schedule()
    for n in range(max_retries + 1):
        assert sched.task(task_id).retry_count == n
        claimed = sched.claim_one()
        assert claimed.attempt == n + 1
        sched.settle(claimed, "RETRY", error_msg=f"no. {n}")
        sched.clock(2 * DAY)

    task = sched.task(task_id)
    assert (task.status, task.attempt) == ("FAILED", max_retries + 1)
    assert (task.retry_count, task.error_msg) == (max_retries, f"no. {max_retries}")
    assert sched.events(task_id) == ["RETRY"] * max_retries


def test_all_kinds_of_failures_use_the_same_budget(sched: Sched) -> None:
    sched.define(max_retries=3)
    task_id = sched.schedule()
    for outcome in ("RETRY", "RETRY_SAME", "RETRY_LAPSED"):
        fail(sched, task_id, outcome)
    sched.run(task_id, "FAILED")

    assert sched.status(task_id) == "FAILED"


def test_a_deferral_costs_no_retry(sched: Sched) -> None:
    sched.define(max_retries=0)
    task_id = sched.schedule()
    for _ in range(5):
        sched.settle(sched.claim_one(), "DEFERRED", delay="10 seconds")
        assert pause(sched, task_id) == 10 * SECOND
        sched.clock(10 * SECOND)

    task = sched.task(task_id)
    assert (task.status, task.retry_count, task.attempt) == ("PENDING", 0, 1)


@pytest.mark.parametrize("delay", [None, "-1 hour"])
def test_a_deferral_without_a_delay_is_due_at_once(sched: Sched, delay: str | None) -> None:
    task_id = sched.schedule()
    sched.settle(sched.claim_one(), "DEFERRED", delay=delay)

    assert pause(sched, task_id) == timedelta()


def test_the_nominal_time_never_changes(sched: Sched) -> None:
    task_id, start = sched.schedule(), sched.now
    fail(sched, task_id)
    sched.settle(sched.claim_one(), "DEFERRED", delay="1 hour")

    assert sched.task(task_id).scheduled_time == start


# Attempts


def test_retry_same_keeps_the_attempt_that_may_be_under_way(sched: Sched) -> None:
    task_id = sched.schedule()
    fail(sched, task_id, "RETRY_SAME")

    claimed = sched.claim_one()
    assert (claimed.attempt, claimed.delivery_count, claimed.retry_count) == (1, 2, 1)
    assert sched.report(task_id, "SUCCESS", 1) == "SUCCESS"


def test_a_late_success_of_a_lapsed_attempt_counts(sched: Sched) -> None:
    task_id = sched.schedule()
    fail(sched, task_id, "RETRY_LAPSED")
    assert sched.task(task_id).lapsed_attempt == 1
    sched.claim_one()

    assert sched.report(task_id, "SUCCESS", 1, output_ref="s3://late") == "SUCCESS"

    task = sched.task(task_id)
    assert (task.status, task.output_ref) == ("SUCCESS", "s3://late")


def test_the_first_attempt_that_lapsed_is_remembered(sched: Sched) -> None:
    task_id = sched.schedule()
    for outcome in ("RETRY", "RETRY_LAPSED", "RETRY_LAPSED"):
        fail(sched, task_id, outcome)

    assert (sched.task(task_id).lapsed_attempt, sched.task(task_id).attempt) == (2, 4)


def test_a_retry_begins_with_a_clean_slate(sched: Sched) -> None:
    task_id = sched.schedule()
    claimed = sched.claim_one()
    sched.settle(claimed)
    sched.report(task_id, "RUNNING", progress={"done": 50})
    sched.report(task_id, "FAILED", error_msg="broken")

    task = sched.task(task_id)
    assert (task.started_at, task.dispatched_at, task.deadline_at) == (None, None, None)
    assert (task.progress, task.error_msg) == (None, "broken")


# Undelivered


def test_undelivered_since_is_the_first_deferral_in_a_row(sched: Sched) -> None:
    task_id, start = sched.schedule(), sched.now
    for _ in range(3):
        sched.settle(sched.claim_one(), "DEFERRED")
        sched.clock(MINUTE)

    assert sched.task(task_id).undelivered_since == start


@pytest.mark.parametrize(
    "by", ["ACCEPTED", "RUNNING", "RETRY", "RETRY_SAME", "FAILED", "retry_task"]
)
def test_undelivered_since_is_cleared(sched: Sched, by: str) -> None:
    task_id = sched.schedule()
    sched.settle(sched.claim_one(), "DEFERRED")
    if by in ("RUNNING", "FAILED"):
        sched.report(task_id, by)
    elif by == "retry_task":
        sched.call("cancel_task", task_id)
        sched.call("retry_task", task_id)
    else:
        sched.settle(sched.claim_one(), by)

    assert sched.task(task_id).undelivered_since is None


@pytest.mark.parametrize("by", ["RELEASED", "lost"])
def test_a_release_neither_begins_nor_ends_a_row_of_deferrals(sched: Sched, by: str) -> None:
    task_id, start = sched.schedule(), sched.now

    def give_back() -> None:
        claimed = sched.claim_one()
        sched.clock(HOUR)
        if by == "RELEASED":
            sched.settle(claimed, by)
        else:
            sched.call("expire_deadlines")

    give_back()
    assert sched.task(task_id).undelivered_since is None
    sched.settle(sched.claim_one(), "DEFERRED")
    give_back()
    assert sched.task(task_id).undelivered_since == start + HOUR


def test_a_task_that_cannot_be_delivered_for_a_day_is_failed(sched: Sched) -> None:
    task_id = sched.schedule()
    sched.settle(sched.claim_one(), "DEFERRED", error_msg="refused")
    sched.clock(DAY - SECOND)
    sched.settle(sched.claim_one(), "DEFERRED", error_msg="refused")
    assert sched.status(task_id) == "PENDING"

    sched.clock(SECOND)
    sched.settle(sched.claim_one(), "DEFERRED", error_msg="still refused")

    task = sched.task(task_id)
    assert (task.status, task.retry_count) == ("FAILED", 0)
    assert "undeliverable since" in task.error_msg
    assert "still refused" in task.error_msg


def test_a_release_does_not_fail_what_could_not_be_delivered(sched: Sched) -> None:
    task_id = sched.schedule()
    sched.settle(sched.claim_one(), "DEFERRED")
    sched.clock(2 * DAY)
    sched.settle(sched.claim_one(), "RELEASED")

    assert sched.status(task_id) == "PENDING"


def test_each_external_system_has_a_delivery_timeout_of_its_own(sched: Sched) -> None:
    sched.call("define_external_system", "brisk", delivery_timeout=MINUTE)
    sched.call("define_queue", "brisk", "brisk")
    task_id = sched.schedule(queue="brisk")
    sched.settle(sched.claim_one(), "DEFERRED")
    sched.clock(MINUTE)
    sched.settle(sched.claim_one(), "DEFERRED")

    assert sched.status(task_id) == "FAILED"


# Settings are read when they are used


def test_a_changed_retry_delay_holds_for_tasks_that_are_there(sched: Sched) -> None:
    task_id = sched.schedule()
    sched.define(retry_delay=7 * SECOND, retry_backoff="fixed")

    assert 7 * SECOND <= fail(sched, task_id) <= 7 * SECOND * JITTER


def test_a_changed_timeout_holds_for_tasks_that_are_there(sched: Sched) -> None:
    task_id = sched.schedule()
    claimed = sched.claim_one()
    sched.define(timeout=2 * MINUTE)
    sched.settle(claimed)
    assert sched.task(task_id).deadline_at == sched.now + 2 * MINUTE

    sched.define(timeout=3 * MINUTE)
    sched.report(task_id, "RUNNING")
    assert sched.task(task_id).deadline_at == sched.now + 3 * MINUTE


def test_the_timeout_is_of_silence_not_in_total(sched: Sched) -> None:
    task_id = sched.schedule()
    sched.settle(sched.claim_one())
    for _ in range(5):
        sched.clock(HOUR - SECOND)
        assert sched.call("expire_deadlines") == 0
        sched.report(task_id, "RUNNING")

    assert sched.status(task_id) == "RUNNING"
