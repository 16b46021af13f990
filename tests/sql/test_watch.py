"""stuck_tasks, recent_failures, worker_status and health: what needs somebody's eyes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from tests.sql.ledger import cron
from tests.sql.sched import HOUR, MINUTE, SECOND, START, Sched

DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def job(sched: Sched) -> None:
    sched.define("job", retry_delay=timedelta(minutes=10))


# stuck_tasks


def stuck(sched: Sched) -> list[Any]:
    return sched.rows("select * from pgsched.stuck_tasks")


def test_nothing_is_stuck_that_gets_on(sched: Sched) -> None:
    sched.schedule()
    sched.schedule(delay=HOUR)
    sched.settle(sched.claim_one())
    sched.schedule()
    sched.schedule(depends_on=[sched.schedule()])
    sched.clock(4 * MINUTE)

    assert stuck(sched) == []


def test_one_that_nobody_claims(sched: Sched) -> None:
    task = sched.schedule()
    sched.call("pause_queue", "default")
    sched.clock(6 * MINUTE)

    (row,) = stuck(sched)
    assert str(row.id) == task
    assert (row.status, row.queue, row.definition_name) == ("PENDING", "default", "job")
    assert row.since == START
    assert row.stuck_for == 6 * MINUTE
    assert row.reason.startswith("Queue 'default' is paused.")


def test_one_that_others_are_claimed_before(sched: Sched) -> None:
    sched.schedule()
    sched.clock(6 * MINUTE)
    assert sched.worker

    assert stuck(sched)[0].reason.startswith("It is due, and workers claim others before it")


def test_those_that_nobody_takes_back(sched: Sched) -> None:
    accepted = sched.schedule()
    sched.settle(sched.claim_one())
    held = sched.schedule()
    worker = sched.worker
    sched.claim_one()
    sched.clock(2 * HOUR)

    first, second = stuck(sched)
    assert (str(first.id), first.status, str(first.worker_id)) == (held, "SCHEDULED", worker)
    assert "did not settle it in time" in first.reason
    assert (str(second.id), second.status) == (accepted, "DISPATCHED")
    assert "No report came in time" in second.reason


def test_one_that_cannot_be_delivered(sched: Sched) -> None:
    task = sched.schedule()
    sched.settle(sched.claim_one(), "DEFERRED", error_msg="connection refused", delay=600.0)
    assert stuck(sched) == []

    sched.clock(6 * MINUTE)

    (row,) = stuck(sched)
    assert str(row.id) == task
    assert row.reason == "It cannot be delivered: connection refused."


def test_one_that_takes_its_workers_with_it(sched: Sched) -> None:
    sched.schedule()
    for _ in range(3):
        assert stuck(sched) == []
        sched.claim_one()
        sched.clock(2 * MINUTE)
        sched.call("expire_deadlines")

    (row,) = stuck(sched)
    assert row.reason == "It was lost with its worker 3 times in a row."


# recent_failures


def failures(sched: Sched) -> list[Any]:
    return sched.rows("select * from pgsched.recent_failures")


def fail(sched: Sched, definition: str, error: str) -> str:
    task = sched.schedule(definition)
    sched.run(task, "FAILED", error_msg=error)
    sched.clock(SECOND)
    return task


def test_those_alike_are_one_row(sched: Sched) -> None:
    sched.define("once", max_retries=0)
    fail(sched, "once", "no user 17")
    fail(sched, "job", "disk is full")
    latest = fail(sched, "once", "no user 2341")
    sched.run(sched.schedule("once"))

    users, disk = failures(sched)
    assert users.fingerprint == "no user #"
    assert (users.definition_name, users.queue) == ("once", "default")
    assert (users.failed_count, users.retrying_count) == (2, 0)
    assert (users.first_at, users.last_at) == (START, START + 2 * SECOND)
    assert str(users.last_task_id) == latest
    assert users.last_error == "no user 2341"
    assert (disk.fingerprint, disk.failed_count, disk.retrying_count) == ("disk is full", 0, 1)


def test_a_task_counts_once_and_by_its_latest_error(sched: Sched) -> None:
    task = sched.schedule()
    sched.settle(sched.claim_one(), "DEFERRED", error_msg="refused", delay=1.0)
    sched.clock(MINUTE)
    sched.run(task, "FAILED", error_msg="disk is full")

    (row,) = failures(sched)
    assert (row.fingerprint, row.failed_count, row.retrying_count) == ("disk is full", 0, 1)


def test_what_came_to_a_good_end_or_is_long_past_is_no_failure(sched: Sched) -> None:
    sched.define("once", max_retries=0)
    fail(sched, "once", "long past")
    sched.clock(DAY)
    task = fail(sched, "job", "only once")
    sched.clock(HOUR)
    sched.run(task)

    assert failures(sched) == []


# worker_status


def test_a_worker_that_lives_and_one_that_is_lost(sched: Sched) -> None:
    lost = sched.register()
    sched.clock(25 * SECOND)
    query = "select pgsched.register_worker('other', 7, '9.9', array['mail'])"
    assert sched.value(query)
    sched.schedule()
    sched.schedule()
    sched.clock(10 * SECOND)
    assert len(sched.claim()) == 2

    first, second, third = sched.rows("select * from pgsched.worker_status")

    assert (str(first.id), first.state, first.held_count) == (lost, "LOST", 0)
    assert (second.hostname, second.pid, second.version) == ("other", 7, "9.9")
    assert (second.queues, second.state) == (["mail"], "ALIVE")
    assert second.started_at == second.lease_since == START + 25 * SECOND
    assert second.lease_expires_at == START + 55 * SECOND
    assert (str(third.id), third.queues, third.held_count) == (sched.worker, None, 2)


# health


def health(sched: Sched) -> dict[str, Any]:
    return {row.name: row for row in sched.rows("select * from pgsched.health")}


def unwell(sched: Sched) -> dict[str, str]:
    return {name: row.status for name, row in health(sched).items() if row.status != "ok"}


@pytest.fixture
def healthy(sched: Sched) -> Iterator[Sched]:
    """With a worker, and with partitions, which most tests go without."""
    assert sched.worker
    sched.conn.execute("begin")
    sched.call("maintain")
    yield sched
    sched.conn.execute("rollback")


def test_all_is_well(healthy: Sched) -> None:
    rows = health(healthy)

    assert list(rows) == [
        "workers",
        "queues served",
        "paused queues",
        "breakers",
        "due tasks",
        "deadlines",
        "failures",
        "schedules",
        "outbox",
        "partitions",
    ]
    assert unwell(healthy) == {}
    assert {row.advice for row in rows.values()} == {None}
    assert "task_instances until 2026-04-" in rows["partitions"].seen


def test_partitions_are_missing(sched: Sched) -> None:
    assert sched.worker

    assert unwell(sched) == {"partitions": "warning"}
    assert "task_instances until none at all" in health(sched)["partitions"].seen


def test_no_worker(healthy: Sched) -> None:
    healthy.clock(MINUTE)

    row = health(healthy)["workers"]
    assert (row.status, row.seen) == ("error", "0 alive, 1 lost in the latest minutes")
    assert row.advice.endswith("Start one: pgsched worker.")


def test_a_lost_worker_beside_one_of_two_queues(healthy: Sched) -> None:
    healthy.clock(MINUTE)
    healthy.value("select pgsched.register_worker('host', 2, 'test', '{default,mail}')")

    row = health(healthy)["workers"]
    assert (row.status, row.seen) == ("warning", "1 alive, 1 lost in the latest minutes")


def test_a_queue_that_nobody_serves(healthy: Sched) -> None:
    healthy.call("define_queue", "mail")
    healthy.call("release_worker", healthy.worker)
    healthy.value("select pgsched.register_worker('host', 2, 'test', '{default}')")
    assert unwell(healthy) == {}

    healthy.schedule(queue="mail")

    assert unwell(healthy) == {"queues served": "error"}
    assert health(healthy)["queues served"].seen == "nobody serves mail"


def test_a_paused_queue_with_work(healthy: Sched) -> None:
    healthy.call("pause_queue", "default")
    assert unwell(healthy) == {}

    healthy.schedule()

    assert unwell(healthy) == {"paused queues": "warning"}
    assert health(healthy)["paused queues"].seen == "default (1 due)"


def test_an_open_breaker(healthy: Sched) -> None:
    healthy.call("open_breaker", "default", "HTTP 503: down")

    assert unwell(healthy) == {"breakers": "error"}
    assert health(healthy)["breakers"].seen == (
        "default open since 2026-03-02 12:00:00+00: HTTP 503: down"
    )


def test_what_is_due_for_long(healthy: Sched) -> None:
    healthy.schedule()
    healthy.clock(6 * MINUTE)
    healthy.call("heartbeat", healthy.worker)

    assert unwell(healthy) == {"due tasks": "warning"}
    assert health(healthy)["due tasks"].seen == "due since 2026-03-02 12:00:00+00 in default"


def test_a_deadline_that_nobody_sees_to(healthy: Sched) -> None:
    healthy.schedule()
    healthy.settle(healthy.claim_one())
    healthy.clock(2 * HOUR)
    healthy.call("heartbeat", healthy.worker)

    assert unwell(healthy) == {"deadlines": "error"}
    assert "passed by 1 task, the first at" in health(healthy)["deadlines"].seen


def test_more_failures_than_not(healthy: Sched) -> None:
    healthy.define("once", max_retries=0)
    healthy.run(healthy.schedule("once"))
    healthy.run(healthy.schedule("once"), "FAILED")
    assert "failures" not in unwell(healthy)

    healthy.run(healthy.schedule("once"), "FAILED")

    assert unwell(healthy)["failures"] == "warning"
    assert health(healthy)["failures"].seen.startswith("2 of the latest 3 tasks")


def test_a_schedule_that_is_late_and_one_that_is_broken(healthy: Sched) -> None:
    cron(healthy, "0 13 * * *")
    healthy.call("schedule_cron", "job", "0 25 * * *", name="wrong")
    healthy.tick_all()
    healthy.clock(61 * MINUTE)
    healthy.call("heartbeat", healthy.worker)

    row = health(healthy)["schedules"]
    assert row.status == "error"
    assert "job late since 2026-03-02 13:00:00+00; wrong broken: " in row.seen


def test_news_that_nobody_takes(healthy: Sched) -> None:
    healthy.schedule()
    claimed = healthy.claim_one()
    healthy.settle(claimed)
    healthy.call("cancel_task", claimed.id)
    healthy.clock(6 * MINUTE)
    healthy.call("heartbeat", healthy.worker)
    assert unwell(healthy) == {"outbox": "warning"}
    assert "1 waiting for more than 5 minutes" in health(healthy)["outbox"].seen

    healthy.settle_news(*healthy.claim_news(), outcome="GIVEN_UP", error="HTTP 401")

    assert "1 given up in the latest day, 0 waiting" in health(healthy)["outbox"].seen


# new_failures()


def news(sched: Sched, worker: str, after: Any = None, limit: int = 20) -> list[Any]:
    query = "select * from pgsched.new_failures(%s, %s, %s)"
    return sched.rows(query, worker, after, limit)


def test_a_new_failure_is_told_once_a_second_later(sched: Sched) -> None:
    sched.define("once", max_retries=0)
    (start,) = news(sched, sched.worker)
    sched.run(sched.schedule())
    task = sched.schedule("once")
    sched.run(task, "FAILED")
    assert news(sched, sched.worker, start.until)[0].failed_count == 0  # perhaps not committed
    sched.clock(SECOND)

    (row,) = news(sched, sched.worker, start.until)
    assert (str(row.task_id), row.definition_name, row.queue) == (task, "once", "default")
    assert row.trace_id == sched.task(task).trace_id
    assert (row.attempt, row.failed_count, row.until) == (1, 1, START)

    (row,) = news(sched, sched.worker, row.until)
    assert (row.task_id, row.failed_count) == (None, 0)


def test_of_many_new_failures_a_few_are_told_and_all_counted(sched: Sched) -> None:
    sched.define("once", max_retries=0)
    tasks = [fail(sched, "once", "boom") for _ in range(3)]
    sched.clock(SECOND)

    rows = news(sched, sched.worker, START - SECOND, 2)
    assert [str(row.task_id) for row in rows] == tasks[:2]
    assert {row.failed_count for row in rows} == {3}


def test_only_the_oldest_worker_alive_is_told_of_new_failures(sched: Sched) -> None:
    fail(sched, "job", "boom")
    sched.define("once", max_retries=0)
    fail(sched, "once", "boom")
    sched.clock(SECOND)
    first = sched.worker
    second = sched.register()

    assert news(sched, second, START - SECOND)[0].failed_count == 0
    assert news(sched, first, START - SECOND)[0].failed_count == 1
    sched.goodbye()
    assert news(sched, second, START - SECOND)[0].failed_count == 1
