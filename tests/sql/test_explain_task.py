"""explain_task() and explain_queue(): why a task runs or does not, and what to do, in words."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import psycopg
import pytest

from tests.restoring import SharedDatabase
from tests.roles import as_role
from tests.sql.ledger import cron
from tests.sql.sched import HOUR, MINUTE, SECOND, Sched

NOBODY = "No worker is alive.  Start one: pgsched worker."


@pytest.fixture(autouse=True)
def job(sched: Sched) -> None:
    sched.define("job", max_retries=2, retry_delay=timedelta(seconds=30))


def explained(sched: Sched, task_id: str) -> list[str]:
    """The sentences, one a line."""
    return str(sched.call("explain_task", task_id)).splitlines()


def later(sched: Sched) -> str:
    """A task that comes after those there are."""
    sched.clock(SECOND)
    return sched.schedule()


def test_no_such_task(sched: Sched) -> None:
    unknown = "01a209e1-320a-74d0-b816-1c9ee5a47a28"
    with pytest.raises(psycopg.Error, match=f"task {unknown} does not exist") as refused:
        explained(sched, unknown)
    assert refused.value.sqlstate == "PS404"


# PENDING


def test_one_that_is_about_to_be_claimed(sched: Sched) -> None:
    task = sched.schedule()
    assert sched.worker

    (only,) = explained(sched, task)
    assert only.startswith("It is due since 2026-03-02 12:00:00+00, and a worker is about to claim")
    assert "pg_locks" in only


def test_one_behind_others(sched: Sched) -> None:
    sched.schedule(priority=5)
    sched.schedule()
    sched.schedule(priority=-1)
    task = later(sched)
    assert sched.worker

    (only,) = explained(sched, task)
    assert "its turn comes after 2 other tasks of queue 'default'" in only


def test_one_that_is_not_due(sched: Sched) -> None:
    task = sched.schedule(delay=HOUR)
    assert sched.worker

    assert explained(sched, task) == [
        "It is due at 2026-03-02 13:00:00+00, in 01:00:00, as it was scheduled."
    ]


def test_no_worker(sched: Sched) -> None:
    task = sched.schedule()

    assert explained(sched, task) == [
        "It is due since 2026-03-02 12:00:00+00, and is not claimed.",
        NOBODY,
    ]


def test_no_worker_for_its_queue(sched: Sched) -> None:
    sched.call("define_queue", "mail")
    sched.value("select pgsched.register_worker('host', 1, 'test', '{default}')")
    task = sched.schedule(queue="mail")

    assert explained(sched, task)[1] == (
        "No worker serves queue 'mail': PGSCHED_QUEUES keeps the one that is alive away from it."
        "  Start one that does."
    )


def test_a_paused_queue(sched: Sched) -> None:
    task = sched.schedule()
    sched.call("pause_queue", "default", "the mailer moves")
    assert sched.worker

    assert explained(sched, task) == [
        "It is due since 2026-03-02 12:00:00+00, and is not claimed.",
        (
            "Queue 'default' is paused (the mailer moves)."
            "  select pgsched.resume_queue('default') ends that."
        ),
    ]


def test_all_that_stands_in_its_way_is_told(sched: Sched) -> None:
    task = sched.schedule(delay=HOUR)
    sched.call("pause_queue", "default")

    assert len(explained(sched, task)) == 3


def test_an_open_breaker(sched: Sched) -> None:
    task = sched.schedule()
    assert sched.worker
    sched.call("open_breaker", "default", "HTTP 503: down.\nfor long")

    (_, breaker) = explained(sched, task)
    assert breaker.startswith(
        "The breaker of external system 'default' is open since 2026-03-02 12:00:00+00"
        " (HTTP 503: down): one task will be pushed as a probe at "
    )
    assert breaker.endswith("select pgsched.close_breaker('default') lets all through at once.")


def test_a_breaker_that_is_due_for_a_probe_and_one_that_is_probed(sched: Sched) -> None:
    sched.schedule()
    task = later(sched)
    sched.call("open_breaker", "default", "HTTP 503")
    sched.clock(MINUTE)
    assert sched.worker
    assert "a worker is about to push one task as a probe." in explained(sched, task)[1]

    sched.claim()

    assert "one task is being pushed to see whether it is up" in explained(sched, task)[1]


def test_a_full_queue(sched: Sched) -> None:
    sched.call("define_queue", "default", max_in_flight=1)
    sched.schedule()
    task = later(sched)
    sched.settle(sched.claim_one())

    assert "as many tasks in flight as its max_in_flight of 1 allows" in explained(sched, task)[1]


def test_a_spent_rate(sched: Sched) -> None:
    sched.call("define_queue", "default", rate_per_second=2, burst=1)
    sched.schedule()
    task = later(sched)
    sched.claim_one()

    assert explained(sched, task)[1] == (
        "Queue 'default' has spent its rate of 2.0 tasks per second: the next is claimed in 500 ms."
        "  pgsched.define_queue() raises it."
    )


def test_a_ramp_after_a_pause(sched: Sched) -> None:
    sched.schedule()
    task = later(sched)
    sched.call("pause_queue", "default")
    sched.call("resume_queue", "default")
    sched.claim_one()

    assert "which ramps up after a pause or an outage" in explained(sched, task)[1]


def test_one_that_waits_for_others(sched: Sched) -> None:
    first, second = sched.schedule(), sched.schedule(delay=HOUR)
    task = sched.schedule(depends_on=[first, second])
    sched.claim_one()

    (only,) = explained(sched, task)
    assert only.startswith("It waits for 2 other tasks to end with SUCCESS: ")
    assert f"{first} (job, SCHEDULED)" in only
    assert f"{second} (job, PENDING)" in only


def test_one_that_waits_for_any_end_of_many_others(sched: Sched) -> None:
    sched.define("any", on_dependency_failure="run")
    task = sched.schedule("any", depends_on=[sched.schedule() for _ in range(5)])

    (only,) = explained(sched, task)
    assert only.startswith("It waits for 5 other tasks to end: ")
    assert " and more.  select pgsched.explain_task(" in only


def test_a_retry(sched: Sched) -> None:
    task = sched.schedule()
    sched.run(task, "FAILED", error_msg="disk is full.")

    (waits, news) = explained(sched, task)
    assert waits.startswith("It is due at 2026-03-02 12:00:3")
    assert waits.endswith(", for retry 1 of 2: the attempt before failed (disk is full).")
    assert news == "Its external system has still to be told of 1 change of its status."


def test_one_that_cannot_be_delivered(sched: Sched) -> None:
    task = sched.schedule()
    sched.settle(sched.claim_one(), "DEFERRED", error_msg="connection refused", delay=4.0)

    (only,) = explained(sched, task)
    assert "it could not be delivered since 2026-03-02 12:00:00+00 (connection refused)" in only


# SCHEDULED


def test_one_that_is_being_pushed(sched: Sched) -> None:
    task = sched.schedule()
    sched.claim_one()

    assert explained(sched, task) == [
        (
            "Worker host:1 has claimed it and is pushing it."
            "  What it has not settled until 2026-03-02 12:01:00+00 is given to another."
        )
    ]


def test_one_whose_worker_has_lost_its_lease(sched: Sched) -> None:
    task = sched.schedule()
    sched.claim_one()
    sched.clock(31 * SECOND)
    assert "no worker is alive to take it back" in explained(sched, task)[0]

    sched.register()

    assert explained(sched, task) == [
        (
            "Worker host:1 had claimed it and has lost its lease at 2026-03-02 12:00:30+00:"
            " another takes it back within a minute, at 2026-03-02 12:01:00+00 at the latest."
        )
    ]


def test_one_that_hangs_in_its_worker(sched: Sched) -> None:
    task = sched.schedule()
    sched.claim_one()
    sched.clock(2 * MINUTE)
    sched.call("heartbeat", sched.worker)

    assert "did not settle it until 2026-03-02 12:01:00+00" in explained(sched, task)[0]


def test_one_that_was_lost_before(sched: Sched) -> None:
    task = sched.schedule()
    sched.claim_one()
    sched.clock(2 * MINUTE)
    sched.call("expire_deadlines")
    sched.call("heartbeat", sched.worker)

    assert explained(sched, task)[1].startswith("It was lost with its worker once in a row")


# DISPATCHED and RUNNING


def test_one_that_was_accepted(sched: Sched) -> None:
    task = sched.schedule()
    sched.settle(sched.claim_one())

    assert explained(sched, task) == [
        (
            "External system 'default' accepted it at 2026-03-02 12:00:00+00, in attempt 1, and has"
            " not reported since.  Its report is waited for until 2026-03-02 13:00:00+00, for"
            " 01:00:00 more; then this attempt counts as failed, and retry 1 of 2 follows."
        )
    ]


def test_one_that_is_running_its_last_attempt(sched: Sched) -> None:
    sched.define("once", max_retries=0)
    task = sched.schedule("once")
    sched.settle(sched.claim_one())
    sched.report(task, "RUNNING", 1, progress={"done": 7})

    (only,) = explained(sched, task)
    assert only.startswith("External system 'default' reports it RUNNING, since ")
    assert '; its progress is {"done": 7}.' in only
    assert only.endswith("the task is FAILED, since no retry is left.")


def test_one_past_its_deadline(sched: Sched) -> None:
    task = sched.schedule()
    sched.settle(sched.claim_one())
    sched.clock(2 * HOUR)
    assert "no worker is alive to end this attempt" in explained(sched, task)[0]

    sched.register()

    assert "a worker is about to end this attempt" in explained(sched, task)[0]


def test_the_retries_of_one_under_way(sched: Sched) -> None:
    task = sched.schedule()
    sched.run(task, "FAILED", error_msg="disk is full")
    sched.clock(MINUTE)
    sched.settle(sched.claim_one())

    assert explained(sched, task)[1] == "1 of 2 retries are used; the latest error: disk is full."


# Finished


def test_a_success(sched: Sched) -> None:
    task = sched.schedule()
    sched.run(task, output_ref="s3://bucket/7")

    assert explained(sched, task) == [
        (
            "It ended with SUCCESS at 2026-03-02 12:00:00+00, in attempt 1;"
            " its output is at s3://bucket/7."
        )
    ]


def test_a_failure(sched: Sched) -> None:
    sched.define("once", max_retries=0)
    task = sched.schedule("once")
    sched.run(task, "FAILED", error_msg="disk is full.\nTraceback …")

    assert explained(sched, task)[0] == (
        "It FAILED at 2026-03-02 12:00:00+00, in attempt 1, with 0 of 0 retries used: disk is full."
        f"  select pgsched.retry_task('{task}') tries it again."
    )


def test_a_cancelled_one(sched: Sched) -> None:
    task = sched.schedule()
    sched.call("cancel_task", task, "not wanted any more")

    (only,) = explained(sched, task)
    user = sched.value("select session_user")
    assert f"It was CANCELLED at 2026-03-02 12:00:00+00 in a session of {user}: not wanted" in only
    assert f"select pgsched.retry_task('{task}') brings it back." in only


def test_one_that_the_executor_cancelled(sched: Sched) -> None:
    task = sched.schedule()
    sched.run(task, "CANCELLED", error_msg="shutting down")

    (only,) = explained(sched, task)
    assert "CANCELLED at 2026-03-02 12:00:00+00 by a report: shutting down." in only


def test_one_whose_dependency_failed(sched: Sched) -> None:
    sched.define("once", max_retries=0)
    first = sched.schedule("once")
    task = sched.schedule(depends_on=[first])
    sched.run(first, "FAILED")

    assert f"task {first}, which it depends on, is FAILED" in explained(sched, task)[0]


def test_what_has_not_been_told(sched: Sched) -> None:
    sched.define("once", max_retries=0)
    task = sched.schedule("once")
    claimed = sched.claim_one()
    sched.settle(claimed)
    sched.clock(2 * HOUR)
    sched.call("expire_deadlines")

    assert explained(sched, task)[-1] == (
        "Its external system has still to be told of 1 change of its status."
    )


# Where it comes from


def test_a_task_of_a_schedule(sched: Sched) -> None:
    cron(sched, "* * * * *")
    sched.clock(MINUTE)
    sched.tick_all()
    (task,) = sched.tasks()

    assert explained(sched, str(task.id))[-1] == (
        "Schedule 'job' made it, for 2026-03-02 12:01:00+00."
        "  select pgsched.explain_schedule('job') says more."
    )


def test_a_round_of_a_loop(sched: Sched) -> None:
    first = sched.loop(max_rounds=3)
    sched.run(first)
    (follower,) = sched.tasks("status = 'PENDING'")

    assert explained(sched, first)[-1] == (
        f"It is round 0 of a loop of 3 rounds.  Task {follower.id} followed it."
    )
    assert explained(sched, str(follower.id))[-1] == "It is round 1 of a loop of 3 rounds."


# Who may ask


def test_a_client_may_ask_about_its_own_and_no_other(sched: Sched, clocked: SharedDatabase) -> None:
    strangers = sched.schedule()
    with psycopg.connect(as_role(clocked.dsn, "client"), autocommit=True) as conn:
        client = Sched(conn)
        client.define("mine")
        assert "It is due since" in explained(client, client.schedule("mine"))[0]

        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="belongs to"):
            explained(client, strangers)


# Queues


def test_a_queue(sched: Sched) -> None:
    sched.schedule()
    sched.schedule(delay=HOUR)
    assert sched.worker

    assert str(sched.call("explain_queue", "default")).splitlines() == [
        "Nothing keeps workers from claiming what is due in queue 'default'.",
        "1 task is due in it, since 2026-03-02 12:00:00+00.",
        "1 come later, 0 wait for other tasks, 0 are in flight.",
    ]


def test_a_queue_that_stands_still(sched: Sched) -> None:
    sched.call("pause_queue", "default")

    assert str(sched.call("explain_queue", "default")).splitlines()[:3] == [
        "Queue 'default' is paused.  select pgsched.resume_queue('default') ends that.",
        NOBODY,
        "No task is due in it.",
    ]


def test_no_such_queue(sched: Sched) -> None:
    with pytest.raises(psycopg.Error, match="queue 'none' does not exist"):
        sched.call("explain_queue", "none")


def test_errors_that_are_alike_have_one_fingerprint(sched: Sched) -> None:
    fingerprint: Callable[[str], str] = lambda error: str(  # noqa: E731
        sched.call("error_fingerprint", error)
    )

    assert fingerprint("no user 17 at 10.0.0.1") == "no user # at #"
    assert fingerprint("HTTP 503: try in 30 s") == "HTTP 503: try in # s"
    assert fingerprint("task 01a209e1-320a-74d0-b816-1c9ee5a47a28 is gone\nTraceback") == (
        "task # is gone"
    )
    assert fingerprint("object at 0x7f3a9c001d20") == "object at #"
    assert fingerprint("the deadbeef facade defaced") == "the deadbeef facade defaced"
    assert len(fingerprint("x" * 1000)) == 200
