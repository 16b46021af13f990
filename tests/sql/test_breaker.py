"""The circuit breaker of an external system: who opens it, who probes, and who closes it."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.sql.sched import MINUTE, SECOND, Sched
from tests.sql.test_wake import Ears

MS = timedelta(milliseconds=1)


@pytest.fixture(autouse=True)
def mailer(sched: Sched) -> None:
    """A system of its own, whose two queues have ten due tasks each."""
    sched.call("define_external_system", "mailer")
    for queue in ("mail", "bulk"):
        sched.call("define_queue", queue, "mailer")
        fill(sched, queue)


def fill(sched: Sched, queue: str, count: int = 10) -> None:
    query = "select pgsched.schedule_immediate('job', p_queue => %s) from generate_series(1, %s)"
    sched.rows(query, queue, count)


def open_breaker(sched: Sched, worker: str | None = None, reason: str = "503") -> datetime:
    until: datetime = sched.call("open_breaker", "mailer", reason, worker)
    return until


def state(sched: Sched) -> Any:
    (row,) = sched.rows("select * from pgsched.external_systems where name = 'mailer'")
    return row


def wait(sched: Sched) -> None:
    """Turn the clock to the time at which the breaker may be probed."""
    sched.clock(state(sched).open_until)


def probe(sched: Sched) -> Any:
    """The one task that is claimed, as a probe."""
    task = sched.claim_one()
    assert task.is_probe
    return task


def test_nothing_is_claimed_for_a_system_whose_breaker_is_open(sched: Sched) -> None:
    until = open_breaker(sched)

    assert sched.claim() == []
    sched.clock(until - MS)
    assert sched.claim() == []


def test_the_time_of_the_probe_is_waited_for(sched: Sched) -> None:
    until = open_breaker(sched)

    assert sched.call("next_due_in") == until - sched.now
    assert sched.call("next_due_in", ["default"]) is None
    sched.clock(until)
    assert sched.call("next_due_in") is None
    probe(sched)
    assert sched.call("next_due_in") == MINUTE  # when somebody else may probe


def test_after_a_while_one_task_is_claimed_as_a_probe(sched: Sched) -> None:
    open_breaker(sched)
    wait(sched)

    probe(sched)

    assert sched.claim() == []


def test_what_is_claimed_else_is_no_probe(sched: Sched) -> None:
    assert {task.is_probe for task in sched.claim()} == {False}


def test_one_probe_at_a_time_is_under_way_for_all_workers(sched: Sched, another: Sched) -> None:
    open_breaker(sched)
    wait(sched)
    task = probe(sched)

    assert another.claim() == []

    sched.settle(task, "DEFERRED")
    open_breaker(sched, sched.worker)
    wait(sched)
    probe(another)
    assert sched.claim() == []


def test_two_workers_that_come_at_the_same_time_send_one_probe(
    sched: Sched, another: Sched
) -> None:
    open_breaker(sched)
    wait(sched)
    assert another.worker
    another.conn.execute("set lock_timeout = '1s'")
    sched.conn.execute("begin")
    probe(sched)

    assert another.claim() == []

    sched.conn.execute("commit")
    assert another.claim() == []


def test_another_worker_may_probe_when_the_first_has_not_told_in_time(
    sched: Sched, another: Sched
) -> None:
    open_breaker(sched)
    wait(sched)
    probe(sched)
    assert state(sched).probe_until == sched.now + 30 * SECOND + 30 * SECOND

    sched.clock(MINUTE - MS)
    assert another.claim() == []
    sched.clock(MS)
    probe(another)

    # The first comes too late, whatever it says.
    until = state(sched).open_until
    assert open_breaker(sched, sched.worker) == until
    assert sched.call("close_breaker", "mailer", sched.worker) is False
    assert str(state(sched).probe_by) == another.worker


@pytest.mark.parametrize("how", ["says goodbye", "is dead"])
def test_the_probe_of_a_worker_that_is_gone_is_not_waited_for(
    sched: Sched, another: Sched, how: str
) -> None:
    sched.call("define_external_system", "mailer", request_timeout="10 minutes")
    open_breaker(sched)
    wait(sched)
    assert another.worker
    probe(sched)
    assert another.claim() == []

    if how == "says goodbye":
        assert sched.goodbye() == 1
    else:
        sched.clock(20 * SECOND)
        another.call("heartbeat", another.worker)
        sched.clock(20 * SECOND)
        assert another.call("release_dead_workers", another.worker) == 1

    assert state(sched).probe_by is None
    probe(another)


def test_a_goodbye_waits_for_nobody_who_has_locked_the_system(sched: Sched, another: Sched) -> None:
    open_breaker(sched)
    wait(sched)
    probe(sched)
    sched.conn.execute("set lock_timeout = '1s'")

    with another.transaction():
        another.call("define_external_system", "mailer")
        assert sched.goodbye() == 1


def test_each_probe_that_fails_doubles_the_time_up_to_five_minutes(sched: Sched) -> None:
    waits = [open_breaker(sched) - sched.now]
    for _ in range(8):
        wait(sched)
        task = probe(sched)
        waits.append(open_breaker(sched, sched.worker) - sched.now)
        sched.settle(task, "RELEASED")

    for wanted, waited in zip([5, 10, 20, 40, 80, 160, 300, 300, 300], waits, strict=True):
        assert wanted * SECOND <= waited <= 1.1 * wanted * SECOND


def test_the_times_of_two_systems_differ(sched: Sched) -> None:
    sched.call("define_external_system", "other")

    assert sched.call("open_breaker", "other") != open_breaker(sched)


def test_only_the_prober_opens_it_again(sched: Sched, another: Sched) -> None:
    until = open_breaker(sched, sched.worker)
    sched.clock(SECOND)
    assert open_breaker(another, another.worker) == until
    assert open_breaker(sched, sched.worker) == until
    wait(sched)
    probe(sched)

    assert open_breaker(another, another.worker) == until

    assert open_breaker(sched, sched.worker) > until
    assert state(sched).open_count == 2


@pytest.mark.parametrize("is_probed", [False, True])
def test_an_operator_does_not_prolong_one_that_is_open(sched: Sched, is_probed: bool) -> None:
    until = open_breaker(sched)
    wait(sched)
    if is_probed:
        probe(sched)

    assert open_breaker(sched, None, "by hand") == until

    assert (state(sched).open_count, state(sched).open_reason) == (1, "503")


def test_the_prober_closes_it_and_everything_flows_again(sched: Sched) -> None:
    open_breaker(sched)
    wait(sched)
    task = probe(sched)
    sched.settle(task)

    assert sched.call("close_breaker", "mailer", sched.worker) is True

    row = state(sched)
    assert (row.open_until, row.open_reason, row.open_count) == (None, None, 0)
    assert (row.probe_by, row.probe_until, row.closed_at) == (None, None, sched.now)
    sched.clock(11 * SECOND)
    assert len(sched.claim()) == 19


def test_a_worker_that_does_not_probe_does_not_close_it(sched: Sched, another: Sched) -> None:
    open_breaker(sched)
    assert sched.call("close_breaker", "mailer", sched.worker) is False
    wait(sched)
    probe(sched)

    assert sched.call("close_breaker", "mailer", another.worker) is False

    assert state(sched).open_until is not None


def test_an_operator_closes_it_at_any_time(sched: Sched) -> None:
    open_breaker(sched)

    assert sched.call("close_breaker", "mailer") is True

    assert sched.call("close_breaker", "mailer") is False
    assert state(sched).open_until is None
    assert len(sched.claim()) == 2  # the ramp has begun, for either queue


def test_after_it_has_closed_its_queues_ramp_up(sched: Sched) -> None:
    fill(sched, "mail", 100)
    open_breaker(sched)
    sched.call("close_breaker", "mailer")
    fill(sched, "default")

    claimed = sched.claim()
    sched.clock(SECOND)
    more = sched.claim(queues=["mail"])

    assert Counter(task.queue for task in claimed) == {"mail": 1, "bulk": 1, "default": 10}
    assert len(more) == 4  # the burst of 40 a second
    assert sched.call("next_due_in", ["mail"]) == 25 * MS


def test_the_first_opening_after_it_has_closed_is_short_again(sched: Sched) -> None:
    for _ in range(3):
        open_breaker(sched, sched.worker)
        wait(sched)
        probe(sched)
    sched.call("close_breaker", "mailer", sched.worker)

    assert open_breaker(sched) - sched.now <= 5.5 * SECOND


def test_closing_it_wakes_the_workers(sched: Sched, another: Sched) -> None:
    open_breaker(sched)
    ears = Ears(another, sched)

    sched.call("close_breaker", "mailer")

    assert ears.heard() == 1


def test_other_systems_are_not_affected(sched: Sched) -> None:
    fill(sched, "default")
    open_breaker(sched)

    assert {task.queue for task in sched.claim()} == {"default"}
    wait(sched)
    fill(sched, "default")

    claimed = sched.claim()
    assert len(claimed) == 11
    assert Counter(task.is_probe for task in claimed) == {False: 10, True: 1}


def test_each_open_system_is_probed(sched: Sched) -> None:
    fill(sched, "default")
    open_breaker(sched)
    sched.call("open_breaker", "default")
    sched.clock(MINUTE)

    claimed = sched.claim()

    assert [task.is_probe for task in claimed] == [True, True]
    assert len({task.queue for task in claimed} & {"default"}) == 1


def test_a_paused_queue_is_not_probed(sched: Sched) -> None:
    open_breaker(sched)
    sched.call("pause_queue", "mail")
    sched.call("pause_queue", "bulk")
    assert sched.call("next_due_in") is None
    wait(sched)
    assert sched.claim() == []

    sched.call("resume_queue", "bulk")

    assert probe(sched).queue == "bulk"


def test_only_the_queues_of_the_worker_are_probed_in_its_order(sched: Sched) -> None:
    open_breaker(sched)
    wait(sched)

    assert sched.claim(queues=["default"]) == []
    assert state(sched).probe_by is None
    (task,) = sched.claim(queues=["mail", "bulk"])
    assert (task.queue, task.is_probe) == ("mail", True)


def test_a_probe_respects_what_may_be_in_flight(sched: Sched) -> None:
    sched.call("define_queue", "mail", "mailer", 1)
    sched.call("define_queue", "bulk", "mailer", 1)
    assert len(sched.claim()) == 2
    open_breaker(sched)
    wait(sched)

    assert sched.claim() == []
    assert state(sched).probe_by is None

    sched.call("define_queue", "mail", "mailer", 2)
    assert probe(sched).queue == "mail"


def test_a_probe_respects_the_rate(sched: Sched) -> None:
    for queue in ("mail", "bulk"):
        sched.call("define_queue", queue, "mailer", rate_per_second=0.01)
    assert len(sched.claim()) == 2
    open_breaker(sched)
    wait(sched)

    assert sched.claim() == []
    sched.clock(100 * SECOND)
    probe(sched)


def test_a_system_without_due_tasks_is_probed_when_there_is_one(sched: Sched) -> None:
    sched.claim()
    open_breaker(sched)
    wait(sched)
    assert sched.claim() == []
    assert sched.call("next_due_in") is None

    fill(sched, "mail", 1)

    probe(sched)


def test_a_probe_that_hangs_passes_its_deadline_like_any_task(sched: Sched) -> None:
    open_breaker(sched)
    wait(sched)
    task = probe(sched)
    assert task.hold_seconds == 60
    sched.clock(MINUTE)

    assert sched.call("expire_deadlines") == 1

    assert sched.status(task.id) == "PENDING"
    assert sched.task(task.id).lost_count == 1


def test_a_lock_on_the_row_blocks_neither_workers_nor_claims(sched: Sched, another: Sched) -> None:
    sched.conn.execute("set lock_timeout = '1s'")
    fill(sched, "default")
    with another.transaction():
        another.conn.execute("select from pgsched.external_systems for update")
        assert open_breaker(sched, sched.worker) is None
        assert len(sched.claim(5)) == 5

    assert open_breaker(sched, sched.worker) > sched.now
    wait(sched)
    with another.transaction():
        another.conn.execute("select from pgsched.external_systems for update")
        assert {task.is_probe for task in sched.claim()} == {False}
        assert sched.claim() == []  # and no probe

    probe(sched)


def test_closing_a_locked_one_is_given_up_after_a_while(sched: Sched, another: Sched) -> None:
    waits = "select proconfig from pg_proc where proname = 'close_breaker'"
    assert "lock_timeout=5s" in sched.value(waits)
    open_breaker(sched)
    sched.conn.execute("alter function pgsched.close_breaker set lock_timeout = '50ms'")
    try:
        with another.transaction():
            another.conn.execute("select from pgsched.external_systems for update")
            with pytest.raises(psycopg.Error, match="locked by another session") as refused:
                sched.call("close_breaker", "mailer")
    finally:
        sched.conn.execute("alter function pgsched.close_breaker set lock_timeout = '5s'")

    assert refused.value.sqlstate == "PS409"


def test_the_reason_is_kept_and_bounded(sched: Sched) -> None:
    open_breaker(sched, None, "x" * 5000)
    assert len(state(sched).open_reason) == 2048
    sched.call("close_breaker", "mailer")

    sched.call("open_breaker", "mailer")

    assert state(sched).open_reason.startswith("opened by ")


@pytest.mark.parametrize("call", ["open_breaker", "close_breaker"])
def test_an_unknown_system_is_not_found(sched: Sched, call: str) -> None:
    with pytest.raises(psycopg.Error, match="'nowhere' does not exist") as refused:
        sched.call(call, "nowhere")

    assert refused.value.sqlstate == "PS404"


def test_the_workers_are_told_which_targets_are_open(sched: Sched) -> None:
    open_breaker(sched)

    rows = sched.rows("select queue, is_open from pgsched.dispatch_targets()")

    assert dict(rows) == {"default": False, "mail": True, "bulk": True}


def test_changing_a_system_keeps_its_breaker(sched: Sched) -> None:
    until = open_breaker(sched)

    sched.call("define_external_system", "mailer", request_timeout=SECOND)

    assert state(sched).open_until == until


def test_only_an_open_one_can_be_probed(sched: Sched) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="external_systems_are_probed"):
        sched.conn.execute("update pgsched.external_systems set probe_until = pgsched.now()")


def stats(sched: Sched, queue: str = "mail") -> Any:
    (row,) = sched.rows("select * from pgsched.queue_stats where queue = %s", queue)
    return row


def test_the_view_of_the_queues_tells_how_the_breaker_is(sched: Sched) -> None:
    assert (stats(sched).breaker, stats(sched).open_until) == ("closed", None)
    until = open_breaker(sched)
    assert (stats(sched).breaker, stats(sched).open_until) == ("open", until)
    assert (stats(sched).open_reason, stats(sched, "default").breaker) == ("503", "closed")
    wait(sched)
    assert stats(sched).breaker == "open"
    task = probe(sched)
    assert [stats(sched, queue).breaker for queue in ("mail", "bulk")] == ["probing", "probing"]
    sched.clock(MINUTE)
    assert stats(sched).breaker == "open"
    assert stats(sched, task.queue).in_flight_count == 1
    sched.call("close_breaker", "mailer")
    assert (stats(sched).breaker, stats(sched).is_ramping) == ("closed", True)
    sched.clock(10 * SECOND)
    assert stats(sched).is_ramping is False


def test_the_view_of_the_queues_tells_their_limits(sched: Sched) -> None:
    sched.call("define_queue", "mail", "mailer", 7, 2.5)
    taken, *_ = sched.claim(queues=["mail"])
    sched.settle(taken)

    row = stats(sched)

    assert (row.max_in_flight, row.rate_per_second, row.is_ramping) == (7, 2.5, False)
    assert (row.due_count, row.dispatched_count, row.in_flight_count) == (9, 1, 1)
