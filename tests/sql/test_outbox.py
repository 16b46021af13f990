"""Status pushes: which changes are told, to whom, in which order, and how long it is tried."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.sql.sched import HOUR, MINUTE, SECOND, Sched, settlement

DAY = timedelta(days=1)


def claimed(sched: Sched, **named: object) -> Any:
    sched.schedule(**named)
    return sched.claim_one()


def running(sched: Sched, **named: object) -> Any:
    row = claimed(sched, **named)
    sched.settle(row)
    sched.report(row.id, "RUNNING")
    return row


def systems(sched: Sched, **named: object) -> None:
    sched.call("define_external_system", "default", **named)


# What is told

Change = Callable[[Sched], str]


def of_claimed(outcome: str) -> Change:
    def change(sched: Sched) -> str:
        row = claimed(sched)
        sched.settle(row, outcome)
        return str(row.id)

    return change


def of_running(status: str) -> Change:
    def change(sched: Sched) -> str:
        row = running(sched)
        sched.report(row.id, status)
        return str(row.id)

    return change


def deadline(sched: Sched) -> str:
    row = running(sched)
    sched.clock(2 * HOUR)
    sched.call("expire_deadlines")
    return str(row.id)


def lost(sched: Sched) -> str:
    row = claimed(sched)
    sched.clock(HOUR)
    sched.call("expire_deadlines")
    return str(row.id)


def lost_ten_times(sched: Sched) -> str:
    task_id = sched.schedule()
    for _ in range(10):
        sched.claim_one()
        sched.clock(HOUR)
        sched.call("expire_deadlines")
    return task_id


def undeliverable(sched: Sched) -> str:
    task_id = sched.schedule()
    for _ in range(2):
        sched.settle(sched.claim_one(), "DEFERRED")
        sched.clock(2 * DAY)
    return task_id


def without_budget(change: Change) -> Change:
    def of_one_without(sched: Sched) -> str:
        sched.define(max_retries=0)
        return change(sched)

    return of_one_without


def cancelled_waiting(sched: Sched) -> str:
    task_id = sched.schedule()
    sched.call("cancel_task", task_id)
    return task_id


def cancelled_deferred(sched: Sched) -> str:
    task_id = of_claimed("DEFERRED")(sched)
    sched.call("cancel_task", task_id)
    return task_id


def cancelled_running(sched: Sched) -> str:
    row = running(sched)
    sched.call("cancel_task", row.id)
    return str(row.id)


def of_loop(is_known: bool) -> Change:
    def stopped(sched: Sched) -> str:
        task_id = sched.loop()
        if is_known:
            sched.settle(sched.claim_one(), "DEFERRED")
        sched.call("stop_loop", task_id)
        return task_id

    return stopped


def of_schedule(is_known: bool) -> Change:
    def deleted(sched: Sched) -> str:
        sched.call("schedule_cron", "job", "@daily", name="a")
        task_id = str(sched.call("trigger_schedule", "a"))
        if is_known:
            sched.settle(sched.claim_one(), "DEFERRED")
        sched.call("delete_schedule", "a")
        return task_id

    return deleted


def dependent(sched: Sched) -> str:
    first = sched.schedule()
    task_id = sched.schedule(depends_on=[first])
    sched.call("cancel_task", first)
    return task_id


def dependent_known(sched: Sched) -> str:
    """It was pushed once, and waits again since it was retried together with the other."""
    first = running(sched)
    sched.report(first.id, "SUCCESS")
    other = sched.schedule()
    task_id = sched.schedule(depends_on=[other])
    sched.run(other)
    sched.settle(sched.claim_one(), "REFUSED")
    sched.conn.execute("delete from pgsched.status_pushes")
    sched.conn.execute("update pgsched.task_instances set status = 'FAILED' where id = %s", [other])
    sched.call("retry_task", other)
    sched.call("retry_task", task_id)
    sched.conn.execute("delete from pgsched.status_pushes")
    sched.call("cancel_task", other)
    return task_id


def retried(sched: Sched) -> str:
    task_id = cancelled_running(sched)
    sched.conn.execute("delete from pgsched.status_pushes")
    sched.call("retry_task", task_id)
    return task_id


def retried_unknown(sched: Sched) -> str:
    task_id = cancelled_waiting(sched)
    sched.call("retry_task", task_id)
    return task_id


def told_late(sched: Sched) -> str:
    """Its push was under way while it was cancelled."""
    row = claimed(sched)
    sched.call("cancel_task", row.id)
    sched.conn.execute("delete from pgsched.status_pushes")
    assert sched.settle(row) is None
    return str(row.id)


def stale_report(sched: Sched) -> str:
    task_id = of_running("FAILED")(sched)
    sched.conn.execute("delete from pgsched.status_pushes")
    sched.report(task_id, "FAILED", 1)
    with pytest.raises(psycopg.Error, match="too late"):
        sched.report(task_id, "RUNNING", 1)
    return task_id


CHANGES: dict[str, tuple[Change, list[str]]] = {
    "scheduled": (lambda sched: sched.schedule(), []),
    "claimed": (lambda sched: claimed(sched).id, []),
    "accepted": (of_claimed("ACCEPTED"), []),
    "deferred": (of_claimed("DEFERRED"), []),
    "released": (of_claimed("RELEASED"), []),
    "reported RUNNING": (of_running("RUNNING"), []),
    "reported SUCCESS": (of_running("SUCCESS"), []),
    "reported CANCELLED": (of_running("CANCELLED"), []),
    "reported FAILED": (of_running("FAILED"), ["PENDING 2"]),
    "reported FAILED at last": (without_budget(of_running("FAILED")), ["FAILED 1"]),
    "a report too late": (stale_report, []),
    "push failed": (of_claimed("RETRY"), ["PENDING 2"]),
    "push failed, same attempt": (of_claimed("RETRY_SAME"), ["PENDING 1"]),
    "push unanswered": (of_claimed("RETRY_LAPSED"), ["PENDING 2"]),
    "push failed at last": (without_budget(of_claimed("RETRY")), ["FAILED 1"]),
    "refused": (of_claimed("REFUSED"), ["FAILED 1"]),
    "deadline": (deadline, ["PENDING 2"]),
    "deadline at last": (without_budget(deadline), ["FAILED 1"]),
    "lost": (lost, []),
    "lost ten times": (lost_ten_times, ["FAILED 1"]),
    "undeliverable": (undeliverable, ["FAILED 1"]),
    "cancelled, never pushed": (cancelled_waiting, []),
    "cancelled, deferred": (cancelled_deferred, ["CANCELLED 1"]),
    "cancelled, running": (cancelled_running, ["CANCELLED 1"]),
    "cancelled, and accepted after": (told_late, ["CANCELLED 1"]),
    "loop stopped, never pushed": (of_loop(is_known=False), []),
    "loop stopped": (of_loop(is_known=True), ["CANCELLED 1"]),
    "schedule deleted, never pushed": (of_schedule(is_known=False), []),
    "schedule deleted": (of_schedule(is_known=True), ["CANCELLED 1"]),
    "dependency failed, never pushed": (dependent, []),
    "dependency failed": (dependent_known, ["CANCELLED 2"]),
    "retried": (retried, ["PENDING 2"]),
    "retried, never pushed": (retried_unknown, []),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_pgsched_decided_is_told_to_who_has_heard_of_the_task(sched: Sched, name: str) -> None:
    change, wanted = CHANGES[name]

    task_id = change(sched)

    assert sched.says(task_id) == wanted
    assert sched.task(task_id).external_status_pushed is (not wanted)


@pytest.mark.parametrize("name", CHANGES)
def test_who_completes_by_response_is_told_nothing(sched: Sched, name: str) -> None:
    systems(sched, completion="response")
    change, _ = CHANGES[name]

    assert sched.says(change(sched)) == []


@pytest.mark.parametrize("name", ["reported FAILED", "refused", "cancelled, running", "retried"])
@pytest.mark.parametrize("only", ["PENDING", "FAILED", "CANCELLED"])
@pytest.mark.parametrize("completion", ["callback", "response"])
def test_a_system_that_says_what_it_wants_gets_that_alone(
    sched: Sched, name: str, only: str, completion: str
) -> None:
    systems(sched, push_statuses=[only], completion=completion)
    change, wanted = CHANGES[name]

    assert sched.says(change(sched)) == [says for says in wanted if says.startswith(only)]


def test_a_claim_is_told_on_request_before_the_push_itself(sched: Sched) -> None:
    systems(sched, push_statuses=["SCHEDULED"])

    row = claimed(sched)

    assert sched.says(row.id) == ["SCHEDULED 1"]
    assert sched.outbox()[0].sequence < row.sequence


def test_a_message_says_what_there_is_to_know(sched: Sched) -> None:
    row = running(sched)
    sched.report(row.id, "FAILED", error_msg="no paper")
    sched.clock(SECOND)

    (push,) = sched.claim_news()

    task = sched.task(row.id)
    assert (push.task_id, push.status, push.attempt) == (row.id, "PENDING", 2)
    assert (push.external_system, push.queue, push.push_count) == ("default", "default", 1)
    assert (push.error_msg, push.created_at) == ("no paper", sched.now - SECOND)
    assert (push.definition_name, push.definition_id) == ("job", task.definition_id)
    assert (push.trace_id, push.scheduled_time) == (task.trace_id, task.scheduled_time)
    assert push.hold_seconds == 60
    assert push.sequence > row.sequence


def test_a_message_goes_with_the_transaction_that_made_it(sched: Sched) -> None:
    row = running(sched)
    with sched.transaction():
        sched.call("cancel_task", row.id)

    assert sched.says() == []


# Claim


def test_it_is_claimed_once_and_again_when_its_lease_has_ended(
    sched: Sched, another: Sched
) -> None:
    cancelled_running(sched)
    (first,) = sched.claim_news()

    assert another.claim_news() == []
    sched.clock(59 * SECOND)
    assert another.claim_news() == []
    sched.clock(SECOND)
    (second,) = another.claim_news()

    assert (first.push_count, second.push_count) == (1, 2)
    assert sched.settle_news(first) == 0
    assert another.settle_news(second) == 1
    assert sched.says() == []


def test_the_next_message_of_a_task_waits_for_the_one_before(sched: Sched, another: Sched) -> None:
    task_id = cancelled_running(sched)
    (first,) = sched.claim_news()
    sched.call("retry_task", task_id)

    assert another.claim_news() == []
    sched.settle_news(first)
    (second,) = another.claim_news()

    assert (first.status, second.status) == ("CANCELLED", "PENDING")


@pytest.mark.parametrize("outcome", ["ACKNOWLEDGED", "GIVEN_UP", "DEFERRED", "RELEASED"])
def test_however_the_one_before_ended_the_next_one_follows(sched: Sched, outcome: str) -> None:
    task_id = cancelled_running(sched)
    (first,) = sched.claim_news()
    sched.call("retry_task", task_id)

    sched.settle_news(first, outcome=outcome, delay="1 hour")

    assert [push.status for push in sched.claim_news()] == ["PENDING"]


def test_two_sessions_share_the_tasks_and_keep_the_order_of_each(
    sched: Sched, another: Sched
) -> None:
    """However their claims and settles fall together."""
    tasks = [cancelled_running(sched) for _ in range(6)]
    told: dict[str, list[str]] = {task_id: [] for task_id in tasks}
    held = {sched: sched.claim_news(3), another: another.claim_news(3)}
    for task_id in tasks:
        sched.call("retry_task", task_id)
    assert sched.claim_news() == another.claim_news() == []

    for session in (sched, another, sched, another):
        for push in held[session]:
            told[push.task_id].append(push.status)
        session.settle_news(*held[session])
        held[session] = session.claim_news(3)

    assert told == {task_id: ["CANCELLED", "PENDING"] for task_id in tasks}


def test_a_claim_meets_one_that_is_not_committed_and_passes_its_tasks_over(
    sched: Sched, another: Sched
) -> None:
    locked, free = cancelled_running(sched), cancelled_running(sched)
    sched.call("retry_task", locked)

    with another.transaction():
        assert {push.task_id for push in another.claim_news(1)} == {locked}
        assert {push.task_id for push in sched.claim_news()} == {free}

    assert [push.task_id for push in sched.claim_news()] == [locked]


def test_what_is_not_true_any_more_is_dropped(sched: Sched) -> None:
    task_id = of_running("FAILED")(sched)
    sched.clock(HOUR)
    sched.claim_one()
    assert sched.says(task_id) == ["PENDING 2"]

    assert sched.claim_news() == []
    assert sched.says(task_id) == []
    assert sched.task(task_id).external_status_pushed is True


def test_of_an_attempt_that_is_over_as_well(sched: Sched) -> None:
    sched.define(retry_delay="0")
    task_id = of_running("FAILED")(sched)
    sched.settle(sched.claim_one(), "RETRY")
    assert sched.says(task_id) == ["PENDING 2", "PENDING 3"]

    assert [push.attempt for push in sched.claim_news()] == [3]


def test_of_a_task_that_nobody_knows_any_more_as_well(sched: Sched) -> None:
    cancelled_running(sched)
    sched.conn.execute("delete from pgsched.task_instances")

    assert sched.claim_news() == []
    assert sched.says() == []


def test_a_deferred_message_that_was_overtaken_holds_up_nothing(sched: Sched) -> None:
    task_id = cancelled_running(sched)
    (first,) = sched.claim_news()
    sched.settle_news(first, outcome="DEFERRED", delay="1 hour")
    sched.call("retry_task", task_id)

    (second,) = sched.claim_news()

    assert second.status == "PENDING"
    assert sched.says(task_id) == ["PENDING 2"]


def test_of_two_messages_that_say_the_same_the_later_is_enough(sched: Sched) -> None:
    sched.define(retry_delay="0")
    task_id = of_claimed("RETRY_SAME")(sched)
    (first,) = sched.claim_news()
    sched.settle_news(first, outcome="DEFERRED", delay="1 hour")
    sched.settle(sched.claim_one(), "RETRY_SAME")
    assert sched.says(task_id) == ["PENDING 1", "PENDING 1"]

    (second,) = sched.claim_news()

    assert second.sequence > first.sequence
    assert sched.says(task_id) == ["PENDING 1"]


def test_what_is_being_sent_is_settled_by_its_sender(sched: Sched) -> None:
    sched.define(retry_delay="0")
    task_id = of_running("FAILED")(sched)
    (first,) = sched.claim_news()
    sched.settle(sched.claim_one())

    assert sched.claim_news() == []
    assert sched.says(task_id) == ["PENDING 2"]
    assert sched.settle_news(first) == 1


def test_many_that_are_stale_hide_none_that_is_not(sched: Sched) -> None:
    for _ in range(30):
        sched.schedule()
    rows = sched.claim()
    sched.settle_many(*(settlement(row) for row in rows))
    sched.report_many(*({"task_id": row.id, "status": "FAILED"} for row in rows))
    sched.clock(HOUR)
    sched.claim()
    task_id = sched.schedule()
    sched.claim()
    sched.call("cancel_task", task_id)

    assert [push.task_id for push in sched.claim_news(2)] == [task_id]


def test_nothing_is_told_while_the_breaker_is_open(sched: Sched) -> None:
    cancelled_running(sched)
    sched.call("open_breaker", "default")
    sched.clock(MINUTE)
    assert sched.claim_news() == []

    sched.call("close_breaker", "default")

    assert len(sched.claim_news()) == 1


@pytest.mark.parametrize("why", ["no task is due", "its queue is paused"])
def test_an_open_breaker_that_nothing_can_probe_does_not_hold_it_for_ever(
    sched: Sched, why: str
) -> None:
    task_id = sched.schedule()
    sched.settle(sched.claim_one(), "DEFERRED")
    sched.call("open_breaker", "default")
    sched.call("cancel_task", task_id)
    if why == "its queue is paused":
        sched.schedule()
        sched.call("pause_queue", "default")

    sched.clock(MINUTE)
    assert (sched.claim(), sched.claim_news()) == ([], [])
    sched.clock(10 * SECOND)
    (message,) = sched.claim_news()
    sched.settle_news(message, outcome="DEFERRED", delay="1 minute")

    assert sched.value("select s.open_count from pgsched.external_systems as s") == 1
    sched.clock(MINUTE)
    assert len(sched.claim_news()) == 1


def test_while_it_is_probed_nothing_is_told(sched: Sched) -> None:
    sched.call("define_external_system", "default", request_timeout="10 minutes")
    task_id = sched.schedule()
    sched.settle(sched.claim_one(), "DEFERRED")
    sched.schedule()
    sched.call("open_breaker", "default")
    sched.call("cancel_task", task_id)
    sched.clock(10 * SECOND)
    assert sched.claim_one().is_probe

    sched.clock(9 * MINUTE)

    assert sched.claim_news() == []


def test_a_paused_queue_is_still_told_of(sched: Sched) -> None:
    task_id = cancelled_running(sched)
    sched.call("pause_queue", "default")

    assert [push.task_id for push in sched.claim_news()] == [task_id]


def test_a_claim_takes_so_many_for_each_system_and_of_the_queues_named(sched: Sched) -> None:
    for name in ("a", "b"):
        sched.call("define_external_system", name, "http://localhost")
        sched.call("define_queue", name, name)
        for _ in range(3):
            row = running(sched, queue=name)
            sched.call("cancel_task", row.id)

    assert [push.queue for push in sched.claim_news(2, ["b"])] == ["b", "b"]
    assert [push.queue for push in sched.claim_news(2)] == ["a", "a", "b"]
    assert [push.queue for push in sched.claim_news(2)] == ["a"]


@pytest.mark.parametrize("limit", [0, 1001, None])
def test_a_limit_out_of_range_is_refused(sched: Sched, limit: int | None) -> None:
    with pytest.raises(psycopg.Error, match="p_limit must be from 1 to 1000"):
        sched.claim_news(limit)  # type: ignore[arg-type]


# Settle


def test_a_deferred_message_comes_back_after_its_delay(sched: Sched) -> None:
    cancelled_running(sched)
    (push,) = sched.claim_news()

    sched.settle_news(push, outcome="DEFERRED", delay="10 minutes", error_msg="HTTP 503")

    (row,) = sched.outbox()
    assert (row.last_error, row.worker_id, row.given_up_at) == ("HTTP 503", None, None)
    sched.clock(10 * MINUTE - SECOND)
    assert sched.claim_news() == []
    sched.clock(SECOND)
    assert [again.push_count for again in sched.claim_news()] == [2]


def test_what_was_given_up_stays_visible_and_is_not_sent_again(sched: Sched) -> None:
    task_id = cancelled_running(sched)
    (push,) = sched.claim_news()

    sched.settle_news(push, outcome="GIVEN_UP", error_msg="HTTP 400: what?")

    (row,) = sched.outbox()
    assert (row.given_up_at, row.last_error) == (sched.now, "HTTP 400: what?")
    assert sched.task(task_id).external_status_pushed is False
    sched.clock(10 * DAY)
    assert sched.claim_news() == []


def test_it_is_tried_for_the_delivery_timeout(sched: Sched) -> None:
    systems(sched, delivery_timeout=HOUR)
    cancelled_running(sched)
    for _ in range(2):
        (push,) = sched.claim_news()
        sched.settle_news(push, outcome="DEFERRED", delay="30 minutes", error_msg="HTTP 503")
        assert sched.outbox()[0].given_up_at is None
        sched.clock(30 * MINUTE)

    (push,) = sched.claim_news()
    sched.settle_news(push, outcome="DEFERRED", error_msg="HTTP 503")

    assert sched.outbox()[0].given_up_at == sched.now


def test_a_message_that_was_not_sent_is_due_again_at_once_however_old(sched: Sched) -> None:
    systems(sched, delivery_timeout=HOUR)
    cancelled_running(sched)
    sched.clock(2 * HOUR)
    (push,) = sched.claim_news()

    sched.settle_news(push, outcome="RELEASED")

    assert len(sched.claim_news()) == 1


@pytest.mark.parametrize("given", [{}, [{"sequence": 1}], [{"sequence": 1, "outcome": "LOST"}]])
def test_a_result_that_cannot_be_read_is_refused(sched: Sched, given: object) -> None:
    with pytest.raises(psycopg.Error) as failure:
        sched.call_json("settle_status_pushes", given)

    assert failure.value.sqlstate == "PS422"


def test_settle_waits_for_nobody(sched: Sched, another: Sched) -> None:
    cancelled_running(sched)
    (push,) = sched.claim_news()
    sched.conn.execute("set lock_timeout = '2s'")
    with another.transaction():
        another.conn.execute("select from pgsched.status_pushes for update")
        assert sched.settle_news(push) == 0
        assert sched.claim_news() == []

    assert sched.settle_news(push) == 1


# Keep


def test_what_was_given_up_is_kept_for_thirty_days(sched: Sched) -> None:
    cancelled_running(sched)
    sched.settle_news(*sched.claim_news(), outcome="GIVEN_UP")
    sched.clock(30 * DAY - SECOND)
    assert sched.call("maintain") == 0

    sched.clock(SECOND)

    assert sched.call("maintain") == 1
    assert sched.says() == []


def test_what_nobody_sends_is_given_up_in_the_end(sched: Sched) -> None:
    systems(sched, delivery_timeout=2 * DAY)
    cancelled_running(sched)
    sched.clock(2 * DAY - SECOND)
    assert sched.call("maintain") == 0

    sched.clock(SECOND)

    assert sched.call("maintain") == 1
    assert sched.outbox()[0].last_error == "no worker has sent it"


def test_a_delivery_timeout_of_a_moment_gives_a_message_a_day_to_be_sent(sched: Sched) -> None:
    systems(sched, delivery_timeout=SECOND)
    cancelled_running(sched)
    sched.clock(DAY - SECOND)

    assert sched.call("maintain") == 0


def test_messages_follow_their_queue_and_end_with_it(sched: Sched) -> None:
    sched.call("define_queue", "mail")
    row = running(sched, queue="mail")
    sched.call("cancel_task", row.id)

    sched.conn.execute("update pgsched.queues set name = 'post' where name = 'mail'")
    assert sched.outbox()[0].queue == "post"
    sched.conn.execute("delete from pgsched.queues where name = 'post'")

    (message,) = sched.outbox()
    assert (message.given_up_at, message.last_error) == (sched.now, "its queue was deleted")
