"""Many tasks retried or cancelled at once, by what they have in common."""

from __future__ import annotations

from typing import NamedTuple

import psycopg
import pytest

from tests.sql.sched import HOUR, MINUTE, SECOND, START, Sched
from tests.sql.test_wake import Ears

NOBODY = "01980000-0000-7000-8000-000000000000"


class Counts(NamedTuple):
    matched: int
    done: int
    refused: int


def act(sched: Sched, function: str, **named: object) -> Counts:
    slots = ", ".join(f"p_{name} => %s" for name in named)
    (row,) = sched.rows(f"select * from pgsched.{function}({slots})", *named.values())
    return Counts(*row)


def retry(sched: Sched, **named: object) -> Counts:
    return act(sched, "retry_tasks", **named)


def cancel(sched: Sched, **named: object) -> Counts:
    return act(sched, "cancel_tasks", **named)


def failed(sched: Sched, error: str = "boom", definition: str = "job", **named: object) -> str:
    """A task that was refused, a second after the one before."""
    sched.clock(SECOND)
    task_id = sched.schedule(definition, **named)
    (claimed,) = (task for task in sched.claim() if task.id == task_id)
    sched.settle(claimed, "REFUSED", error_msg=error)
    return task_id


def cancelled(sched: Sched, **named: object) -> str:
    sched.clock(SECOND)
    task_id = sched.schedule(**named)
    sched.call("cancel_task", task_id, "no need")
    return task_id


def statuses(sched: Sched, *task_ids: str) -> list[str]:
    return [sched.status(task_id) for task_id in task_ids]


@pytest.fixture(autouse=True)
def mail(sched: Sched) -> None:
    sched.call("define_queue", "mail")
    sched.define("other")


# Retry


def test_what_failed_or_was_cancelled_runs_again_as_by_a_single_retry(sched: Sched) -> None:
    first, second = failed(sched), cancelled(sched)
    sched.run(sched.schedule())

    assert retry(sched, after="-infinity") == (2, 2, 0)

    for task_id, events in ((first, ["REFUSED"]), (second, ["CANCELLED"])):
        task = sched.task(task_id)
        assert (task.status, task.attempt, task.retry_count) == ("PENDING", 2, 0)
        assert task.execute_after == sched.now
        assert sched.events(task_id) == [*events, "OPERATOR_RETRY"]
    assert {row.id for row in sched.claim()} == {first, second}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"definition": "other"}, {"other"}),
        ({"queue": "mail"}, {"mail"}),
        ({"trace_id": NOBODY}, {"traced"}),
        ({"status": "CANCELLED"}, {"cancelled"}),
        ({"status": "FAILED", "queue": "default"}, {"other", "traced", "odd"}),
        ({"error_like": "%timed out%"}, {"odd"}),
        ({"error_like": "timed out"}, set()),
        ({"error_like": "100\\%%"}, set()),
        ({"after": START + 4 * SECOND}, {"odd", "cancelled"}),
        ({"before": START + 2 * SECOND}, {"mail"}),
        ({"after": START + 2 * SECOND, "before": START + 4 * SECOND}, {"other", "traced"}),
        ({"definition": "other", "queue": "mail"}, set()),
    ],
)
def test_only_what_has_all_that_is_given_is_retried(
    sched: Sched, given: dict[str, object], expected: set[str]
) -> None:
    tasks = {
        "mail": failed(sched, queue="mail"),
        "other": failed(sched, definition="other"),
        "traced": failed(sched, trace_id=NOBODY),
        "odd": failed(sched, "it timed out after 30 s"),
        "cancelled": cancelled(sched),
    }

    counts = retry(sched, **given)

    assert {name for name, i in tasks.items() if sched.status(i) == "PENDING"} == expected
    assert counts == (len(expected), len(expected), 0)


def test_a_preview_only_counts(sched: Sched) -> None:
    failed(sched)
    cancelled(sched)
    before = sched.snapshot()

    assert retry(sched, after="-infinity", is_preview=True) == (2, 0, 0)
    assert retry(sched, status="FAILED", limit=1, is_preview=True) == (1, 0, 0)

    assert sched.snapshot() == before


def test_no_more_are_retried_than_asked_and_the_earliest_first(sched: Sched) -> None:
    tasks = [failed(sched) for _ in range(4)]

    assert retry(sched, queue="default", limit=2) == (2, 2, 0)
    assert statuses(sched, *tasks) == ["PENDING", "PENDING", "FAILED", "FAILED"]

    assert retry(sched, queue="default", limit=3) == (2, 2, 0)
    assert retry(sched, queue="default") == (0, 0, 0)


def test_runs_of_one_schedule_are_retried(sched: Sched) -> None:
    sched.call("schedule_cron", "job", "@daily", name="daily")
    task_id = sched.call("trigger_schedule", "daily")
    sched.call("cancel_task", task_id)
    other = cancelled(sched)

    assert retry(sched, schedule="daily") == (1, 1, 0)

    assert statuses(sched, task_id, other) == ["PENDING", "CANCELLED"]


def test_a_chain_is_retried_from_its_beginning(sched: Sched) -> None:
    sched.clock(SECOND)
    first = sched.schedule()
    sched.clock(SECOND)
    second = sched.schedule(depends_on=[first])
    sched.clock(SECOND)
    third = sched.schedule(depends_on=[second])
    sched.settle(sched.claim_one(), "REFUSED")
    assert statuses(sched, first, second, third) == ["FAILED", "CANCELLED", "CANCELLED"]

    assert retry(sched, queue="default") == (3, 3, 0)

    assert [sched.run() for _ in range(3)] == [first, second, third]


def test_one_whose_dependency_has_failed_is_refused_and_the_rest_is_not(sched: Sched) -> None:
    first = sched.schedule()
    waiting = sched.schedule(depends_on=[first])
    sched.settle(sched.claim_one(), "REFUSED")
    free = cancelled(sched)
    before = sched.task(waiting)

    assert retry(sched, status="CANCELLED") == (2, 1, 1)

    assert statuses(sched, first, waiting, free) == ["FAILED", "CANCELLED", "PENDING"]
    assert sched.task(waiting) == before


def test_the_refused_do_not_use_up_the_limit(sched: Sched) -> None:
    first = sched.schedule()
    for _ in range(3):
        sched.schedule(depends_on=[first])
    sched.settle(sched.claim_one(), "REFUSED")
    free = cancelled(sched)

    assert retry(sched, status="CANCELLED", limit=1) == (4, 1, 3)

    assert sched.status(free) == "PENDING"


@pytest.mark.parametrize("gone", ["queue", "definition"])
def test_one_whose_queue_or_definition_is_gone_is_refused(sched: Sched, gone: str) -> None:
    orphan = failed(sched, definition="other", queue="mail")
    free = failed(sched)
    if gone == "queue":
        sched.conn.execute("delete from pgsched.queues where name = 'mail'")
    else:
        sched.conn.execute("delete from pgsched.task_definitions where name = 'other'")

    assert retry(sched, status="FAILED") == (2, 1, 1)

    assert statuses(sched, orphan, free) == ["FAILED", "PENDING"]


def test_one_that_another_session_retries_is_not_waited_for(sched: Sched, another: Sched) -> None:
    sched.conn.execute("set lock_timeout = '1s'")
    locked, free = failed(sched), failed(sched)

    with another.transaction():
        another.call("retry_task", locked)
        assert retry(sched, status="FAILED") == (2, 1, 1)

    assert statuses(sched, locked, free) == ["FAILED", "PENDING"]
    assert retry(sched, status="FAILED") == (1, 1, 0)


def test_a_run_whose_schedule_is_locked_is_not_waited_for(sched: Sched, another: Sched) -> None:
    schedule_id = sched.call("schedule_cron", "job", "@hourly", name="hourly")
    run = failed_run(sched, schedule_id)
    free = failed(sched)

    with another.transaction():
        another.call("pause_schedule", "hourly")
        assert retry(sched, status="FAILED") == (2, 1, 1)

    assert statuses(sched, run, free) == ["FAILED", "PENDING"]
    assert retry(sched, status="FAILED") == (1, 1, 0)
    query = "select last_task_id from pgsched.schedules where name = 'hourly'"
    assert sched.value(query) is None


def failed_run(sched: Sched, schedule_id: str) -> str:
    sched.tick_all()  # computes the first instant
    sched.clock(HOUR)
    sched.tick_all()
    claimed = sched.claim_one()
    sched.settle(claimed, "REFUSED")
    query = "select last_task_id::text from pgsched.schedules where id = %s"
    assert sched.value(query, schedule_id) == claimed.id
    return str(claimed.id)


def test_a_round_that_is_retried_begins_no_second_loop(sched: Sched) -> None:
    loop_id = sched.loop(schedule_config={"on_failure": "continue"}, max_rounds=3)
    sched.settle(sched.claim_one(), "REFUSED")

    assert retry(sched, status="FAILED") == (1, 1, 0)
    sched.clock(HOUR)
    assert len(sched.claim()) == 2
    assert {task.loop_id for task in sched.tasks()} == {sched.task(loop_id).id}


def test_a_retry_of_many_wakes_the_workers(sched: Sched, another: Sched) -> None:
    for _ in range(3):
        cancelled(sched)
    ears = Ears(another, sched)

    retry(sched, status="CANCELLED")

    assert ears.heard() >= 1


# Cancel


def test_what_is_unfinished_is_cancelled_as_by_a_single_cancel(sched: Sched) -> None:
    waiting = sched.schedule(delay=HOUR)
    running = sched.schedule()
    sched.settle(sched.claim_one())
    ended = cancelled(sched)

    assert cancel(sched, after="-infinity", reason="the order is void") == (2, 2, 0)

    for task_id in (waiting, running):
        task = sched.task(task_id)
        assert (task.status, task.error_msg) == ("CANCELLED", "the order is void")
        assert task.cancelled_at == sched.now
        assert sched.events(task_id) == ["CANCELLED"]
    assert sched.task(ended).error_msg == "no need"


def test_without_a_reason_it_says_who_cancelled_it(sched: Sched) -> None:
    task_id = sched.schedule()

    cancel(sched, queue="default")

    assert sched.task(task_id).error_msg.startswith("cancelled by ")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"definition": "other"}, {"other"}),
        ({"queue": "mail"}, {"mail"}),
        ({"trace_id": NOBODY}, {"traced"}),
        ({"status": "SCHEDULED"}, {"claimed"}),
        ({"status": "PENDING", "queue": "default"}, {"other", "traced", "of_schedule", "deferred"}),
        ({"error_like": "%503%"}, {"deferred"}),
        ({"schedule": "daily"}, {"of_schedule"}),
        ({"schedule": "daily", "queue": "mail"}, set()),
        ({"after": START + 3 * MINUTE}, {"of_schedule", "other"}),
        ({"before": START + MINUTE}, {"deferred", "claimed"}),
        ({"after": START + MINUTE, "before": START + 3 * MINUTE}, {"mail", "traced"}),
    ],
)
def test_only_what_has_all_that_is_given_is_cancelled(
    sched: Sched, given: dict[str, object], expected: set[str]
) -> None:
    sched.call("schedule_cron", "job", "@daily", name="daily")
    tasks = {"deferred": sched.schedule()}
    sched.settle(sched.claim_one(), "DEFERRED", delay="1 hour", error_msg="503")
    tasks["claimed"] = sched.schedule()
    sched.claim_one()
    sched.clock(MINUTE)
    tasks["mail"] = sched.schedule(queue="mail")
    sched.clock(MINUTE)
    tasks["traced"] = sched.schedule(trace_id=NOBODY)
    sched.clock(MINUTE)
    tasks["of_schedule"] = sched.call("trigger_schedule", "daily")
    tasks["other"] = sched.schedule("other")

    counts = cancel(sched, **given)

    assert {name for name, i in tasks.items() if sched.status(i) == "CANCELLED"} == expected
    assert counts == (len(expected), len(expected), 0)


def test_a_preview_of_a_cancellation_only_counts(sched: Sched) -> None:
    sched.schedule()
    sched.schedule(queue="mail")
    before = sched.snapshot()

    assert cancel(sched, after="-infinity", limit=1, is_preview=True) == (2, 0, 0)

    assert sched.snapshot() == before


def test_no_more_are_cancelled_than_asked(sched: Sched) -> None:
    for _ in range(5):
        sched.schedule()

    assert cancel(sched, queue="default", limit=2) == (2, 2, 0)
    assert cancel(sched, queue="default") == (3, 3, 0)
    assert cancel(sched, queue="default") == (0, 0, 0)


def test_one_that_another_session_has_is_not_waited_for(sched: Sched, another: Sched) -> None:
    sched.conn.execute("set lock_timeout = '1s'")
    locked = sched.schedule()
    sched.clock(SECOND)
    free = sched.schedule()

    with another.transaction():
        another.call("cancel_task", locked)
        assert cancel(sched, queue="default", limit=1) == (2, 1, 1)

    assert statuses(sched, locked, free) == ["PENDING", "CANCELLED"]


def test_those_that_wait_for_a_cancelled_one_are_cancelled_too(sched: Sched) -> None:
    first = sched.schedule(queue="mail")
    second = sched.schedule(depends_on=[first])
    third = sched.schedule(queue="mail", depends_on=[second])

    assert cancel(sched, queue="mail") == (2, 2, 0)

    assert statuses(sched, first, second, third) == ["CANCELLED"] * 3
    assert sched.rows("select * from pgsched.task_dependencies") == []


def test_a_run_that_waits_and_whose_schedule_is_locked_is_left(
    sched: Sched, another: Sched
) -> None:
    sched.call("schedule_cron", "job", "@hourly", name="hourly", overlap_policy="queue_one")
    sched.tick_all()
    for _ in range(2):
        sched.clock(HOUR)
        sched.tick_all()
    (waiting,) = sched.tasks("pending_dependencies > 0")

    with another.transaction():
        another.call("pause_schedule", "hourly")
        assert cancel(sched, schedule="hourly", status="PENDING") == (2, 1, 1)

    # It waits no longer: the run before it has ended.
    task = sched.task(str(waiting.id))
    assert (task.status, task.pending_dependencies) == ("PENDING", 0)


def test_a_cancelled_run_that_waited_leaves_the_next_to_wait_for_the_one_before(
    sched: Sched,
) -> None:
    sched.call("schedule_cron", "job", "@hourly", name="hourly", overlap_policy="queue_one")
    sched.tick_all()
    for _ in range(2):
        sched.clock(HOUR)
        sched.tick_all()
    running = sched.claim_one()

    assert cancel(sched, schedule="hourly", status="PENDING") == (1, 1, 0)

    query = "select last_task_id::text from pgsched.schedules where name = 'hourly'"
    assert sched.value(query) == running.id


# Wrong input, for both


@pytest.mark.parametrize("function", ["retry_tasks", "cancel_tasks"])
@pytest.mark.parametrize(
    ("given", "state", "message"),
    [
        ({}, "PS422", "p_definition, p_queue, p_schedule, p_trace_id, p_status, p_error_like"),
        ({"limit": 5}, "PS422", "at least one of"),
        ({"queue": "mail", "limit": 0}, "PS422", "p_limit must be from 1 to 10000"),
        ({"queue": "mail", "limit": 10_001}, "PS422", "p_limit must be"),
        ({"queue": "mail", "limit": None}, "PS422", "p_limit must be"),
        ({"status": "SUCCESS"}, "PS422", "p_status must be"),
        ({"status": "nonsense"}, "PS422", "p_status must be"),
        ({"after": START, "before": START}, "PS422", "p_after .* must be before p_before"),
        ({"error_like": "a\\"}, "PS422", "p_error_like must not end"),
        ({"error_like": "\\\\\\"}, "PS422", "p_error_like must not end"),
        ({"queue": "nowhere"}, "PS404", "queue 'nowhere' does not exist"),
        ({"definition": "nothing"}, "PS404", "p_definition"),
        ({"schedule": "never"}, "PS404", "never"),
    ],
)
def test_wrong_input_is_refused_and_named(
    sched: Sched, function: str, given: dict[str, object], state: str, message: str
) -> None:
    with pytest.raises(psycopg.Error, match=message) as refused:
        act(sched, function, **given)

    assert refused.value.sqlstate == state


def test_a_pattern_may_end_with_a_backslash_that_is_escaped(sched: Sched) -> None:
    task_id = failed(sched, "a\\")

    assert retry(sched, error_like="%\\\\") == (1, 1, 0)

    assert sched.status(task_id) == "PENDING"


def test_what_is_finished_or_unfinished_is_named_for_each(sched: Sched) -> None:
    for function, status in (("retry_tasks", "PENDING"), ("cancel_tasks", "FAILED")):
        with pytest.raises(psycopg.Error, match="p_status must be"):
            act(sched, function, status=status)


@pytest.mark.parametrize("function", ["retry_tasks", "cancel_tasks"])
def test_everything_goes_back_with_the_transaction(sched: Sched, function: str) -> None:
    failed(sched)
    sched.schedule()
    before = sched.snapshot()

    with sched.transaction():
        assert act(sched, function, after="-infinity").done == 1

    assert sched.snapshot() == before


def test_many_are_retried_and_cancelled(sched: Sched) -> None:
    sched.rows("select pgsched.schedule_immediate('job') from generate_series(1, 2500)")

    assert cancel(sched, definition="job") == (1000, 1000, 0)
    assert cancel(sched, definition="job", limit=10_000) == (1500, 1500, 0)
    assert retry(sched, definition="job", is_preview=True).matched == 2500
    assert retry(sched, definition="job", limit=10_000) == (2500, 2500, 0)
    assert len(sched.claim(10_000)) == 2500
