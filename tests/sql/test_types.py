"""The six types of tasks, and above all the rounds of loops."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.sql.sched import HOUR, MINUTE, SECOND, Background, Sched, settlement

DAY = timedelta(days=1)


def latest_round(sched: Sched) -> Any:
    """The one unfinished round."""
    (task,) = sched.tasks("finished_at is null")
    return task


def statuses(sched: Sched) -> list[str]:
    """Of all rounds, in their order."""
    return [task.status for task in sched.tasks()]


# Single tasks


def test_an_immediate_task_is_due_at_once(sched: Sched) -> None:
    task_id = sched.schedule()

    assert sched.task(task_id).schedule_type == "IMMEDIATE"
    assert sched.run() == task_id
    assert statuses(sched) == ["SUCCESS"]


@pytest.mark.parametrize("is_delay", [True, False])
def test_a_delayed_task_is_due_at_its_time_and_not_before(sched: Sched, is_delay: bool) -> None:
    at = sched.now + HOUR
    task_id = sched.schedule(delay=HOUR) if is_delay else sched.schedule(at=at)
    assert sched.task(task_id).schedule_type == "DELAYED"

    sched.clock(at - SECOND)
    assert sched.claim() == []

    sched.clock(at)
    claimed = sched.claim_one()
    assert (claimed.id, claimed.scheduled_time) == (task_id, at)


def test_a_time_in_the_past_is_due_now_and_keeps_its_nominal_time(sched: Sched) -> None:
    task_id = sched.schedule(at=sched.now - DAY)

    task = sched.task(task_id)
    assert (task.scheduled_time, task.execute_after) == (sched.now - DAY, sched.now)
    assert sched.claim_one().id == task_id


def test_a_cron_task_is_made_by_its_schedule(sched: Sched) -> None:
    schedule_id = sched.call("schedule_cron", "job", "0 * * * *", input_params={"a": 1})
    sched.fire(schedule_id, None, sched.now)
    sched.fire(schedule_id, sched.now, sched.now + HOUR)

    claimed = sched.claim_one()

    assert sched.task(claimed.id).schedule_type == "CRON"
    assert str(claimed.schedule_id) == schedule_id
    assert (claimed.scheduled_time, claimed.input_params) == (sched.now, {"a": 1})


def test_loop_once_is_a_single_round(sched: Sched) -> None:
    sched.define("looper", loop_config={"max_rounds": 5})
    task_id = str(sched.call("trigger_loop_once", "looper"))
    sched.run(task_id)

    (task,) = sched.tasks()
    assert (task.schedule_type, task.round_index, task.next_task_id) == ("LOOP_ONCE", 0, None)


def test_every_single_task_has_a_trace_of_its_own_unless_one_is_given(sched: Sched) -> None:
    first, second = sched.schedule(), sched.schedule()
    third = sched.schedule(trace_id=sched.task(first).trace_id)

    traces = [sched.task(task_id).trace_id for task_id in (first, second, third)]
    assert traces[0] == traces[2] != traces[1]


# Rounds


def test_a_loop_runs_its_rounds_one_after_the_other(sched: Sched) -> None:
    first = sched.loop(max_rounds=3, input_params={"a": 1})
    ran = [sched.run() for _ in range(3)]

    rounds = sched.tasks()
    assert [str(task.id) for task in rounds] == ran
    assert [task.round_index for task in rounds] == [0, 1, 2]
    assert [task.next_task_id for task in rounds] == [*(t.id for t in rounds[1:]), None]
    assert {str(task.loop_id) for task in rounds} == {first} == {ran[0]}
    assert len({task.trace_id for task in rounds}) == 1
    assert {task.schedule_type for task in rounds} == {"LOOP"}
    assert [task.input_params for task in rounds] == [{"a": 1}] * 3
    assert statuses(sched) == ["SUCCESS"] * 3


def test_a_round_begins_anew_with_attempt_and_budget(sched: Sched) -> None:
    sched.loop(max_rounds=2)
    sched.settle(sched.claim_one(), "RETRY_LAPSED")
    sched.clock(HOUR)
    sched.run()

    task = latest_round(sched)
    assert (task.attempt, task.retry_count, task.lapsed_attempt) == (1, 0, None)
    assert (task.delivery_count, task.started_at, task.worker_id) == (0, None, None)


def test_a_loop_without_max_rounds_goes_on(sched: Sched) -> None:
    sched.loop()
    for _ in range(10):
        sched.run()

    assert latest_round(sched).round_index == 10


def test_a_loop_takes_what_is_not_said_from_its_definition(sched: Sched) -> None:
    sched.define("looper", loop_config={"max_rounds": 2, "loop_interval": 60})
    sched.loop("looper")

    assert latest_round(sched).schedule_type == "INTERVAL_LOOP"
    sched.run()
    sched.clock(MINUTE)
    sched.run()
    assert statuses(sched) == ["SUCCESS"] * 2


def test_a_round_that_failed_ends_the_loop(sched: Sched) -> None:
    sched.define(max_retries=0)
    sched.loop(max_rounds=3)
    sched.run(status="FAILED")

    assert statuses(sched) == ["FAILED"]


def test_a_round_with_budget_is_retried_before_the_loop_ends(sched: Sched) -> None:
    sched.define(max_retries=1)
    sched.loop(max_rounds=2)
    sched.run(status="FAILED")
    assert statuses(sched) == ["PENDING"]

    sched.clock(HOUR)
    sched.run()

    assert statuses(sched) == ["SUCCESS", "PENDING"]


def test_a_loop_may_go_on_after_a_failure_no_sooner_than_the_retry_delay(sched: Sched) -> None:
    sched.define(max_retries=0, retry_delay=5 * MINUTE)
    sched.loop(max_rounds=3, schedule_config={"on_failure": "continue"})
    sched.run(status="FAILED")

    assert latest_round(sched).execute_after == sched.now + 5 * MINUTE
    assert sched.claim() == []
    sched.clock(5 * MINUTE)
    sched.run()
    assert statuses(sched) == ["FAILED", "SUCCESS", "PENDING"]


def test_after_a_failure_a_longer_interval_is_kept(sched: Sched) -> None:
    sched.define(max_retries=0, retry_delay=MINUTE)
    sched.loop(loop_interval=HOUR, schedule_config={"on_failure": "continue"})
    start = sched.now
    sched.run(status="FAILED")

    assert latest_round(sched).execute_after == start + HOUR


@pytest.mark.parametrize("by", ["report", "cancel_task"])
def test_a_cancelled_round_ends_the_loop_always(sched: Sched, by: str) -> None:
    task_id = sched.loop(schedule_config={"on_failure": "continue"})
    if by == "report":
        sched.run(status="CANCELLED")
    else:
        sched.call("cancel_task", task_id)

    assert statuses(sched) == ["CANCELLED"]


@pytest.mark.parametrize("how", ["refused", "deadline", "lost", "undeliverable"])
def test_a_loop_may_go_on_however_its_round_failed(sched: Sched, how: str) -> None:
    sched.define(max_retries=0)
    sched.loop(schedule_config={"on_failure": "continue"})
    claimed = sched.claim_one()
    if how == "refused":
        sched.settle(claimed, "REFUSED")
    elif how == "deadline":
        sched.settle(claimed)
        sched.clock(2 * HOUR)
        sched.call("expire_deadlines")
    elif how == "lost":
        for _ in range(10):
            sched.clock(HOUR)
            sched.call("expire_deadlines")
            sched.claim()
    else:
        sched.settle(claimed, "DEFERRED")
        sched.clock(DAY)
        sched.settle(sched.claim_one(), "DEFERRED")

    assert statuses(sched) == ["FAILED", "PENDING"]


def test_a_round_hands_its_successor_the_next_input(sched: Sched) -> None:
    sched.loop(input_params={"page": 1})
    sched.run(next_input={"page": 2})
    sched.run()

    assert [task.input_params for task in sched.tasks()] == [{"page": 1}, {"page": 2}, {"page": 2}]


def test_next_input_of_a_single_task_means_nothing(sched: Sched) -> None:
    sched.schedule()
    sched.run(next_input={"page": 2}, stop_loop=True)

    assert statuses(sched) == ["SUCCESS"]


def test_a_round_may_hand_over_and_stop_by_the_list_as_well(sched: Sched) -> None:
    sched.loop()
    first = sched.claim_one()
    sched.report_many({"task_id": first.id, "status": "SUCCESS", "next_input": {"n": 1}})
    second = sched.claim_one()
    sched.report_many({"task_id": second.id, "status": "SUCCESS", "stop_loop": True})

    assert second.input_params == {"n": 1}
    assert statuses(sched) == ["SUCCESS"] * 2


# Intervals


def test_rounds_are_spaced_start_to_start_by_their_nominal_times(sched: Sched) -> None:
    sched.loop(loop_interval=5 * MINUTE)
    start = sched.now
    for n in range(4):
        claimed = sched.claim_one()
        assert claimed.scheduled_time == start + n * 5 * MINUTE
        sched.settle(claimed)
        sched.clock(start + (n * 5 + 3) * MINUTE)  # it takes three minutes
        sched.report(claimed.id, "SUCCESS")
        assert sched.claim() == []
        sched.clock(start + (n + 1) * 5 * MINUTE)


def test_a_round_claimed_a_little_late_does_not_shift_the_next(sched: Sched) -> None:
    sched.loop(loop_interval=5 * MINUTE)
    start = sched.now
    sched.clock(start + 20 * SECOND)
    sched.run()

    assert latest_round(sched).execute_after == start + 5 * MINUTE


def test_a_late_round_starts_at_once_and_the_next_counts_from_there(sched: Sched) -> None:
    sched.loop(loop_interval=5 * MINUTE)
    start = sched.now
    claimed = sched.claim_one()
    sched.settle(claimed)
    sched.clock(start + 7 * MINUTE)  # longer than the interval
    sched.report(claimed.id, "SUCCESS")

    late = sched.claim_one()
    assert late.scheduled_time == start + 7 * MINUTE

    sched.settle(late)
    sched.report(late.id, "SUCCESS")
    assert latest_round(sched).scheduled_time == start + 12 * MINUTE


def test_an_interval_may_count_from_the_end(sched: Sched) -> None:
    sched.loop(loop_interval=5 * MINUTE, schedule_config={"interval_from": "end"})
    start = sched.now
    claimed = sched.claim_one()
    sched.settle(claimed)
    sched.clock(start + 2 * MINUTE)
    sched.report(claimed.id, "SUCCESS")

    assert latest_round(sched).scheduled_time == start + 7 * MINUTE


def test_a_fraction_of_a_second_is_an_interval(sched: Sched) -> None:
    sched.loop(loop_interval=timedelta(milliseconds=250))
    start = sched.now
    sched.run()

    assert latest_round(sched).schedule_type == "INTERVAL_LOOP"
    assert latest_round(sched).execute_after == start + timedelta(milliseconds=250)


# Operators


def test_a_retried_old_round_makes_no_second_chain(sched: Sched) -> None:
    sched.define(max_retries=0)
    first = sched.loop(schedule_config={"on_failure": "continue"})
    sched.run(status="FAILED")
    second = latest_round(sched)

    sched.call("retry_task", first)
    sched.run(first)

    assert statuses(sched) == ["SUCCESS", "PENDING"]
    assert sched.task(first).next_task_id == second.id == latest_round(sched).id


def test_retrying_the_round_that_ended_a_loop_lets_it_go_on(sched: Sched) -> None:
    sched.define(max_retries=0)
    first = sched.loop(max_rounds=2)
    sched.run(status="FAILED")
    sched.call("retry_task", first)
    sched.run(first)
    sched.run()

    assert statuses(sched) == ["SUCCESS", "SUCCESS"]


# Stopping


def test_to_stop_a_loop_cancels_its_waiting_round(sched: Sched) -> None:
    first = sched.loop()
    sched.run()
    waiting = latest_round(sched)

    assert sched.call("stop_loop", first) == waiting.id  # by the id of any round

    assert statuses(sched) == ["SUCCESS", "CANCELLED"]
    assert sched.events(waiting.id) == ["LOOP_STOPPED"]
    assert "loop stopped" in sched.task(waiting.id).error_msg


@pytest.mark.parametrize("end", ["SUCCESS", "FAILED"])
@pytest.mark.parametrize("state", ["SCHEDULED", "DISPATCHED", "RUNNING"])
def test_to_stop_a_loop_lets_a_claimed_round_end_as_the_last(
    sched: Sched, state: str, end: str
) -> None:
    sched.define(max_retries=0)
    first = sched.loop(schedule_config={"on_failure": "continue"})
    claimed = sched.claim_one()
    if state != "SCHEDULED":
        sched.settle(claimed)
    if state == "RUNNING":
        sched.report(first, "RUNNING")

    assert str(sched.call("stop_loop", first)) == first
    assert sched.status(first) == state

    sched.report(first, end)
    assert statuses(sched) == [end]


def test_to_stop_a_loop_leaves_alone_a_round_of_before_that_is_retried(sched: Sched) -> None:
    sched.define(max_retries=0)
    first = sched.loop(max_rounds=2, schedule_config={"on_failure": "continue"})
    sched.run(first, status="FAILED")
    sched.clock(HOUR)
    sched.run()
    sched.call("retry_task", first)

    assert sched.call("stop_loop", first) is None  # that has ended

    assert sched.status(first) == "PENDING"


def test_a_stopped_round_that_is_retried_is_still_the_last(sched: Sched) -> None:
    first = sched.loop()
    claimed = sched.claim_one()
    sched.call("stop_loop", first)
    sched.settle(claimed, "RETRY")
    sched.clock(HOUR)
    sched.run(first)

    assert statuses(sched) == ["SUCCESS"]


def test_to_stop_a_loop_that_has_ended_is_no_error(sched: Sched) -> None:
    first = sched.loop(max_rounds=1)
    sched.run(first)

    assert sched.call("stop_loop", first) is None


def test_to_stop_a_loop_does_not_touch_an_old_round_that_is_retried(sched: Sched) -> None:
    sched.define(max_retries=0)
    first = sched.loop(schedule_config={"on_failure": "continue"})
    sched.run(status="FAILED")
    second = latest_round(sched)
    sched.call("retry_task", first)

    assert sched.call("stop_loop", first) == second.id

    assert statuses(sched) == ["PENDING", "CANCELLED"]


@pytest.mark.parametrize("is_single", [True, False])
def test_only_a_round_of_a_loop_can_be_stopped(sched: Sched, is_single: bool) -> None:
    task_id = sched.schedule() if is_single else sched.value("select pgsched.uuid7()")

    with pytest.raises(psycopg.Error, match=str(task_id)) as refused:
        sched.call("stop_loop", task_id)

    assert refused.value.sqlstate == "PS404"


def test_a_report_may_stop_the_loop(sched: Sched) -> None:
    sched.loop(max_rounds=5)
    sched.run()
    sched.run(stop_loop=True)

    assert statuses(sched) == ["SUCCESS", "SUCCESS"]


def test_a_failed_report_may_stop_the_loop_that_would_go_on(sched: Sched) -> None:
    sched.define(max_retries=0)
    sched.loop(schedule_config={"on_failure": "continue"})
    sched.run(status="FAILED", stop_loop=True)

    assert statuses(sched) == ["FAILED"]


def test_a_failed_report_hands_over_the_next_input_too(sched: Sched) -> None:
    sched.define(max_retries=0)
    sched.loop(schedule_config={"on_failure": "continue"}, input_params={"page": 1})
    sched.run(status="FAILED", next_input={"page": 2})

    assert latest_round(sched).input_params == {"page": 2}


@pytest.mark.parametrize("is_list", [True, False])
def test_a_round_that_ends_while_the_loop_is_stopped_leaves_nothing_behind(
    sched: Sched, another: Sched, is_list: bool
) -> None:
    """The stop meets the finishing round's lock, and then looks again for its successor."""
    first = sched.loop()
    claimed = sched.claim_one()
    sched.settle(claimed)

    with sched.conn.transaction():
        if is_list:
            sched.report_many({"task_id": first, "status": "SUCCESS"})
        else:
            sched.report(first, "SUCCESS")
        stopping = Background(another.conn, lambda: another.call("stop_loop", first))
        stopping.wait_until_blocked(sched)

    stopped = stopping.result()
    assert statuses(sched) == ["SUCCESS", "CANCELLED"]
    assert sched.task(first).next_task_id == stopped


def test_a_round_that_ends_after_the_stop_but_before_its_commit_is_the_last(
    sched: Sched, another: Sched
) -> None:
    first = sched.loop()
    sched.settle(sched.claim_one())

    with sched.conn.transaction():
        sched.call("stop_loop", first)
        reporting = Background(another.conn, lambda: another.report(first, "SUCCESS"))
        reporting.wait_until_blocked(sched)

    assert reporting.result() == "SUCCESS"
    assert statuses(sched) == ["SUCCESS"]


def test_a_round_that_is_claimed_while_the_loop_is_stopped_becomes_the_last(
    sched: Sched, another: Sched
) -> None:
    first = sched.loop()

    with sched.conn.transaction():
        claimed = sched.claim_one()
        stopping = Background(another.conn, lambda: another.call("stop_loop", first))
        stopping.wait_until_blocked(sched)
    assert str(stopping.result()) == first

    assert sched.settle_many(settlement(claimed)) == {}
    sched.report(first, "SUCCESS")
    assert statuses(sched) == ["SUCCESS"]
