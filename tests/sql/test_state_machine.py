"""Every event in every status: the table of docs/state_machine.md, cell by cell."""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg
import pytest

from tests.sql.sched import HOUR, SECOND, Sched, settlement

UNFINISHED = ["PENDING", "SCHEDULED", "DISPATCHED", "RUNNING"]
FINISHED = ["SUCCESS", "FAILED", "CANCELLED"]
REPORTS = ["RUNNING", "SUCCESS", "FAILED", "CANCELLED"]
# What a worker says when it gives a task back.
RETURNS = ["DEFERRED", "RELEASED", "RETRY", "RETRY_SAME", "RETRY_LAPSED", "REFUSED"]

PS404, PS409, PS422 = "PS404", "PS409", "PS422"


class Case(NamedTuple):
    """A task brought to a status, and the latest delivery of it."""

    id: str
    delivery: Any


def prepare(sched: Sched, state: str) -> Case:
    """
    Bring a task to *state*, on the way that its name tells.

    PENDING is one that was never claimed, RELEASED one whose worker said
    goodbye, RETRIED one that waits for its second attempt.
    """
    return bring(sched, sched.schedule(), state)


def bring(sched: Sched, task_id: str, state: str) -> Case:
    if state == "PENDING":
        return Case(task_id, None)
    claimed = sched.claim_one()
    assert claimed.id == task_id
    if state == "RELEASED":
        assert sched.goodbye() == 1
    elif state == "RETRIED":
        sched.settle(claimed, "RETRY")
    elif state != "SCHEDULED":
        sched.settle(claimed)
        if state != "DISPATCHED":
            sched.report(task_id, "RUNNING", claimed.attempt)
        if state in FINISHED:
            end(sched, task_id, state)
    return Case(task_id, claimed)


def end(sched: Sched, task_id: str, status: str) -> None:
    if status == "FAILED":
        sched.conn.execute("update pgsched.scheduled_tasks set retry_count = max_retries")
    assert sched.report(task_id, status) == status


def second_attempt(sched: Sched, state: str, outcome: str) -> Case:
    """A task in *state* in its second attempt, the first having ended by *outcome*."""
    task_id = sched.schedule()
    sched.settle(sched.claim_one(), outcome)
    sched.clock(HOUR)
    return bring(sched, task_id, state)


def report(sched: Sched, task_id: str, status: str, attempt: int | None = None) -> tuple[Any, Any]:
    """The status that was answered, and the code, if any."""
    named = {"task_id": task_id, "status": status, "attempt": attempt}
    (answer,) = sched.report_many(named)
    return answer.status, answer.code


# Settle


@pytest.mark.parametrize(
    ("state", "result", "status"),
    [
        ("RELEASED", None, "DISPATCHED"),
        ("SCHEDULED", None, "DISPATCHED"),
        ("DISPATCHED", None, "DISPATCHED"),
        ("RUNNING", None, "RUNNING"),
        ("SUCCESS", None, "SUCCESS"),
        ("FAILED", None, "FAILED"),
        ("CANCELLED", None, "CANCELLED"),
        ("RETRIED", "STALE", "PENDING"),
    ],
)
def test_accepted(sched: Sched, state: str, result: str | None, status: str) -> None:
    case = prepare(sched, state)

    assert sched.settle(case.delivery) == result

    assert sched.status(case.id) == status


def test_accepted_of_a_task_that_was_never_claimed_is_stale(sched: Sched) -> None:
    named = {"task_id": sched.schedule(), "attempt": 1, "outcome": "ACCEPTED"}
    before = sched.snapshot()

    for delivery_count in (0, 1):
        results = sched.settle_many({**named, "delivery_count": delivery_count})
        assert results == {named["task_id"]: "STALE"}

    assert sched.snapshot() == before


@pytest.mark.parametrize("outcome", ["DEFERRED", "RETRY_SAME", "RETRY"])
def test_accepted_of_a_delivery_that_its_worker_gave_up_is_stale(
    sched: Sched, outcome: str
) -> None:
    claimed = prepare(sched, "SCHEDULED").delivery
    sched.settle(claimed, outcome)
    before = sched.snapshot()

    assert sched.settle(claimed) == "STALE"

    assert sched.snapshot() == before


@pytest.mark.parametrize("state", ["DISPATCHED", "RUNNING", "SUCCESS", "FAILED"])
def test_accepted_again_changes_nothing_and_leaves_no_event(sched: Sched, state: str) -> None:
    case = prepare(sched, state)
    before, events = sched.snapshot(), sched.events(case.id)
    sched.clock(SECOND)

    sched.settle(case.delivery)

    assert (sched.snapshot(), sched.events(case.id)) == (before, events)


def test_accepted_of_a_cancelled_task_changes_only_that_the_executor_is_told_again(
    sched: Sched,
) -> None:
    case = prepare(sched, "CANCELLED")
    (before,), events = sched.snapshot(), sched.events(case.id)
    sched.clock(SECOND)

    assert sched.settle(case.delivery) is None

    assert sched.snapshot() == [{**before, "external_status_pushed": False}]
    assert sched.events(case.id) == events


@pytest.mark.parametrize(
    ("outcome", "status", "attempt", "retry_count"),
    [
        ("DEFERRED", "PENDING", 1, 0),
        ("RELEASED", "PENDING", 1, 0),
        ("RETRY", "PENDING", 2, 1),
        ("RETRY_LAPSED", "PENDING", 2, 1),
        ("RETRY_SAME", "PENDING", 1, 1),
        ("REFUSED", "FAILED", 1, 0),
    ],
)
def test_a_scheduled_task_that_its_worker_gives_back(
    sched: Sched, outcome: str, status: str, attempt: int, retry_count: int
) -> None:
    case = prepare(sched, "SCHEDULED")

    assert sched.settle(case.delivery, outcome, error_msg="why") is None

    task = sched.task(case.id)
    assert (task.status, task.attempt, task.retry_count) == (status, attempt, retry_count)
    assert (task.error_msg, task.delivery_count) == ("why", 1)


@pytest.mark.parametrize("outcome", RETURNS)
@pytest.mark.parametrize("state", ["RELEASED", "RETRIED", "DISPATCHED", "RUNNING"])
def test_a_task_that_is_not_the_workers_any_more_cannot_be_given_back(
    sched: Sched, state: str, outcome: str
) -> None:
    case = prepare(sched, state)
    before = sched.snapshot()

    assert sched.settle(case.delivery, outcome) == "STALE"

    assert sched.snapshot() == before
    assert sched.events(case.id)[-1] == "SETTLE_REFUSED"


@pytest.mark.parametrize("outcome", RETURNS)
def test_a_task_that_was_never_claimed_cannot_be_given_back(sched: Sched, outcome: str) -> None:
    named = {"task_id": sched.schedule(), "attempt": 1, "delivery_count": 0}
    before = sched.snapshot()

    assert sched.settle_many({**named, "outcome": outcome}) == {named["task_id"]: "STALE"}

    assert sched.snapshot() == before


@pytest.mark.parametrize("outcome", RETURNS)
@pytest.mark.parametrize("state", FINISHED)
def test_to_give_back_a_finished_task_is_silent(sched: Sched, state: str, outcome: str) -> None:
    case = prepare(sched, state)
    before, events = sched.snapshot(), sched.events(case.id)

    assert sched.settle(case.delivery, outcome) is None

    assert (sched.snapshot(), sched.events(case.id)) == (before, events)


@pytest.mark.parametrize("outcome", ["ACCEPTED", *RETURNS])
@pytest.mark.parametrize("fence", [{"attempt": 2}, {"delivery_count": 0}, {"delivery_count": 2}])
def test_a_settlement_must_name_the_attempt_and_the_delivery(
    sched: Sched, fence: dict[str, int], outcome: str
) -> None:
    case = prepare(sched, "SCHEDULED")
    before = sched.snapshot()

    results = sched.settle_many({**settlement(case.delivery, outcome), **fence})

    assert results == {case.id: "STALE"}
    assert sched.snapshot() == before
    assert sched.events(case.id) == ["SETTLE_REFUSED"]


@pytest.mark.parametrize("missing", ["attempt", "delivery_count"])
@pytest.mark.parametrize("outcome", ["ACCEPTED", "RETRY"])
def test_a_settlement_without_its_fence_is_refused(
    sched: Sched, outcome: str, missing: str
) -> None:
    case = prepare(sched, "SCHEDULED")
    before = sched.snapshot()

    results = sched.settle_many({**settlement(case.delivery, outcome), missing: None})

    assert results == {case.id: "STALE"}
    assert sched.snapshot() == before


@pytest.mark.parametrize("outcome", ["ACCEPTED", *RETURNS])
def test_the_worker_of_an_earlier_delivery_cannot_settle_the_next(
    sched: Sched, outcome: str
) -> None:
    case = prepare(sched, "RELEASED")
    again = sched.claim_one()
    before = sched.snapshot()

    assert sched.settle(case.delivery, outcome) == "STALE"

    assert sched.snapshot() == before
    assert again.delivery_count == 2


def test_a_settlement_of_a_task_that_does_not_exist_is_silent(sched: Sched) -> None:
    case = prepare(sched, "SCHEDULED")
    unknown = settlement(case.delivery) | {"task_id": sched.value("select pgsched.uuid7()::text")}

    assert sched.settle_many(unknown, settlement(case.delivery)) == {}

    assert sched.status(case.id) == "DISPATCHED"


@pytest.mark.parametrize("outcome", ["ACCEPTED", *RETURNS])
def test_the_same_settlement_twice_in_one_call_counts_once(sched: Sched, outcome: str) -> None:
    case = prepare(sched, "SCHEDULED")

    sched.settle_many(*[settlement(case.delivery, outcome)] * 2)

    assert sched.task(case.id).retry_count == outcome.startswith("RETRY")


def test_an_unknown_outcome_is_refused_as_a_whole(sched: Sched) -> None:
    case = prepare(sched, "SCHEDULED")

    with pytest.raises(psycopg.Error, match="outcome") as refused:
        sched.settle_many(settlement(case.delivery), settlement(case.delivery, "DONE"))

    assert refused.value.sqlstate == PS422
    assert sched.status(case.id) == "SCHEDULED"


# Reports of the current attempt


@pytest.mark.parametrize(
    ("status", "after"),
    [
        ("RUNNING", "RUNNING"),
        ("SUCCESS", "SUCCESS"),
        ("FAILED", "PENDING"),
        ("CANCELLED", "CANCELLED"),
    ],
)
@pytest.mark.parametrize("state", ["RELEASED", "RETRIED", "SCHEDULED", "DISPATCHED", "RUNNING"])
@pytest.mark.parametrize("is_named", [True, False])
def test_a_report_of_the_current_attempt(
    sched: Sched, state: str, status: str, after: str, is_named: bool
) -> None:
    case = prepare(sched, state)
    attempt = sched.task(case.id).attempt

    assert report(sched, case.id, status, attempt if is_named else None) == (after, None)

    task = sched.task(case.id)
    assert task.status == after
    assert task.attempt == attempt + (status == "FAILED")


@pytest.mark.parametrize("state", ["RELEASED", "SCHEDULED", "DISPATCHED", "RUNNING"])
def test_failed_without_budget_is_the_end(sched: Sched, state: str) -> None:
    sched.define(max_retries=0)
    case = prepare(sched, state)

    assert report(sched, case.id, "FAILED", 1) == ("FAILED", None)

    assert sched.task(case.id).status == "FAILED"
    assert sched.task(case.id).finished_at == sched.now


@pytest.mark.parametrize("state", ["RELEASED", "SCHEDULED", "DISPATCHED", "RUNNING"])
def test_cancelled_by_the_executor_is_never_retried(sched: Sched, state: str) -> None:
    case = prepare(sched, state)

    sched.report(case.id, "CANCELLED", 1, error_msg="not wanted")

    task = sched.task(case.id)
    assert (task.status, task.error_msg, task.retry_count) == ("CANCELLED", "not wanted", 0)
    assert task.cancelled_at == sched.now


@pytest.mark.parametrize("state", ["RELEASED", "SCHEDULED", "DISPATCHED", "RUNNING"])
def test_running_sets_a_new_deadline(sched: Sched, state: str) -> None:
    case = prepare(sched, state)
    sched.clock(10 * SECOND)

    sched.report(case.id, "RUNNING", 1)

    assert sched.task(case.id).deadline_at == sched.now + HOUR


@pytest.mark.parametrize("status", REPORTS)
@pytest.mark.parametrize("state", FINISHED)
def test_a_report_about_a_finished_task(sched: Sched, state: str, status: str) -> None:
    case = prepare(sched, state)
    before = sched.snapshot()

    expected = (state, None if status == state else PS409)
    assert report(sched, case.id, status, 1) == expected

    assert sched.snapshot() == before


@pytest.mark.parametrize("status", REPORTS)
def test_a_result_overtakes_the_settlement_of_its_delivery(sched: Sched, status: str) -> None:
    """The answer to a push goes by the attempt, whichever delivery brought it."""
    case = prepare(sched, "RELEASED")
    again = sched.claim_one()

    sched.report(case.id, status, case.delivery.attempt)

    assert sched.settle(again) == (None if status != "FAILED" else "STALE")
    assert sched.status(case.id) == (status if status != "FAILED" else "PENDING")


# Reports of other attempts


@pytest.mark.parametrize("state", [*UNFINISHED, *FINISHED])
def test_success_of_an_earlier_attempt_that_lapsed(sched: Sched, state: str) -> None:
    case = second_attempt(sched, state, "RETRY_LAPSED")
    before = sched.snapshot()

    answer = report(sched, case.id, "SUCCESS", 1)

    if state in ("FAILED", "CANCELLED"):
        assert answer == (state, PS409)
        assert sched.snapshot() == before
    else:
        assert answer == ("SUCCESS", None)
        assert sched.status(case.id) == "SUCCESS"


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "CANCELLED"])
@pytest.mark.parametrize("state", [*UNFINISHED, *FINISHED])
def test_other_reports_of_an_attempt_that_lapsed(sched: Sched, state: str, status: str) -> None:
    case = second_attempt(sched, state, "RETRY_LAPSED")
    before = sched.snapshot()

    # A FAILED that was counted when the attempt lapsed is no news.
    is_known = status == "FAILED" and state in UNFINISHED
    assert report(sched, case.id, status, 1) == (state, None if is_known else PS409)

    assert sched.snapshot() == before


@pytest.mark.parametrize("status", REPORTS)
@pytest.mark.parametrize("state", [*UNFINISHED, *FINISHED])
def test_reports_of_an_earlier_attempt_that_was_answered(
    sched: Sched, state: str, status: str
) -> None:
    case = second_attempt(sched, state, "RETRY")
    before = sched.snapshot()

    is_known = status == "FAILED" and state in UNFINISHED
    assert report(sched, case.id, status, 1) == (state, None if is_known else PS409)

    assert sched.snapshot() == before


@pytest.mark.parametrize("state", UNFINISHED)
def test_success_of_an_attempt_before_the_one_that_lapsed_is_too_late(
    sched: Sched, state: str
) -> None:
    task_id = sched.schedule()
    sched.settle(sched.claim_one(), "RETRY")
    sched.clock(HOUR)
    sched.settle(sched.claim_one(), "RETRY_LAPSED")
    sched.clock(HOUR)
    case = bring(sched, task_id, state)

    assert report(sched, case.id, "SUCCESS", 1) == (state, PS409)
    assert report(sched, case.id, "SUCCESS", 2) == ("SUCCESS", None)


@pytest.mark.parametrize("state", UNFINISHED)
def test_success_of_an_attempt_after_the_one_that_lapsed_counts(sched: Sched, state: str) -> None:
    task_id = sched.schedule()
    for outcome in ("RETRY_LAPSED", "RETRY"):
        sched.settle(sched.claim_one(), outcome)
        sched.clock(HOUR)
    case = bring(sched, task_id, state)

    assert report(sched, case.id, "SUCCESS", 2) == ("SUCCESS", None)


@pytest.mark.parametrize("status", REPORTS)
@pytest.mark.parametrize("state", ["RELEASED", "SCHEDULED", "DISPATCHED", "RUNNING", *FINISHED])
@pytest.mark.parametrize("attempt", [0, 2])
def test_reports_of_an_attempt_that_was_never_pushed(
    sched: Sched, state: str, status: str, attempt: int
) -> None:
    case = prepare(sched, state)
    before = sched.snapshot()

    assert report(sched, case.id, status, attempt)[1] == PS422

    assert sched.snapshot() == before


@pytest.mark.parametrize("status", REPORTS)
@pytest.mark.parametrize("is_cancelled", [True, False])
def test_reports_of_a_task_that_was_never_pushed(
    sched: Sched, status: str, is_cancelled: bool
) -> None:
    task_id = sched.schedule()
    if is_cancelled:
        sched.call("cancel_task", task_id)
    before = sched.snapshot()

    assert [report(sched, task_id, status, n)[1] for n in (None, 1)] == [PS422, PS422]

    assert sched.snapshot() == before


def test_a_report_of_a_task_that_does_not_exist(sched: Sched) -> None:
    assert report(sched, sched.value("select pgsched.uuid7()::text"), "SUCCESS") == (None, PS404)


@pytest.mark.parametrize("is_list", [True, False])
def test_a_refused_report_leaves_an_event(sched: Sched, is_list: bool) -> None:
    """The one that raises takes the event back with it, so there the caller has the message."""
    case = prepare(sched, "SUCCESS")

    if is_list:
        assert report(sched, case.id, "RUNNING", 1) == ("SUCCESS", PS409)
        assert sched.events(case.id) == ["REPORT_REFUSED"]
    else:
        with pytest.raises(psycopg.Error, match=f"{case.id} is SUCCESS") as refused:
            sched.report(case.id, "RUNNING", 1)
        assert refused.value.sqlstate == PS409


def test_reports_of_one_list_about_one_task_are_applied_in_their_order(sched: Sched) -> None:
    case = prepare(sched, "DISPATCHED")
    other = prepare(sched, "DISPATCHED")
    order = [(case, "RUNNING"), (other, "SUCCESS"), (case, "SUCCESS"), (case, "RUNNING")]

    answers = sched.report_many(*({"task_id": c.id, "status": s} for c, s in order))

    assert [(a.status, a.code) for a in answers] == [
        ("RUNNING", None),
        ("SUCCESS", None),
        ("SUCCESS", None),
        ("SUCCESS", PS409),
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("status", "DONE"),
        ("status", None),
        ("output_ref", "x" * 2049),
        ("progress", {"x": "y" * 4097}),
        ("next_input", [1]),
    ],
)
def test_one_malformed_report_does_not_stop_its_neighbours(
    sched: Sched, field: str, value: object
) -> None:
    case, other = prepare(sched, "DISPATCHED"), prepare(sched, "DISPATCHED")
    bad = {"task_id": case.id, "status": "RUNNING", field: value}

    answers = sched.report_many(bad, {"task_id": other.id, "status": "SUCCESS"})

    assert [a.code for a in answers] == [PS422, None]
    assert field in answers[0].message
    assert [sched.status(c.id) for c in (case, other)] == ["DISPATCHED", "SUCCESS"]


# cancel_task


@pytest.mark.parametrize("state", ["RELEASED", "RETRIED", *UNFINISHED])
def test_cancel_an_unfinished_task(sched: Sched, state: str) -> None:
    case = prepare(sched, state)

    assert sched.call("cancel_task", case.id, "not needed") == "CANCELLED"

    task = sched.task(case.id)
    assert (task.status, task.error_msg) == ("CANCELLED", "not needed")
    assert task.cancelled_at == task.finished_at == sched.now
    assert sched.events(case.id)[-1] == "CANCELLED"


@pytest.mark.parametrize("function", ["cancel_task", "retry_task"])
def test_a_task_that_does_not_exist_can_be_neither_cancelled_nor_retried(
    sched: Sched, function: str
) -> None:
    with pytest.raises(psycopg.Error, match="does not exist") as refused:
        sched.call(function, sched.value("select pgsched.uuid7()"))

    assert refused.value.sqlstate == PS404


@pytest.mark.parametrize("state", FINISHED)
def test_a_finished_task_cannot_be_cancelled(sched: Sched, state: str) -> None:
    case = prepare(sched, state)
    before = sched.snapshot()

    with pytest.raises(psycopg.Error, match=f"is {state} already") as refused:
        sched.call("cancel_task", case.id)

    assert refused.value.sqlstate == PS409
    assert sched.snapshot() == before


# retry_task


@pytest.mark.parametrize("state", ["RELEASED", "RETRIED", *UNFINISHED, "SUCCESS"])
def test_an_unfinished_or_successful_task_cannot_be_retried(sched: Sched, state: str) -> None:
    case = prepare(sched, state)
    before = sched.snapshot()

    with pytest.raises(psycopg.Error, match=case.id) as refused:
        sched.call("retry_task", case.id)

    assert refused.value.sqlstate == PS409
    assert sched.snapshot() == before


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED"])
def test_retry_a_failed_or_cancelled_task(sched: Sched, state: str) -> None:
    case = prepare(sched, state)
    sched.clock(HOUR)

    assert sched.call("retry_task", case.id) == "PENDING"

    (task,) = sched.tasks()
    assert (str(task.id), task.status, task.attempt) == (case.id, "PENDING", 2)
    assert (task.retry_count, task.lost_count, task.lapsed_attempt) == (0, 0, None)
    assert (task.execute_after, task.cancelled_at, task.finished_at) == (sched.now, None, None)
    assert sched.events(case.id)[-1] == "OPERATOR_RETRY"
    claimed = sched.claim_one()
    assert (claimed.attempt, claimed.delivery_count) == (2, 2)


def test_a_retry_by_an_operator_forgets_what_lapsed(sched: Sched) -> None:
    case = second_attempt(sched, "FAILED", "RETRY_LAPSED")

    sched.call("retry_task", case.id)

    assert report(sched, case.id, "SUCCESS", 1) == ("PENDING", PS409)


def test_the_worker_of_a_cancelled_task_cannot_settle_its_retry(sched: Sched) -> None:
    case = prepare(sched, "SCHEDULED")
    sched.call("cancel_task", case.id)
    sched.call("retry_task", case.id)

    assert sched.settle(case.delivery) == "STALE"

    assert sched.status(case.id) == "PENDING"


# Deadlines


@pytest.mark.parametrize("state", ["PENDING", "RELEASED", "RETRIED", *FINISHED])
def test_what_waits_or_has_ended_has_no_deadline(sched: Sched, state: str) -> None:
    prepare(sched, state)
    before = sched.snapshot()
    sched.clock(1000 * HOUR)

    assert sched.call("expire_deadlines") == 0

    assert sched.snapshot() == before


@pytest.mark.parametrize("state", ["SCHEDULED", "DISPATCHED", "RUNNING"])
def test_before_its_deadline_nothing_expires(sched: Sched, state: str) -> None:
    case = prepare(sched, state)
    sched.clock(sched.task(case.id).deadline_at - SECOND)

    assert sched.call("expire_deadlines") == 0

    assert sched.status(case.id) == state


def test_a_scheduled_task_past_its_deadline_is_given_to_another(sched: Sched) -> None:
    case = prepare(sched, "SCHEDULED")
    sched.clock(sched.task(case.id).deadline_at)

    assert sched.call("expire_deadlines") == 1

    task = sched.task(case.id)
    assert (task.status, task.attempt, task.retry_count) == ("PENDING", 1, 0)
    assert (task.lost_count, task.lapsed_attempt, task.execute_after) == (1, None, sched.now)
    assert sched.settle(case.delivery) is None  # its worker was slow, not wrong
    assert sched.status(case.id) == "DISPATCHED"


@pytest.mark.parametrize("state", ["DISPATCHED", "RUNNING"])
def test_a_silent_executor_costs_a_retry(sched: Sched, state: str) -> None:
    case = prepare(sched, state)
    sched.clock(sched.task(case.id).deadline_at)

    assert sched.call("expire_deadlines") == 1

    task = sched.task(case.id)
    assert (task.status, task.attempt, task.retry_count) == ("PENDING", 2, 1)
    assert (task.lost_count, task.lapsed_attempt) == (0, 1)
    assert (task.started_at, task.dispatched_at) == (None, None)
    assert "no report until its deadline" in task.error_msg


@pytest.mark.parametrize("state", ["DISPATCHED", "RUNNING"])
def test_a_silent_executor_and_no_budget_is_the_end(sched: Sched, state: str) -> None:
    sched.define(max_retries=0)
    case = prepare(sched, state)
    sched.clock(sched.task(case.id).deadline_at)

    sched.call("expire_deadlines")

    assert sched.status(case.id) == "FAILED"
    assert sched.report_many({"task_id": case.id, "status": "SUCCESS"})[0].code == PS409


def test_started_at_is_the_first_sign_of_the_attempt(sched: Sched) -> None:
    case = prepare(sched, "SCHEDULED")
    started_at = sched.now
    sched.report(case.id, "RUNNING", 1)
    sched.clock(SECOND)
    sched.report(case.id, "RUNNING", 1)

    assert sched.task(case.id).started_at == started_at
