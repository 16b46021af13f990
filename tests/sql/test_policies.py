"""What becomes of the instants of a schedule: overlap, misfires, jitter, begin, end, the ledger."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.sql.ledger import (
    MICROSECOND,
    account_of,
    backfill,
    bring_to,
    catch_up,
    changes,
    cron,
    every,
    ledger,
    outcomes,
    row_of,
    status_of,
    tick_at,
    times,
)
from tests.sql.sched import HOUR, MINUTE, SECOND, START, Background, Sched

UNFINISHED = ["PENDING", "SCHEDULED", "DISPATCHED", "RUNNING"]
DAY = timedelta(days=1)


def minute(n: int) -> datetime:
    """The n-th instant of a schedule that was made at START and runs every minute."""
    return START + n * MINUTE


def tasks_by_time(sched: Sched) -> dict[datetime, Any]:
    return {task.scheduled_time: task for task in sched.tasks()}


# Overlap: skip


@pytest.mark.parametrize("status", UNFINISHED)
def test_skip_lets_no_run_begin_while_the_latest_is_unfinished(sched: Sched, status: str) -> None:
    schedule_id = cron(sched)
    tick_at(sched, minute(1))
    bring_to(sched, status)

    tick_at(sched, minute(2))

    run, skipped = ledger(sched)
    assert (run.outcome, skipped.outcome) == ("RUN", "SKIPPED")
    assert (skipped.scheduled_time, skipped.task_id) == (minute(2), None)
    assert skipped.reason == "overlap_policy skip: the run of 2026-03-02 12:01:00 UTC had not ended"
    assert len(sched.tasks()) == 1
    row = row_of(sched, schedule_id)
    assert (row.next_run_at, row.last_run_at, row.run_count) == (minute(3), minute(1), 1)


def finish_by_report(status: str) -> Callable[[Sched, Any], None]:
    def finish(sched: Sched, claimed: Any) -> None:
        sched.settle(claimed)
        sched.report(claimed.id, status, claimed.attempt)

    return finish


def finish_by_deadline(sched: Sched, claimed: Any) -> None:
    sched.settle(claimed)
    query = "update pgsched.scheduled_tasks set deadline_at = pgsched.now() where id = %s"
    sched.conn.execute(query, [claimed.id])
    sched.call("expire_deadlines")


ENDS: dict[str, Callable[[Sched, Any], object]] = {
    "SUCCESS": finish_by_report("SUCCESS"),
    "FAILED": finish_by_report("FAILED"),
    "CANCELLED": finish_by_report("CANCELLED"),
    "refused": lambda sched, claimed: sched.settle(claimed, "REFUSED"),
    "deadline": finish_by_deadline,
    "by the operator": lambda sched, claimed: sched.call("cancel_task", claimed.id),
}


@pytest.mark.parametrize("end", ENDS)
def test_after_the_run_has_ended_however_the_next_instant_runs(sched: Sched, end: str) -> None:
    sched.define(max_retries=0)
    cron(sched)
    tick_at(sched, minute(1))
    ENDS[end](sched, sched.claim_one())

    tick_at(sched, minute(2))

    assert outcomes(sched) == ["RUN", "RUN"]


def test_a_run_that_is_to_be_retried_has_not_ended(sched: Sched) -> None:
    sched.define(max_retries=1)
    cron(sched)
    tick_at(sched, minute(1))
    sched.run(status="FAILED")

    tick_at(sched, minute(2))

    assert outcomes(sched) == ["RUN", "SKIPPED"]


def test_it_is_the_latest_run_that_counts_and_not_the_skipped_ones(sched: Sched) -> None:
    cron(sched)
    for n in (1, 2, 3):
        tick_at(sched, minute(n))

    assert outcomes(sched) == ["RUN", "SKIPPED", "SKIPPED"]
    assert {fire.reason for fire in ledger(sched)[1:]} == {
        "overlap_policy skip: the run of 2026-03-02 12:01:00 UTC had not ended"
    }


def test_of_several_instants_due_at_once_skip_runs_the_first(sched: Sched) -> None:
    cron(sched, misfire_grace=10 * MINUTE)

    tick_at(sched, minute(3))

    assert outcomes(sched) == ["RUN", "SKIPPED", "SKIPPED"]
    assert ledger(sched)[2].reason.endswith("the run of 2026-03-02 12:01:00 UTC had not ended")
    assert [task.scheduled_time for task in sched.tasks()] == [minute(1)]


# Overlap: allow


@pytest.mark.parametrize("status", UNFINISHED)
def test_allow_runs_beside_whatever_is_unfinished(sched: Sched, status: str) -> None:
    cron(sched, overlap_policy="allow")
    tick_at(sched, minute(1))
    bring_to(sched, status)

    tick_at(sched, minute(2))

    assert outcomes(sched) == ["RUN", "RUN"]
    assert len(sched.tasks("finished_at is null")) == 2


def test_allow_runs_all_that_are_due_at_once(sched: Sched) -> None:
    cron(sched, overlap_policy="allow", misfire_grace=10 * MINUTE)

    tick_at(sched, minute(3))

    assert times(sched) == [minute(1), minute(2), minute(3)]
    assert len(sched.claim()) == 3


# Overlap: queue_one


@pytest.mark.parametrize("status", UNFINISHED)
def test_queue_one_lets_one_wait_and_skips_the_rest(sched: Sched, status: str) -> None:
    schedule_id = cron(sched, overlap_policy="queue_one")
    tick_at(sched, minute(1))
    bring_to(sched, status)

    for n in (2, 3, 4):
        tick_at(sched, minute(n))

    assert outcomes(sched) == ["RUN", "RUN", "SKIPPED", "SKIPPED"]
    assert {fire.reason for fire in ledger(sched)[2:]} == {
        "overlap_policy queue_one: the run of 2026-03-02 12:02:00 UTC had not ended"
    }
    waiting = tasks_by_time(sched)[minute(2)]
    assert (waiting.status, waiting.pending_dependencies) == ("PENDING", 1)
    assert [task.scheduled_time for task in sched.claim()] in ([], [minute(1)])
    row = row_of(sched, schedule_id)
    assert (row.last_run_at, row.run_count) == (minute(2), 2)


@pytest.mark.parametrize("end", ENDS)
def test_the_waiting_run_begins_however_the_other_ends(sched: Sched, end: str) -> None:
    sched.define(max_retries=0)
    cron(sched, overlap_policy="queue_one")
    tick_at(sched, minute(1))
    claimed = sched.claim_one()
    tick_at(sched, minute(2) + SECOND)
    assert sched.claim() == []

    ENDS[end](sched, claimed)

    assert sched.claim_one().scheduled_time == minute(2)


def test_the_waiting_run_is_due_when_the_other_has_ended_and_not_before(sched: Sched) -> None:
    cron(sched, overlap_policy="queue_one")
    tick_at(sched, minute(1))
    claimed = sched.claim_one()
    tick_at(sched, minute(2))
    sched.clock(90 * SECOND)

    sched.settle(claimed)
    sched.report(claimed.id, "SUCCESS", claimed.attempt)

    assert tasks_by_time(sched)[minute(2)].execute_after == sched.now


def test_the_waiting_run_waits_while_the_other_is_retried(sched: Sched) -> None:
    sched.define(max_retries=1, retry_delay=10 * MINUTE)
    cron(sched, overlap_policy="queue_one")
    tick_at(sched, minute(1))
    claimed = sched.claim_one()
    tick_at(sched, minute(2))

    sched.settle(claimed, "RETRY")
    assert sched.claim() == []

    sched.clock(HOUR)
    assert sched.run() == claimed.id
    assert sched.claim_one().scheduled_time == minute(2)


def test_when_the_waiting_run_has_begun_the_next_one_waits_for_it(sched: Sched) -> None:
    cron(sched, overlap_policy="queue_one")
    tick_at(sched, minute(1))
    claimed = sched.claim_one()
    tick_at(sched, minute(2))
    ENDS["SUCCESS"](sched, claimed)
    second = sched.claim_one()

    tick_at(sched, minute(3))

    assert outcomes(sched) == ["RUN"] * 3
    assert sched.claim() == []
    ENDS["SUCCESS"](sched, second)
    assert sched.claim_one().scheduled_time == minute(3)


def test_a_run_that_waits_for_nobody_yet_can_be_waited_for(sched: Sched) -> None:
    """It is free to run, and nobody has claimed it: one more may queue behind it."""
    cron(sched, overlap_policy="queue_one")
    tick_at(sched, minute(1))
    claimed = sched.claim_one()
    tick_at(sched, minute(2))
    ENDS["SUCCESS"](sched, claimed)

    tick_at(sched, minute(3))

    assert outcomes(sched) == ["RUN"] * 3
    assert [task.scheduled_time for task in sched.claim()] == [minute(2)]


def test_of_several_instants_due_at_once_queue_one_runs_two_in_their_order(sched: Sched) -> None:
    cron(sched, overlap_policy="queue_one", misfire_grace=10 * MINUTE)

    tick_at(sched, minute(4))

    assert outcomes(sched) == ["RUN", "RUN", "SKIPPED", "SKIPPED"]
    first = sched.claim_one()
    assert first.scheduled_time == minute(1)
    ENDS["SUCCESS"](sched, first)
    assert sched.claim_one().scheduled_time == minute(2)


def test_of_several_instants_due_at_once_one_waits_for_the_run_under_way(sched: Sched) -> None:
    cron(sched, overlap_policy="queue_one", misfire_grace=10 * MINUTE)
    tick_at(sched, minute(1))
    sched.claim_one()

    tick_at(sched, minute(4))

    assert outcomes(sched) == ["RUN", "RUN", "SKIPPED", "SKIPPED"]
    assert sched.claim() == []


def test_with_nothing_under_way_queue_one_just_runs(sched: Sched) -> None:
    cron(sched, overlap_policy="queue_one")
    for n in (1, 2, 3):
        tick_at(sched, minute(n))
        sched.run()

    assert outcomes(sched) == ["RUN"] * 3
    assert sched.value("select count(*) from pgsched.task_dependencies") == 0


def test_a_waiting_run_that_is_cancelled_makes_room_for_the_next(sched: Sched) -> None:
    """Which waits in its place: the first one still runs, and the policy allows one at a time."""
    cron(sched, overlap_policy="queue_one")
    tick_at(sched, minute(1))
    running = sched.claim_one()
    tick_at(sched, minute(2))
    sched.call("cancel_task", tasks_by_time(sched)[minute(2)].id)

    tick_at(sched, minute(3))

    assert outcomes(sched) == ["RUN"] * 3
    assert sched.claim() == []
    ENDS["SUCCESS"](sched, running)
    assert sched.claim_one().scheduled_time == minute(3)


def test_the_end_of_the_other_does_not_wake_a_waiting_run_that_was_cancelled(sched: Sched) -> None:
    cron(sched, overlap_policy="queue_one")
    tick_at(sched, minute(1))
    running = sched.claim_one()
    tick_at(sched, minute(2))
    sched.call("cancel_task", tasks_by_time(sched)[minute(2)].id)

    ENDS["SUCCESS"](sched, running)

    assert sched.claim() == []
    assert sched.value("select count(*) from pgsched.task_dependencies") == 0


def test_a_run_that_ends_while_the_tick_is_under_way_is_found_ended(
    sched: Sched, another: Sched
) -> None:
    """Neither sees the other: the edge points at a task that is gone."""
    cron(sched, overlap_policy="queue_one")
    tick_at(sched, minute(1))
    claimed = sched.claim_one()
    sched.settle(claimed)
    sched.clock(minute(2))
    another.conn.execute("set lock_timeout = '1s'")

    with sched.conn.transaction():
        sched.tick_all()
        another.report(claimed.id, "SUCCESS", claimed.attempt)

    assert outcomes(sched) == ["RUN", "RUN"]
    assert sched.claim() == []  # nobody has told it
    assert sched.call("resolve_dependencies") == 1
    assert sched.claim_one().scheduled_time == minute(2)
    assert sched.call("resolve_dependencies") == 0


def test_a_waiting_run_that_a_stranger_has_locked_is_found_later(
    sched: Sched, another: Sched
) -> None:
    cron(sched, overlap_policy="queue_one")
    tick_at(sched, minute(1))
    claimed = sched.claim_one()
    tick_at(sched, minute(2))
    sched.conn.execute("set lock_timeout = '1s'")

    with another.transaction():
        query = "select from pgsched.scheduled_tasks where pending_dependencies > 0 for update"
        another.conn.execute(query)
        ENDS["SUCCESS"](sched, claimed)

    assert sched.claim() == []
    assert sched.call("resolve_dependencies") == 1
    assert sched.claim_one().scheduled_time == minute(2)


def test_resolving_leaves_alone_what_waits_for_an_unfinished_task(sched: Sched) -> None:
    cron(sched, overlap_policy="queue_one")
    tick_at(sched, minute(1))
    sched.claim_one()
    tick_at(sched, minute(2))

    assert sched.call("resolve_dependencies") == 0
    assert sched.claim() == []


# What stands outside the overlap policy


@pytest.mark.parametrize("policy", ["skip", "queue_one"])
def test_a_trigger_neither_skips_nor_is_skipped(sched: Sched, policy: str) -> None:
    cron(sched, overlap_policy=policy)
    triggered = sched.call("trigger_schedule", "job")
    tick_at(sched, minute(1))
    run = tasks_by_time(sched)[minute(1)]

    again = sched.call("trigger_schedule", "job")

    assert outcomes(sched) == ["RUN"]
    assert {task.id for task in sched.claim()} == {triggered, str(run.id), again}


@pytest.mark.parametrize("policy", ["skip", "queue_one"])
def test_a_backfill_neither_skips_nor_is_skipped(sched: Sched, policy: str) -> None:
    cron(sched, overlap_policy=policy)
    backfill(sched, "job", START - 2 * MINUTE, START)
    assert len(sched.claim()) == 3

    tick_at(sched, minute(1))
    assert outcomes(sched) == ["RUN"] * 4
    sched.claim_one()

    backfill(sched, "job", START - HOUR, START - HOUR)
    assert len(sched.claim()) == 1


@pytest.mark.parametrize("policy", ["skip", "queue_one"])
def test_a_run_that_an_operator_retries_holds_up_no_later_one(sched: Sched, policy: str) -> None:
    sched.define(max_retries=0)
    cron(sched, overlap_policy=policy)
    tick_at(sched, minute(1))
    failed = sched.run(status="FAILED")
    sched.call("retry_task", failed)
    sched.claim_one()

    tick_at(sched, minute(2))

    assert outcomes(sched) == ["RUN", "RUN"]
    assert sched.claim_one().scheduled_time == minute(2)


def test_the_retry_of_an_older_run_leaves_the_latest_the_one_that_counts(sched: Sched) -> None:
    sched.define(max_retries=0)
    cron(sched)
    tick_at(sched, minute(1))
    failed = sched.run(status="FAILED")
    tick_at(sched, minute(2))
    sched.call("retry_task", failed)
    tick_at(sched, minute(3))

    assert outcomes(sched) == ["RUN", "RUN", "SKIPPED"]


def test_a_retry_waits_for_nobody(sched: Sched) -> None:
    sched.define(max_retries=0)
    cron(sched, overlap_policy="queue_one")
    tick_at(sched, minute(1))
    failed = sched.run(status="FAILED")
    tick_at(sched, minute(2))
    sched.claim_one()

    sched.call("retry_task", failed)

    assert sched.claim_one().id == failed


# Misfires


@pytest.mark.parametrize("policy", ["latest", "all", "none"])
def test_exactly_the_grace_late_is_not_late(sched: Sched, policy: str) -> None:
    cron(sched, "0 * * * *", overlap_policy="allow", misfire_policy=policy, misfire_grace=MINUTE)

    tick_at(sched, START + HOUR + MINUTE)

    assert outcomes(sched) == ["RUN"]


@pytest.mark.parametrize(
    ("policy", "expected"), [("latest", "RUN"), ("all", "RUN"), ("none", "MISSED")]
)
def test_a_microsecond_more_than_the_grace_is_late(
    sched: Sched, policy: str, expected: str
) -> None:
    cron(sched, "0 * * * *", misfire_policy=policy, misfire_grace=MINUTE)

    tick_at(sched, START + HOUR + MINUTE + MICROSECOND)

    assert outcomes(sched) == [expected]


LATE = [
    ("latest", ["MISSED", "MISSED", "MISSED", "RUN"]),
    ("all", ["RUN", "RUN", "RUN", "RUN"]),
    ("none", ["MISSED", "MISSED", "MISSED", "MISSED"]),
]


@pytest.mark.parametrize(("policy", "expected"), LATE)
def test_after_an_outage_the_policy_says_which_of_the_late_ones_run(
    sched: Sched, policy: str, expected: list[str]
) -> None:
    schedule_id = cron(sched, "0 * * * *", overlap_policy="allow", misfire_policy=policy)

    tick_at(sched, START + 4 * HOUR + 30 * MINUTE)

    assert outcomes(sched) == expected
    assert [fire.scheduled_time for fire in ledger(sched)] == [
        START + n * HOUR for n in (1, 2, 3, 4)
    ]
    for fire in ledger(sched):
        if fire.outcome == "MISSED":
            assert fire.reason == f"misfire_policy {policy}: no worker was there within 60 s"
    assert row_of(sched, schedule_id).next_run_at == START + 5 * HOUR


@pytest.mark.parametrize("policy", ["latest", "none"])
def test_what_is_within_the_grace_runs_and_then_nothing_late_does(
    sched: Sched, policy: str
) -> None:
    cron(sched, overlap_policy="allow", misfire_policy=policy, misfire_grace=2 * MINUTE)

    tick_at(sched, minute(10))

    assert times(sched) == [minute(8), minute(9), minute(10)]
    assert times(sched, "MISSED") == [minute(n) for n in range(1, 8)]


def test_the_late_ones_that_run_come_under_the_overlap_policy_too(sched: Sched) -> None:
    cron(sched, "0 * * * *", misfire_policy="all")

    tick_at(sched, START + 3 * HOUR + 30 * MINUTE)

    assert outcomes(sched) == ["RUN", "SKIPPED", "SKIPPED"]


@pytest.mark.parametrize(("count", "missed"), [(99, 0), (100, 0), (101, 1), (150, 50)])
def test_all_means_the_latest_hundred(sched: Sched, count: int, missed: int) -> None:
    cron(sched, overlap_policy="allow", misfire_policy="all")

    tick_at(sched, minute(count))

    assert times(sched, "MISSED") == [minute(n) for n in range(1, missed + 1)]
    assert times(sched) == [minute(n) for n in range(missed + 1, count + 1)]
    assert {fire.reason for fire in ledger(sched) if fire.outcome == "MISSED"} <= {
        "more than 100 instants were due at once, and the latest 100 run"
    }


@pytest.mark.parametrize("policy", ["latest", "all", "none"])
def test_no_more_than_a_hundred_run_at_once_however_long_the_grace(
    sched: Sched, policy: str
) -> None:
    cron(sched, overlap_policy="allow", misfire_policy=policy, misfire_grace=DAY)

    tick_at(sched, minute(120))

    assert times(sched) == [minute(n) for n in range(21, 121)]


@pytest.mark.parametrize(("policy", "runs"), [("latest", 1), ("all", 100), ("none", 0)])
@pytest.mark.parametrize("count", [1999, 2000, 2001, 4321])
def test_a_long_outage_is_accounted_for_to_the_instant(
    sched: Sched, policy: str, runs: int, count: int
) -> None:
    """Also where one tick does not reach from its beginning to its end."""
    schedule_id = cron(sched, "*/5 * * * *", overlap_policy="allow", misfire_policy=policy)
    sched.clock(START + count * 5 * MINUTE + 2 * MINUTE)

    catch_up(sched)

    there, accounted = account_of(sched, schedule_id, START, sched.now)
    assert there == accounted
    assert len(there) == count
    assert times(sched) == there[count - runs :]
    assert row_of(sched, schedule_id).run_count == runs
    assert len(ledger(sched)) <= 202  # a hundred rows, another hundred, and what is folded


# The ledger folds


@pytest.mark.parametrize("count", [100, 101, 1000])
def test_more_than_a_hundred_missed_in_a_tick_are_one_row(sched: Sched, count: int) -> None:
    schedule_id = cron(sched, misfire_policy="none")

    tick_at(sched, minute(count + 1) + SECOND)

    missed = [fire for fire in ledger(sched) if fire.outcome == "MISSED"]
    if count == 100:
        assert [fire.folded_count for fire in missed] == [1] * 100
    else:
        (fold,) = missed
        assert (fold.scheduled_time, fold.folded_until) == (minute(1), minute(count))
        assert (fold.folded_count, fold.task_id) == (count, None)
    there, accounted = account_of(sched, schedule_id, START, sched.now)
    assert there == accounted


def test_a_schedule_that_is_skipped_for_long_has_a_hundred_rows_and_one_for_the_rest(
    sched: Sched,
) -> None:
    schedule_id = every(sched, SECOND)
    tick_at(sched, START + SECOND)
    for n in range(2, 302):
        tick_at(sched, START + n * SECOND)

    run, *skipped = ledger(sched)
    assert run.outcome == "RUN"
    assert {fire.outcome for fire in skipped} == {"SKIPPED"}
    *single, fold = skipped
    assert len(single) == 100
    assert {fire.folded_count for fire in single} == {1}
    assert fold.folded_until == START + 301 * SECOND
    assert len(single) + fold.folded_count == 300
    assert row_of(sched, schedule_id).idle_count == 300
    there, accounted = account_of(sched, schedule_id, START, sched.now)
    assert there == accounted


def test_the_rest_is_one_row_also_when_each_tick_finds_several_instants(sched: Sched) -> None:
    schedule_id = every(sched, SECOND)
    for n in range(1, 302, 5):
        tick_at(sched, START + n * SECOND)

    there, accounted = account_of(sched, schedule_id, START, sched.now)
    assert there == accounted
    assert len(ledger(sched)) <= 102


def test_a_run_begins_a_new_count_of_what_did_not_run(sched: Sched) -> None:
    schedule_id = every(sched, SECOND)
    for n in range(1, 111):
        tick_at(sched, START + n * SECOND)
    sched.run()
    for n in range(111, 116):
        tick_at(sched, START + n * SECOND)

    assert row_of(sched, schedule_id).idle_count == 4
    assert [fire.folded_count for fire in ledger(sched)[-5:]] == [1] * 5
    there, accounted = account_of(sched, schedule_id, START, sched.now)
    assert there == accounted


def test_what_did_not_run_for_another_reason_has_a_row_of_its_own(sched: Sched) -> None:
    schedule_id = every(sched, SECOND)
    for n in range(1, 106):
        tick_at(sched, START + n * SECOND)
    sched.conn.execute("update pgsched.task_definitions set is_active = false")
    tick_at(sched, START + 106 * SECOND)

    *_, fold, other = ledger(sched)
    assert fold.folded_until == START + 105 * SECOND
    assert (other.scheduled_time, other.folded_count) == (START + 106 * SECOND, 1)
    assert other.reason == "its definition is not active"
    there, accounted = account_of(sched, schedule_id, START, sched.now)
    assert there == accounted


def test_a_schedule_can_fire_after_all_that_it_skipped_was_backfilled(sched: Sched) -> None:
    schedule_id = every(sched, SECOND)
    for n in range(1, 121):
        tick_at(sched, START + n * SECOND)
    backfill(sched, "job", START + SECOND, sched.now)
    assert outcomes(sched) == ["RUN"] * 120

    sched.conn.execute("update pgsched.schedules set misfire_grace = '5 seconds'")
    sched.tick_all()

    assert row_of(sched, schedule_id).next_run_at == START + 121 * SECOND
    assert outcomes(sched) == ["RUN"] * 120


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_each_instant_is_accounted_for_once(sched: Sched, seed: int) -> None:
    """Outages, runs that end now or later, and all policies, at random."""
    dice = random.Random(seed)
    schedule_id = every(
        sched,
        dice.choice([SECOND, 7 * SECOND, MINUTE]),
        overlap_policy=dice.choice(["skip", "queue_one", "allow"]),
        misfire_policy=dice.choice(["latest", "all", "none"]),
        misfire_grace=dice.choice([SECOND, MINUTE, HOUR]),
        jitter=dice.choice([0 * SECOND, MINUTE]),
    )
    for _ in range(60):
        sched.clock(dice.choice([SECOND, SECOND, 10 * SECOND, MINUTE, HOUR]))
        catch_up(sched)
        if dice.random() < 0.2:
            for claimed in sched.claim(5):
                sched.settle(claimed)
                sched.report(claimed.id, "SUCCESS", claimed.attempt)

    row = row_of(sched, schedule_id)
    there, accounted = account_of(sched, schedule_id, START, row.counts_from)
    assert there == accounted
    assert len(there) == sum(fire.folded_count for fire in ledger(sched))
    runs = [fire for fire in ledger(sched) if fire.outcome == "RUN"]
    assert row.run_count == len(runs)
    assert {fire.task_id for fire in runs} == {task.id for task in sched.tasks()}
    assert row.last_run_at == runs[-1].scheduled_time
    idle = [fire for fire in ledger(sched) if fire.scheduled_time > row.last_run_at]
    assert row.idle_count == sum(fire.folded_count for fire in idle)


# Jitter


def jitter_of(sched: Sched, schedule_id: object, jitter: timedelta) -> timedelta:
    found: timedelta = sched.value(
        "select pgsched.jitter_of(%s::uuid, %s)", str(schedule_id), jitter
    )
    return found


def test_jitter_is_from_zero_up_to_what_was_given_and_spread_evenly(sched: Sched) -> None:
    delays = [jitter_of(sched, uuid4(), HOUR) for _ in range(400)]

    assert all(timedelta(0) <= delay < HOUR for delay in delays)
    assert len(set(delays)) > 390
    for quarter in range(4):
        low = quarter * 15 * MINUTE
        assert 50 < sum(low <= delay < low + 15 * MINUTE for delay in delays) < 150


def test_jitter_is_the_same_each_time_for_the_same_schedule(sched: Sched) -> None:
    schedule_id = uuid4()

    assert len({jitter_of(sched, schedule_id, DAY) for _ in range(5)}) == 1


def test_no_jitter_is_no_delay(sched: Sched) -> None:
    assert jitter_of(sched, uuid4(), timedelta(0)) == timedelta(0)


def test_a_schedule_fires_its_own_delay_after_each_instant(sched: Sched) -> None:
    schedule_id = cron(sched, "0 * * * *", jitter=30 * MINUTE)
    delay = jitter_of(sched, schedule_id, 30 * MINUTE)
    assert delay > timedelta(0)

    for n in (1, 2, 3):
        nominal = START + n * HOUR
        assert row_of(sched, schedule_id).next_run_at == nominal + delay

        tick_at(sched, nominal + delay - MICROSECOND)
        assert len(ledger(sched)) == n - 1

        tick_at(sched, nominal + delay)
        sched.run()
        assert times(sched)[-1] == nominal


def test_the_task_of_a_delayed_instant_has_the_nominal_time(sched: Sched) -> None:
    schedule_id = cron(sched, "0 * * * *", jitter=DAY)
    delay = jitter_of(sched, schedule_id, DAY)

    tick_at(sched, START + HOUR + delay)

    (task,) = sched.tasks()
    assert (task.scheduled_time, task.execute_after) == (START + HOUR, sched.now)


def test_jitter_is_not_lateness(sched: Sched) -> None:
    schedule_id = cron(sched, "0 * * * *", jitter=DAY, misfire_grace=SECOND, misfire_policy="none")
    delay = jitter_of(sched, schedule_id, DAY)
    assert delay > SECOND

    tick_at(sched, START + HOUR + delay + SECOND)

    assert outcomes(sched) == ["RUN"]


def test_a_changed_jitter_loses_no_instant_and_doubles_none(sched: Sched) -> None:
    schedule_id = cron(sched, "0 * * * *", overlap_policy="allow")
    for n, jitter in enumerate([HOUR, timedelta(0), 3 * HOUR, 30 * MINUTE] * 3):
        tick_at(sched, START + n * HOUR)
        sched.conn.execute("update pgsched.schedules set jitter = %s", [jitter])
        catch_up(sched)
    sched.conn.execute("update pgsched.schedules set jitter = '0'")
    catch_up(sched)

    there, accounted = account_of(sched, schedule_id, START, sched.now)
    assert there == accounted


# Begin and end


def test_nothing_runs_before_starts_at_and_an_instant_at_starts_at_does(sched: Sched) -> None:
    schedule_id = cron(sched, starts_at=minute(3))
    assert row_of(sched, schedule_id).next_run_at == minute(3)

    for n in range(1, 5):
        tick_at(sched, minute(n))

    assert [fire.scheduled_time for fire in ledger(sched)] == [minute(3), minute(4)]


def test_an_interval_counts_from_starts_at(sched: Sched) -> None:
    start = START + 90 * SECOND
    every(sched, MINUTE, starts_at=start)

    tick_at(sched, start - MICROSECOND)
    assert ledger(sched) == []
    for n in range(3):
        tick_at(sched, start + n * MINUTE)

    assert [fire.scheduled_time for fire in ledger(sched)] == [start + n * MINUTE for n in range(3)]


def test_an_interval_without_starts_at_counts_from_when_it_was_made(sched: Sched) -> None:
    sched.clock(START + 7 * SECOND)
    schedule_id = every(sched, HOUR)

    assert row_of(sched, schedule_id).next_run_at == START + 7 * SECOND + HOUR


def test_a_start_in_the_past_gives_the_interval_its_phase_and_fires_nothing_past(
    sched: Sched,
) -> None:
    schedule_id = every(sched, HOUR, starts_at=START - 10 * HOUR - 15 * MINUTE)

    assert row_of(sched, schedule_id).next_run_at == START + 45 * MINUTE
    assert ledger(sched) == []


@pytest.mark.parametrize("over", [timedelta(0), MICROSECOND])
def test_an_instant_at_ends_at_is_the_last(sched: Sched, over: timedelta) -> None:
    schedule_id = cron(sched, overlap_policy="allow", ends_at=minute(2) + over)
    tick_at(sched, minute(1))
    assert row_of(sched, schedule_id).is_active
    tick_at(sched, minute(2))

    row = row_of(sched, schedule_id)
    assert times(sched) == [minute(1), minute(2)]
    assert (row.is_active, row.ended_at, row.next_run_at) == (False, minute(2), None)
    assert status_of(sched, schedule_id).state == "ENDED"
    tick_at(sched, minute(5))
    assert len(ledger(sched)) == 2


def test_an_instant_after_ends_at_does_not_count(sched: Sched) -> None:
    schedule_id = cron(sched, overlap_policy="allow", ends_at=minute(2) - MICROSECOND)

    tick_at(sched, minute(1))

    assert status_of(sched, schedule_id).state == "ENDED"
    assert times(sched) == [minute(1)]


def test_ends_at_is_about_instants_and_not_about_their_delay(sched: Sched) -> None:
    schedule_id = cron(sched, "0 * * * *", jitter=DAY, ends_at=START + HOUR)
    delay = jitter_of(sched, schedule_id, DAY)

    tick_at(sched, START + HOUR + delay)

    assert times(sched) == [START + HOUR]
    assert status_of(sched, schedule_id).state == "ENDED"


def test_a_schedule_that_has_no_instant_before_its_end_ends_at_once(sched: Sched) -> None:
    schedule_id = cron(sched, "0 0 1 1 *", ends_at=START + DAY)

    assert status_of(sched, schedule_id).state == "ENDED"
    assert (ledger(sched), row_of(sched, schedule_id).run_count) == ([], 0)


def test_an_outage_over_the_end_leaves_what_was_before_it(sched: Sched) -> None:
    schedule_id = cron(sched, misfire_policy="latest", ends_at=minute(30))

    tick_at(sched, START + DAY)

    assert times(sched) == [minute(30)]
    assert len(times(sched, "MISSED")) == 29
    assert status_of(sched, schedule_id).state == "ENDED"


def test_max_runs_is_how_many_runs_it_makes(sched: Sched) -> None:
    schedule_id = cron(sched, overlap_policy="allow", max_runs=3)
    for n in range(1, 6):
        tick_at(sched, minute(n))

    row = row_of(sched, schedule_id)
    assert times(sched) == [minute(1), minute(2), minute(3)]
    assert (row.run_count, row.ended_at, row.next_run_at) == (3, minute(3), None)
    assert status_of(sched, schedule_id).state == "ENDED"


def test_what_did_not_run_does_not_count_for_max_runs(sched: Sched) -> None:
    schedule_id = cron(sched, max_runs=2, misfire_grace=SECOND)
    tick_at(sched, minute(1))
    tick_at(sched, minute(2))  # skipped
    tick_at(sched, minute(3))  # skipped
    sched.call("trigger_schedule", "job")
    assert row_of(sched, schedule_id).run_count == 1
    for claimed in sched.claim():
        ENDS["SUCCESS"](sched, claimed)

    tick_at(sched, minute(6) + 30 * SECOND)  # two missed, one late run

    assert outcomes(sched) == ["RUN", "SKIPPED", "SKIPPED", "MISSED", "MISSED", "RUN"]
    assert (row_of(sched, schedule_id).run_count, row_of(sched, schedule_id).is_active) == (
        2,
        False,
    )


@pytest.mark.parametrize(
    ("policy", "max_runs", "expected"),
    [
        ("allow", 2, ["RUN", "RUN"]),  # and nothing after the last
        ("skip", 1, ["RUN"]),
        ("skip", 2, ["RUN", "SKIPPED", "SKIPPED", "SKIPPED"]),
        ("queue_one", 2, ["RUN", "RUN"]),
        ("queue_one", 3, ["RUN", "RUN", "SKIPPED", "SKIPPED"]),
        ("allow", 4, ["RUN", "RUN", "RUN", "RUN"]),
        ("allow", 5, ["RUN", "RUN", "RUN", "RUN"]),
    ],
)
def test_max_runs_among_several_instants_due_at_once(
    sched: Sched, policy: str, max_runs: int, expected: list[str]
) -> None:
    schedule_id = cron(sched, overlap_policy=policy, max_runs=max_runs, misfire_grace=HOUR)

    tick_at(sched, minute(4))

    assert outcomes(sched) == expected
    row = row_of(sched, schedule_id)
    assert row.is_active == (expected.count("RUN") < max_runs)
    assert row.run_count == expected.count("RUN") == len(sched.tasks())


def test_the_end_is_recorded_and_firing_is_not(sched: Sched) -> None:
    schedule_id = cron(sched, max_runs=2, overlap_policy="allow")
    for n in (1, 2):
        tick_at(sched, minute(n))

    created, ended = changes(sched, schedule_id)
    assert (created.change, ended.change, ended.at) == ("CREATED", "ENDED", minute(2))
    assert (ended.old_values, ended.new_values) == ({"is_active": True}, {"is_active": False})


@pytest.mark.parametrize(
    ("given", "column", "value"),
    [({"max_runs": 1}, "max_runs", 2), ({"ends_at": minute(1)}, "ends_at", minute(9))],
)
def test_a_schedule_that_has_ended_goes_on_when_its_end_is_moved(
    sched: Sched, given: dict[str, Any], column: str, value: object
) -> None:
    schedule_id = cron(sched, overlap_policy="allow", **given)
    tick_at(sched, minute(1))
    assert status_of(sched, schedule_id).state == "ENDED"
    sched.clock(minute(5))

    sched.conn.execute(f"update pgsched.schedules set {column} = %s".encode(), [value])
    sched.tick_all()

    row = row_of(sched, schedule_id)
    assert (row.is_active, row.ended_at, row.next_run_at) == (True, None, minute(6))
    tick_at(sched, minute(6))
    assert times(sched) == [minute(1), minute(6)]
    assert len(ledger(sched)) == 2  # what fell between was after its end


def test_a_schedule_that_has_made_all_its_runs_is_not_resumed(sched: Sched) -> None:
    schedule_id = cron(sched, overlap_policy="allow", max_runs=1)
    tick_at(sched, minute(1))
    with pytest.raises(psycopg.Error, match="has made all of its 1 runs"):
        sched.call("resume_schedule", "job")
    tick_at(sched, minute(2))

    assert times(sched) == [minute(1)]
    assert status_of(sched, schedule_id).state == "ENDED"


def test_a_new_time_revives_a_schedule_that_has_ended(sched: Sched) -> None:
    schedule_id = cron(sched, ends_at=minute(1))
    tick_at(sched, minute(1))

    cron(sched, "*/2 * * * *", ends_at=minute(9))

    row = row_of(sched, schedule_id)
    assert (row.is_active, row.next_run_at) == (True, minute(2))


# Two ticks at once


def test_two_ticks_of_a_backlog_account_for_it_once(sched: Sched, another: Sched) -> None:
    schedule_id = cron(sched, overlap_policy="allow", misfire_policy="all")
    sched.clock(minute(50))
    another.conn.execute("set lock_timeout = '5s'")

    with sched.conn.transaction():
        sched.tick_all()
        second = Background(another.conn, another.tick_all)
        second.result()
    another.tick_all()

    there, accounted = account_of(sched, schedule_id, START, sched.now)
    assert there == accounted
    assert len(sched.tasks()) == 50
