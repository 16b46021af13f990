"""An open transaction of a stranger stalls nobody: the others proceed, the locked one is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests.sql.sched import HOUR, Background, Sched, settlement

OUTCOMES = ["ACCEPTED", "DEFERRED", "RELEASED", "RETRY", "RETRY_SAME", "RETRY_LAPSED", "REFUSED"]

# What locks a row of the configuration, which claims read.
CONFIGURING = [
    ("define_external_system", ["default", "http://crm.example"]),
    ("define_queue", ["default"]),
    ("pause_queue", ["default"]),
    ("resume_queue", ["default"]),
]


@pytest.fixture
def stranger(another: Sched, sched: Sched) -> Sched:
    """The session whose transaction stays open; nobody may wait for it for long."""
    sched.conn.execute("set lock_timeout = '2s'")
    return another


@pytest.fixture
def impatient(sched: Sched) -> Iterator[None]:
    """Single calls give up a lock after 50 ms here, not 5 s."""
    functions = ["report_status", "lock_task", *(call for call, _ in CONFIGURING)]
    for name in functions:
        sched.conn.execute(f"alter function pgsched.{name} set lock_timeout = '50ms'".encode())
    yield
    for name in functions:
        sched.conn.execute(f"alter function pgsched.{name} set lock_timeout = '5s'".encode())


def test_single_calls_wait_five_seconds_and_no_longer(sched: Sched) -> None:
    """What the other tests of this file replace."""
    waits = sched.rows(
        "select p.proname::text from pg_proc as p where p.pronamespace = 'pgsched'::regnamespace"
        " and 'lock_timeout=5s' = any (p.proconfig) order by 1"
    )

    names = {call for call, _ in CONFIGURING}
    assert {row.proname for row in waits} >= {"lock_task", "report_status"} | names


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_settle_answers_locked_and_settles_the_others(
    sched: Sched, stranger: Sched, outcome: str
) -> None:
    locked, free = sched.schedule(), sched.schedule()
    claimed = {row.id: row for row in sched.claim()}
    batch = [settlement(claimed[task_id], outcome) for task_id in (locked, free)]

    with stranger.transaction():
        stranger.call("cancel_task", locked)
        assert sched.settle_many(*batch) == {locked: "LOCKED"}

    after = "DISPATCHED" if outcome == "ACCEPTED" else "PENDING"
    assert sched.status(locked) == "SCHEDULED"
    assert sched.status(free) == ("FAILED" if outcome == "REFUSED" else after)
    assert sched.settle_many(batch[0]) == {}
    assert sched.status(locked) == sched.status(free)


def test_a_locked_task_leaves_no_event_of_refusal(sched: Sched, stranger: Sched) -> None:
    task_id = sched.schedule()
    claimed = sched.claim_one()
    with stranger.transaction():
        stranger.call("cancel_task", task_id)
        sched.settle(claimed)
        sched.report_many({"task_id": task_id, "status": "SUCCESS"})

    assert sched.events(task_id) == []


@pytest.mark.parametrize("status", ["RUNNING", "SUCCESS", "FAILED", "CANCELLED"])
def test_a_list_of_reports_answers_locked_and_applies_the_others(
    sched: Sched, stranger: Sched, status: str
) -> None:
    locked, free = sched.schedule(), sched.schedule()
    for claimed in sched.claim():
        sched.settle(claimed)
    reports = [{"task_id": task_id, "status": status} for task_id in (locked, free)]

    with stranger.transaction():
        stranger.call("cancel_task", locked)
        answers = sched.report_many(*reports)

    assert [answer.code for answer in answers] == ["LOCKED", None]
    assert sched.status(locked) == "DISPATCHED"
    assert sched.report_many(reports[0])[0].status == sched.status(free)


@pytest.mark.parametrize("state", ["SCHEDULED", "DISPATCHED"])
def test_deadlines_of_others_expire(sched: Sched, stranger: Sched, state: str) -> None:
    locked, free = sched.schedule(), sched.schedule()
    for claimed in sched.claim():
        if state == "DISPATCHED":
            sched.settle(claimed)
    sched.clock(2 * HOUR)

    with stranger.transaction():
        stranger.call("cancel_task", locked)
        assert sched.call("expire_deadlines") == 1
        assert [sched.status(t) for t in (locked, free)] == [state, "PENDING"]

    assert sched.call("expire_deadlines") == 1
    assert sched.status(locked) == "PENDING"


def test_a_locked_task_does_not_use_up_the_limit_of_expire_deadlines(
    sched: Sched, stranger: Sched
) -> None:
    locked, free = sched.schedule(), sched.schedule()
    sched.claim()
    sched.clock(2 * HOUR)

    with stranger.transaction():
        stranger.call("cancel_task", locked)
        assert sched.call("expire_deadlines", 1) == 1

    assert sched.status(free) == "PENDING"


@pytest.mark.parametrize("by", ["goodbye", "lease"])
def test_what_a_worker_held_is_released_but_for_the_locked(
    sched: Sched, stranger: Sched, by: str
) -> None:
    worker = sched.register()
    locked, free = sched.schedule(), sched.schedule()
    sched.claim(worker=worker)
    for _ in range(4 if by == "lease" else 0):
        sched.call("heartbeat", sched.worker)
        sched.clock(HOUR / 360)  # ten seconds

    with stranger.transaction():
        stranger.call("cancel_task", locked)
        if by == "goodbye":
            assert sched.call("release_worker", worker) == 1
        else:
            assert sched.call("release_dead_workers", sched.worker) == 1
        assert [sched.status(t) for t in (locked, free)] == ["SCHEDULED", "PENDING"]

    # The next pass has it, or in the end its own deadline.
    if by == "lease":
        assert sched.call("release_dead_workers", sched.worker) == 1
    else:
        sched.clock(HOUR)
        assert sched.call("expire_deadlines") == 1
    assert sched.status(locked) == "PENDING"


@pytest.mark.parametrize("first", ["cancel_task", "settle", "report", "claim"])
@pytest.mark.parametrize("then", ["schedule", "claim", "cancel", "loop", "next_due_in", "maintain"])
def test_what_one_session_does_to_a_task_is_nothing_to_the_work_on_others(
    sched: Sched, stranger: Sched, first: str, then: str
) -> None:
    locked = sched.schedule()
    claimed = sched.claim_one() if first in ("settle", "report") else None
    doings: dict[str, Callable[[], object]] = {
        "cancel_task": lambda: stranger.call("cancel_task", locked),
        "settle": lambda: stranger.settle(claimed),
        "report": lambda: stranger.report(locked, "SUCCESS"),
        "claim": stranger.claim_one,
        "schedule": sched.schedule,
        "loop": lambda: sched.call("stop_loop", sched.loop()),
        "next_due_in": lambda: sched.call("next_due_in"),
        "maintain": lambda: sched.call("maintain"),
    }
    other = sched.schedule()
    doings |= {"cancel": lambda: sched.call("cancel_task", other)}
    stranger.conn.execute("begin")
    if first == "claim":
        assert len(stranger.claim(1)) == 1
    else:
        doings[first]()

    if then == "claim":
        assert len(sched.claim()) == 1
    elif (first, then) == ("claim", "cancel"):
        sched.call("cancel_task", sched.schedule())
    else:
        doings[then]()
    stranger.conn.execute("rollback")


def test_enqueues_and_upserts_do_not_wait_for_each_other(sched: Sched, stranger: Sched) -> None:
    with stranger.transaction():
        stranger.schedule(idempotency_key="a")
        stranger.loop()
        stranger.call("pause_queue", "default")
        sched.schedule(idempotency_key="b")
        sched.loop()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("call", ["report_status", "cancel_task", "stop_loop", "retry_task"])
def test_a_single_call_gives_up_the_locked_task_with_a_conflict(
    sched: Sched, stranger: Sched, call: str
) -> None:
    task_id = sched.loop()
    sched.claim_one()
    arguments = ["SUCCESS"] if call == "report_status" else []

    with stranger.transaction():
        stranger.call("cancel_task", task_id)
        with pytest.raises(psycopg.Error, match=f"{task_id} is locked") as refused:
            sched.call(call, task_id, *arguments)

    assert refused.value.sqlstate == "PS409"
    assert sched.status(task_id) == "SCHEDULED"


@pytest.mark.usefixtures("impatient")
def test_a_retry_gives_up_the_record_that_another_retries(sched: Sched, stranger: Sched) -> None:
    task_id = sched.schedule()
    sched.call("cancel_task", task_id)
    sched.conn.execute("alter function pgsched.retry_task set lock_timeout = '50ms'")

    try:
        with stranger.transaction():
            stranger.call("retry_task", task_id)
            with pytest.raises(psycopg.Error) as refused:
                sched.call("retry_task", task_id)
    finally:
        sched.conn.execute("alter function pgsched.retry_task reset lock_timeout")

    assert refused.value.sqlstate == "PS409"


def test_a_retry_takes_the_task_that_ended_while_it_was_waited_for(
    sched: Sched, another: Sched
) -> None:
    task_id = sched.schedule()
    sched.claim_one()
    sched.conn.execute("begin")
    sched.call("cancel_task", task_id)
    retry = Background(another.conn, lambda: another.call("retry_task", task_id))
    retry.wait_until_blocked(sched)
    sched.conn.execute("commit")

    assert retry.result() == "PENDING"
    assert sched.status(task_id) == "PENDING"


def test_the_end_of_a_task_that_is_being_retried_is_not_told_after_its_retry(
    sched: Sched, stranger: Sched
) -> None:
    task_id = sched.schedule()
    claimed = sched.claim_one()
    sched.call("cancel_task", task_id)
    stranger.conn.execute("begin")
    stranger.call("retry_task", task_id)

    assert sched.settle(claimed) == "LOCKED"

    stranger.conn.execute("commit")
    assert sched.settle(claimed) == "STALE"
    assert sched.says(task_id) == ["CANCELLED 1", "PENDING 2"]


@pytest.mark.parametrize("ends_by", ["settle", "report"])
def test_a_dependent_that_is_being_retried_is_not_waited_for(
    sched: Sched, stranger: Sched, ends_by: str
) -> None:
    first = sched.schedule()
    dependent = sched.schedule(depends_on=[first])
    claimed = sched.claim_one()
    sched.call("cancel_task", dependent)

    with stranger.transaction():
        stranger.call("retry_task", dependent)
        if ends_by == "settle":
            sched.settle(claimed, "REFUSED")
        else:
            sched.report_many({"task_id": first, "status": "SUCCESS"})
        sched.call("resolve_dependencies")

    sched.call("resolve_dependencies")
    assert sched.rows("select from pgsched.task_dependencies") == []
    assert sched.status(dependent) == "CANCELLED"


def test_a_dependent_that_was_being_retried_runs_in_the_end(sched: Sched, stranger: Sched) -> None:
    first = sched.schedule()
    dependent = sched.schedule(depends_on=[first])
    sched.claim_one()
    sched.call("cancel_task", dependent)
    stranger.conn.execute("begin")
    stranger.call("retry_task", dependent)
    sched.report(first, "SUCCESS")
    stranger.conn.execute("commit")
    assert sched.claim() == []

    sched.call("resolve_dependencies")

    assert sched.claim_one().id == dependent


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("call", "arguments"), CONFIGURING, ids=[c for c, _ in CONFIGURING])
def test_configuration_that_another_session_holds_is_named(
    sched: Sched, stranger: Sched, call: str, arguments: list[str]
) -> None:
    with stranger.transaction():
        stranger.call("define_external_system", "default", "http://other.example")
        stranger.call("pause_queue", "default")
        with pytest.raises(psycopg.Error, match="'default' is locked by another session") as caught:
            sched.call(call, *arguments)

    assert caught.value.sqlstate == "PS409"
    sched.call(call, *arguments)
