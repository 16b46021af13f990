"""Workers, their leases, and what becomes of the tasks of those that are lost."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.sql.sched import HOUR, SECOND, Background, Sched

TERM = 30 * SECOND


def lease(sched: Sched, worker: str) -> Any:
    (row,) = sched.rows("select * from pgsched.workers where id = %s", worker)
    return row


def keep_alive(sched: Sched, worker: str, duration: timedelta) -> None:
    """Turn the clock as a worker sees it that renews in time."""
    until = sched.now + duration
    while sched.now < until:
        sched.clock(min(sched.now + 10 * SECOND, until))
        sched.call("heartbeat", worker)


def test_a_new_worker_has_a_lease_of_thirty_seconds(sched: Sched) -> None:
    row = lease(sched, sched.register())

    assert row.started_at == row.lease_since == sched.now
    assert row.lease_expires_at == sched.now + TERM


def test_a_heartbeat_renews_a_lease_that_stays_unbroken(sched: Sched) -> None:
    worker, start = sched.register(), sched.now
    sched.clock(TERM - SECOND)

    assert sched.call("heartbeat", worker) == TERM

    row = lease(sched, worker)
    assert (row.lease_since, row.lease_expires_at) == (start, sched.now + TERM)


def test_a_lease_that_has_lapsed_starts_anew(sched: Sched) -> None:
    worker = sched.register()
    sched.clock(TERM)

    sched.call("heartbeat", worker)

    row = lease(sched, worker)
    assert row.lease_since == sched.now
    assert row.started_at < row.lease_since


def test_a_worker_that_was_forgotten_is_told_to_register_again(sched: Sched) -> None:
    worker = sched.register()
    sched.call("release_worker", worker)

    with pytest.raises(psycopg.Error, match="not registered") as refused:
        sched.call("heartbeat", worker)

    assert refused.value.sqlstate == "PS404"


# Goodbye


def test_a_goodbye_puts_back_what_the_worker_still_holds(sched: Sched) -> None:
    worker = sched.register()
    held, accepted = sched.schedule(), sched.schedule()
    claimed = {row.id: row for row in sched.claim(worker=worker)}
    sched.settle(claimed[accepted])
    sched.clock(SECOND)

    assert sched.call("release_worker", worker) == 1

    task = sched.task(held)
    assert (task.status, task.execute_after, task.deadline_at) == ("PENDING", sched.now, None)
    assert (task.lost_count, task.retry_count, task.attempt) == (0, 0, 1)
    assert sched.status(accepted) == "DISPATCHED"
    assert sched.rows("select * from pgsched.workers") == []


def test_a_goodbye_does_not_touch_what_others_hold(sched: Sched) -> None:
    mine, other = sched.register(), sched.register()
    task_id = sched.schedule()
    sched.claim(worker=other)

    assert sched.call("release_worker", mine) == 0

    assert sched.status(task_id) == "SCHEDULED"


# Dead workers


def test_a_dead_workers_tasks_are_released(sched: Sched) -> None:
    task_id, dead = sched.schedule(), sched.register()
    (claimed,) = sched.claim(worker=dead)
    keep_alive(sched, sched.worker, TERM)

    assert sched.call("release_dead_workers", sched.worker) == 1

    task = sched.task(task_id)
    assert (task.status, task.lost_count, task.retry_count) == ("PENDING", 1, 0)
    assert sched.events(task_id) == ["LOST"]
    again = sched.claim_one()
    assert (again.attempt, again.delivery_count) == (claimed.attempt, 2)


def test_a_living_workers_tasks_are_its_own(sched: Sched) -> None:
    living = sched.register()
    sched.schedule()
    sched.claim(worker=living)
    keep_alive(sched, sched.worker, TERM - SECOND)
    sched.call("heartbeat", living)
    keep_alive(sched, sched.worker, 20 * SECOND)

    assert sched.call("release_dead_workers", sched.worker) == 0


def test_nobody_judges_before_a_full_term_of_its_own(sched: Sched) -> None:
    """After an outage of the database everybody is to renew first."""
    dead = sched.register()
    sched.schedule()
    sched.claim(worker=dead)
    sched.clock(HOUR)

    keep_alive(sched, sched.worker, TERM - SECOND)
    assert sched.call("release_dead_workers", sched.worker) == 0

    sched.clock(SECOND)
    assert sched.call("release_dead_workers", sched.worker) == 1


def test_a_broken_lease_begins_the_term_anew(sched: Sched) -> None:
    dead = sched.register()
    sched.schedule()
    sched.claim(worker=dead)
    keep_alive(sched, sched.worker, HOUR / 60)
    sched.clock(HOUR)
    sched.call("heartbeat", sched.worker)

    assert sched.call("release_dead_workers", sched.worker) == 0

    keep_alive(sched, sched.worker, TERM)
    assert sched.call("release_dead_workers", sched.worker) == 1


@pytest.mark.parametrize("who", ["lapsed", "unknown"])
def test_a_worker_without_a_lease_releases_nobody(sched: Sched, who: str) -> None:
    dead, worker = sched.register(), sched.register()
    sched.schedule()
    sched.claim(worker=dead)
    sched.clock(HOUR)
    if who == "unknown":
        worker = str(sched.value("select pgsched.uuid7()"))

    assert sched.call("release_dead_workers", worker) == 0


def test_a_dead_worker_that_comes_back_has_lost_its_tasks_not_its_place(sched: Sched) -> None:
    task_id, dead = sched.schedule(), sched.register()
    (claimed,) = sched.claim(worker=dead)
    keep_alive(sched, sched.worker, TERM)
    sched.call("release_dead_workers", sched.worker)
    again = sched.claim_one()

    sched.call("heartbeat", dead)

    assert sched.settle(claimed) == "STALE"
    assert sched.settle(again) is None
    assert sched.status(task_id) == "DISPATCHED"


def test_a_dead_workers_row_is_forgotten_after_some_terms(sched: Sched) -> None:
    dead = sched.register()
    keep_alive(sched, sched.worker, 5 * TERM)
    sched.call("release_dead_workers", sched.worker)
    assert lease(sched, dead)

    keep_alive(sched, sched.worker, 10 * TERM)
    sched.call("release_dead_workers", sched.worker)

    assert sched.rows("select * from pgsched.workers where id = %s", dead) == []


def test_of_a_heartbeat_and_a_release_only_one_wins(sched: Sched, another: Sched) -> None:
    task_id, late = sched.schedule(), sched.register()
    sched.claim(worker=late)
    keep_alive(sched, sched.worker, TERM)

    with another.conn.transaction():
        another.call("heartbeat", late)
        assert sched.call("release_dead_workers", sched.worker) == 0

    assert sched.call("release_dead_workers", sched.worker) == 0
    assert sched.status(task_id) == "SCHEDULED"


def test_a_heartbeat_waits_for_the_release_that_was_first(sched: Sched, another: Sched) -> None:
    task_id, late = sched.schedule(), sched.register()
    sched.claim(worker=late)
    keep_alive(sched, sched.worker, TERM)

    with sched.conn.transaction():
        assert sched.call("release_dead_workers", sched.worker) == 1
        renewing = Background(another.conn, lambda: another.call("heartbeat", late))
        renewing.wait_until_blocked(sched)

    assert renewing.result() == TERM
    assert lease(sched, late).lease_since == sched.now
    assert sched.status(task_id) == "PENDING"


# Lost ten times


def lose(sched: Sched, times: int) -> None:
    for _ in range(times):
        sched.claim_one()
        sched.clock(HOUR)
        assert sched.call("expire_deadlines") == 1


def test_a_task_that_is_lost_ten_times_in_a_row_is_failed(sched: Sched) -> None:
    task_id = sched.schedule()
    lose(sched, 9)
    assert (sched.status(task_id), sched.task(task_id).lost_count) == ("PENDING", 9)

    lose(sched, 1)

    task = sched.task(task_id)
    assert (task.status, task.retry_count) == ("FAILED", 0)
    assert "lost 10 times in a row" in task.error_msg
    assert sched.events(task_id) == ["LOST"] * 10


def test_leases_lost_and_deadlines_passed_are_counted_together(sched: Sched) -> None:
    task_id = sched.schedule()
    lose(sched, 9)
    dead = sched.register()
    sched.claim(worker=dead)
    keep_alive(sched, sched.worker, 2 * TERM)
    sched.call("release_dead_workers", sched.worker)

    assert sched.status(task_id) == "FAILED"


@pytest.mark.parametrize("how", ["accepted", "RUNNING"])
def test_a_task_that_arrives_is_counted_from_zero_again(sched: Sched, how: str) -> None:
    task_id = sched.schedule()
    lose(sched, 9)
    claimed = sched.claim_one()
    if how == "accepted":
        sched.settle(claimed)
    else:
        sched.report(task_id, "RUNNING")

    assert sched.task(task_id).lost_count == 0


@pytest.mark.parametrize("how", ["RELEASED", "DEFERRED", "goodbye"])
def test_what_was_asked_for_is_not_counted_as_lost(sched: Sched, how: str) -> None:
    task_id = sched.schedule()
    lose(sched, 3)
    claimed = sched.claim_one()
    if how == "goodbye":
        sched.goodbye()
    else:
        sched.settle(claimed, how)

    assert sched.task(task_id).lost_count == 3


def test_a_heartbeat_proves_nothing_about_a_worker_that_hangs(sched: Sched) -> None:
    """The deadline of a SCHEDULED task takes it from a worker whose lease is fine."""
    task_id = sched.schedule()
    sched.claim_one()
    keep_alive(sched, sched.worker, 61 * SECOND)

    assert sched.call("release_dead_workers", sched.worker) == 0
    assert sched.call("expire_deadlines") == 1

    assert (sched.status(task_id), sched.task(task_id).lost_count) == ("PENDING", 1)
