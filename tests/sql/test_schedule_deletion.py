"""delete_schedule(): what it cancels, what stays, and who may do what meanwhile."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.sql.ledger import (
    changes,
    cron,
    ledger,
    run_backfills,
    status_of,
    tick_at,
)
from tests.sql.sched import HOUR, MINUTE, SECOND, START, Background, Sched

NOBODY = "01980000-0000-7000-8000-000000000000"


# Delete


def test_a_deletion_cancels_what_waits_and_leaves_what_is_under_way(sched: Sched) -> None:
    schedule_id = cron(sched, overlap_policy="allow")
    tick_at(sched, START + MINUTE)
    claimed = sched.claim_one()
    tick_at(sched, START + 2 * MINUTE)
    other = sched.schedule()
    fires = ledger(sched)

    assert sched.call("delete_schedule", "job") == 1

    assert sched.rows("select * from pgsched.schedules") == []
    by_time = {task.scheduled_time: task for task in sched.tasks(f"id <> '{other}'")}
    assert by_time[START + MINUTE].status == "SCHEDULED"
    waiting = by_time[START + 2 * MINUTE]
    assert waiting.status == "CANCELLED"
    assert waiting.error_msg == "its schedule was deleted by postgres"
    assert sched.events(waiting.id) == ["CANCELLED"]
    assert sched.status(other) == "PENDING"
    assert ledger(sched, schedule_id) == fires
    sched.settle(claimed)
    assert sched.report(claimed.id, "SUCCESS", claimed.attempt) == "SUCCESS"


@pytest.mark.parametrize("status", ["SCHEDULED", "DISPATCHED", "RUNNING"])
def test_a_claimed_task_outlives_its_schedule(sched: Sched, status: str) -> None:
    cron(sched)
    tick_at(sched, START + MINUTE)
    claimed = sched.claim_one()
    if status != "SCHEDULED":
        sched.settle(claimed)
    if status == "RUNNING":
        sched.report(claimed.id, "RUNNING", 1)

    assert sched.call("delete_schedule", "job") == 0

    assert sched.status(claimed.id) == status


def test_a_run_that_waits_for_another_is_cancelled_with_its_schedule(sched: Sched) -> None:
    cron(sched, overlap_policy="queue_one")
    tick_at(sched, START + MINUTE)
    claimed = sched.claim_one()
    tick_at(sched, START + 2 * MINUTE)

    assert sched.call("delete_schedule", "job") == 1

    sched.settle(claimed)
    sched.report(claimed.id, "SUCCESS", claimed.attempt)
    assert {task.status for task in sched.tasks()} == {"SUCCESS", "CANCELLED"}
    assert sched.value("select count(*) from pgsched.task_dependencies") == 0


def test_two_runs_that_wait_for_each_other_are_both_cancelled(sched: Sched) -> None:
    cron(sched, overlap_policy="queue_one")
    for n in (1, 2):
        tick_at(sched, START + n * MINUTE)

    assert sched.call("delete_schedule", "job") == 2

    assert [task.status for task in sched.tasks()] == ["CANCELLED"] * 2
    sched.call("resolve_dependencies")
    assert sched.value("select count(*) from pgsched.task_dependencies") == 0


def test_the_change_log_stays_when_a_schedule_is_deleted(sched: Sched) -> None:
    schedule_id = cron(sched)
    sched.clock(SECOND)

    sched.call("delete_schedule", schedule_id)

    created, deleted = changes(sched, schedule_id)
    assert (deleted.change, deleted.name, deleted.at) == ("DELETED", "job", sched.now)
    assert deleted.old_values == created.new_values
    assert deleted.new_values is None


def test_a_deleted_schedule_can_be_made_again_and_is_another(sched: Sched) -> None:
    first = cron(sched)
    sched.call("delete_schedule", "job")

    assert cron(sched) != first


def test_a_tick_that_was_computed_before_the_deletion_comes_too_late(
    sched: Sched, another: Sched
) -> None:
    schedule_id = cron(sched)
    sched.clock(MINUTE)
    tick = sched.tick_for(schedule_id, sched.now, sched.now + MINUTE)
    another.call("delete_schedule", "job")

    assert sched.tick(tick) == 0

    assert sched.tasks() == []


def test_a_tick_does_not_wait_for_a_deletion(sched: Sched, another: Sched) -> None:
    cron(sched)
    sched.clock(MINUTE)
    sched.conn.execute("set lock_timeout = '1s'")

    with another.conn.transaction():
        another.call("delete_schedule", "job")
        sched.tick_all()

    assert sched.tasks() == []
    assert sched.tick_all() == []


def test_a_deletion_waits_for_a_tick_and_cancels_what_it_made(sched: Sched, another: Sched) -> None:
    cron(sched)
    sched.clock(MINUTE)

    with another.conn.transaction():
        another.tick_all()
        deletion = Background(sched.conn, lambda: sched.call("delete_schedule", "job"))
        deletion.wait_until_blocked(another)

    assert deletion.result() == 1
    assert [task.status for task in sched.tasks()] == ["CANCELLED"]


def test_a_deletion_waits_for_a_slice_of_a_backfill_and_cancels_what_it_made(
    sched: Sched, another: Sched
) -> None:
    cron(sched)
    sched.call("backfill_schedule", "job", START - HOUR, START)

    with another.conn.transaction():
        run_backfills(another)
        deletion = Background(sched.conn, lambda: sched.call("delete_schedule", "job"))
        deletion.wait_until_blocked(another)

    assert deletion.result() == 61
    assert {task.status for task in sched.tasks()} == {"CANCELLED"}


def test_a_backfill_does_not_wait_for_a_deletion(sched: Sched, another: Sched) -> None:
    cron(sched)
    sched.call("backfill_schedule", "job", START - HOUR, START)
    sched.conn.execute("set lock_timeout = '1s'")

    with another.transaction():
        another.call("delete_schedule", "job")
        due = sched.rows("select * from pgsched.due_backfills()")
        step = {
            "backfill_id": str(due[0].backfill_id),
            "expected": str(due[0].counts_from),
            "instants": [str(START)],
            "is_done": True,
        }
        assert sched.value("select pgsched.run_backfill(%s)", Jsonb(step)) == 0

    assert run_backfills(sched) == 61


def test_an_operators_retry_and_a_deletion_do_not_wait_for_each_other_for_ever(
    sched: Sched, another: Sched
) -> None:
    sched.define(max_retries=0)
    cron(sched)
    tick_at(sched, START + MINUTE)
    failed = sched.run(status="FAILED")

    with another.conn.transaction():
        another.call("delete_schedule", "job")
        retry = Background(sched.conn, lambda: sched.call("retry_task", failed))
        retry.wait_until_blocked(another)

    assert retry.result() == "PENDING"


def test_a_schedule_that_a_stranger_has_locked_is_named_after_five_seconds(
    sched: Sched, another: Sched
) -> None:
    cron(sched)
    sched.conn.execute("alter function pgsched.lock_schedule set lock_timeout = '50ms'")
    try:
        with another.transaction():
            another.call("pause_schedule", "job")
            for function in ("pause_schedule", "resume_schedule", "delete_schedule"):
                with pytest.raises(psycopg.Error, match="'job' is locked") as refused:
                    sched.call(function, "job")
                assert refused.value.sqlstate == "PS409"
    finally:
        sched.conn.execute("alter function pgsched.lock_schedule set lock_timeout = '5s'")


def test_a_schedule_that_is_deleted_meanwhile_is_not_found(sched: Sched, another: Sched) -> None:
    cron(sched)
    with another.conn.transaction():
        another.call("delete_schedule", "job")
        pause = Background(sched.conn, lambda: sched.call("pause_schedule", "job"))
        pause.wait_until_blocked(another)

    with pytest.raises(psycopg.Error, match="p_schedule") as refused:
        pause.result()
    assert refused.value.sqlstate == "PS404"


@pytest.mark.parametrize(
    ("function", "given"),
    [
        ("reschedule", ["* * * * *"]),
        ("pause_schedule", []),
        ("resume_schedule", []),
        ("trigger_schedule", []),
        ("delete_schedule", []),
        ("explain_schedule", []),
    ],
)
@pytest.mark.parametrize("name", ["nothing", NOBODY, "", None])
def test_a_schedule_nobody_knows_is_not_found(
    sched: Sched, function: str, given: list[object], name: str | None
) -> None:
    with pytest.raises(psycopg.Error, match="p_schedule") as refused:
        sched.call(function, name, *given)

    assert refused.value.sqlstate == "PS404"


def test_a_schedule_goes_by_its_name_first_and_then_by_its_id(sched: Sched) -> None:
    first = cron(sched, name="a")
    second = cron(sched, name=first)

    sched.call("pause_schedule", first)
    assert [status_of(sched, s).state for s in (first, second)] == ["ACTIVE", "PAUSED"]

    sched.call("pause_schedule", second)
    sched.call("delete_schedule", second)
    sched.call("pause_schedule", first.upper())
    assert status_of(sched, first).state == "PAUSED"
