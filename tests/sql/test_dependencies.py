"""Tasks that wait for others: what lets them run, what cancels them, and what nobody saw."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from uuid import uuid4

import psycopg
import pytest

from tests.sql.sched import HOUR, MINUTE, Sched

EDGES = "select count(*) from pgsched.task_dependencies"


@pytest.fixture(autouse=True)
def definitions(sched: Sched) -> None:
    """`job` is tried once and cancelled with what it waits for; `stubborn` runs all the same."""
    sched.define(max_retries=0)
    sched.define("stubborn", max_retries=0, on_dependency_failure="run")


def after(sched: Sched, *task_ids: str, definition: str = "job", **named: object) -> str:
    return sched.schedule(definition, depends_on=list(task_ids), **named)


def end(sched: Sched, task_id: str, status: str = "SUCCESS") -> None:
    """Have it end so, whether it was claimed or not."""
    if status == "CANCELLED":
        sched.call("cancel_task", task_id)
        return
    if sched.task(task_id).delivery_count == 0:
        for claimed in sched.claim():
            sched.settle(claimed)
    sched.report(task_id, status)


def claimable(sched: Sched) -> set[str]:
    return {claimed.id for claimed in sched.claim()}


def ended(task_id: str, status: str) -> str:
    return f"task {task_id}, which it depends on, is {status}"


def refusal(call: Callable[[], object]) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        call()
    return caught.value


# All have to succeed


def test_a_task_is_due_when_all_it_depends_on_are_success(sched: Sched) -> None:
    first, second = sched.schedule(), sched.schedule()
    task_id = after(sched, first, second)

    assert claimable(sched) == {first, second}
    sched.report(first, "SUCCESS")
    assert sched.task(task_id).pending_dependencies == 1
    assert claimable(sched) == set()
    sched.report(second, "SUCCESS")

    assert claimable(sched) == {task_id}
    assert sched.value(EDGES) == 0


@pytest.mark.parametrize(
    ("function", "named"),
    [
        ("schedule_immediate", {}),
        ("schedule_delayed", {"delay": MINUTE}),
        ("schedule_at", {"scheduled_time": "2026-03-02 12:01+00"}),
        ("schedule_loop", {"max_rounds": 1}),
        ("trigger_loop_once", {}),
    ],
)
def test_every_way_to_schedule_takes_dependencies(
    sched: Sched, function: str, named: dict[str, object]
) -> None:
    first = sched.schedule()
    task_id = sched.call(function, "job", depends_on=[first], **named)
    sched.clock(HOUR)

    assert claimable(sched) == {first}
    sched.report(first, "SUCCESS")
    assert claimable(sched) == {task_id}


def test_a_task_is_not_due_before_its_own_time(sched: Sched) -> None:
    first = sched.schedule()
    task_id = after(sched, first, delay=HOUR)
    sched.run(first)

    assert claimable(sched) == set()
    sched.clock(HOUR)
    assert claimable(sched) == {task_id}


def test_a_task_waits_while_another_is_retried(sched: Sched) -> None:
    sched.define("again", max_retries=1, retry_delay=MINUTE)
    first = sched.schedule("again")
    task_id = after(sched, first)

    sched.run(first, "FAILED")
    assert sched.status(task_id) == "PENDING"
    sched.clock(HOUR)
    sched.run(first)

    assert claimable(sched) == {task_id}


def test_only_the_first_round_of_a_loop_waits(sched: Sched) -> None:
    first = sched.schedule()
    loop_id = sched.loop(max_rounds=2, depends_on=[first])
    sched.run(first)
    sched.run(loop_id)

    (following,) = sched.tasks("round_index = 1")
    assert (following.depends_on, following.pending_dependencies) == (None, 0)
    assert following.on_dependency_failure is None


def test_a_dependency_that_is_success_already_is_not_waited_for(sched: Sched) -> None:
    first = sched.schedule()
    sched.run(first)

    task_id = after(sched, first)

    assert sched.value(EDGES) == 0
    assert claimable(sched) == {task_id}


def test_duplicates_count_once(sched: Sched) -> None:
    first = sched.schedule()
    task_id = after(sched, first, first, first)

    assert sched.task(task_id).pending_dependencies == 1
    sched.run(first)
    assert claimable(sched) == {task_id}


def test_no_dependencies_are_none(sched: Sched) -> None:
    task_id = sched.call("schedule_immediate", "job", depends_on=[])

    task = sched.task(task_id)
    assert (task.depends_on, task.on_dependency_failure) == (None, None)
    assert claimable(sched) == {task_id}


def test_a_fan_of_a_thousand_comes_together_again(sched: Sched) -> None:
    top = sched.schedule()
    query = "select pgsched.schedule_immediate('job', p_depends_on => array[%s::uuid])::text as id"
    middle = {row.id for row in sched.rows(f"{query} from generate_series(1, 1000)", top)}
    bottom = after(sched, *middle)

    sched.run(top)
    claimed = sched.claim(1000)
    assert {row.id for row in claimed} == middle
    done = [{"task_id": task_id, "status": "SUCCESS"} for task_id in middle]
    sched.report_many(*done[1:])
    assert sched.task(bottom).pending_dependencies == 1
    assert claimable(sched) == set()
    sched.report_many(done[0])

    assert claimable(sched) == {bottom}
    assert sched.value(EDGES) == 0


# What is refused


def test_an_unknown_task_is_named(sched: Sched) -> None:
    unknown, known = str(uuid4()), sched.schedule()

    error = refusal(lambda: after(sched, known, unknown))

    assert error.sqlstate == "PS404"
    assert error.diag.message_primary == f"p_depends_on: task {unknown} does not exist"
    assert sched.value(EDGES) == 0


def test_null_is_no_task(sched: Sched) -> None:
    query = "select pgsched.schedule_immediate('job', p_depends_on => array[%s::uuid, null])"

    error = refusal(lambda: sched.value(query, sched.schedule()))

    assert error.sqlstate == "PS422"
    assert error.diag.message_primary == "p_depends_on must not hold null"


@pytest.mark.parametrize("status", ["FAILED", "CANCELLED"])
def test_what_has_failed_already_is_refused_until_it_is_retried(sched: Sched, status: str) -> None:
    first = sched.schedule()
    end(sched, first, status)

    error = refusal(lambda: after(sched, first))

    assert error.sqlstate == "PS409"
    assert error.diag.message_primary == f"p_depends_on: task {first} is {status}"
    sched.call("retry_task", first)
    task_id = after(sched, first)
    assert sched.task(task_id).pending_dependencies == 1


@pytest.mark.parametrize("status", ["FAILED", "CANCELLED"])
def test_what_has_failed_already_does_not_hold_up_one_that_runs_all_the_same(
    sched: Sched, status: str
) -> None:
    first = sched.schedule()
    end(sched, first, status)

    task_id = after(sched, first, definition="stubborn")

    assert claimable(sched) == {task_id}


def test_a_policy_nobody_knows_is_refused(sched: Sched) -> None:
    error = refusal(lambda: sched.define("odd", on_dependency_failure="wait"))

    assert error.sqlstate == "PS422"
    assert "on_dependency_failure" in str(error)


# One does not succeed


@pytest.mark.parametrize("status", ["FAILED", "CANCELLED"])
def test_a_task_is_cancelled_with_what_it_depends_on(sched: Sched, status: str) -> None:
    first, other = sched.schedule(), sched.schedule()
    task_id = after(sched, first, other)

    end(sched, first, status)

    task = sched.task(task_id)
    assert (task.status, task.error_msg) == ("CANCELLED", ended(first, status))
    assert task.cancelled_at == sched.now
    assert sched.events(task_id) == ["CANCELLED"]
    assert sched.value(EDGES) == 0  # nor does it wait for the other
    assert sched.status(other) != "CANCELLED"


@pytest.mark.parametrize("status", ["FAILED", "CANCELLED"])
def test_one_that_runs_all_the_same_waits_for_the_rest(sched: Sched, status: str) -> None:
    first, other = sched.schedule(), sched.schedule()
    task_id = after(sched, first, other, definition="stubborn")

    end(sched, first, status)
    claimed = claimable(sched)
    assert task_id not in claimed
    assert sched.task(task_id).pending_dependencies == 1
    end(sched, other)

    assert claimable(sched) == {task_id}


def test_the_policy_is_that_of_when_it_was_scheduled(sched: Sched) -> None:
    first = sched.schedule()
    task_id = after(sched, first)
    sched.define(on_dependency_failure="run")

    end(sched, first, "CANCELLED")

    assert sched.status(task_id) == "CANCELLED"


def test_a_chain_is_cancelled_level_by_level(sched: Sched) -> None:
    chain = [sched.schedule()]
    with sched.conn.transaction():
        for _ in range(1000):
            chain.append(after(sched, chain[-1]))

    end(sched, chain[0], "FAILED")

    tasks = {str(task.id): task for task in sched.tasks()}
    assert {tasks[task_id].status for task_id in chain[1:]} == {"CANCELLED"}
    assert tasks[chain[1]].error_msg == ended(chain[0], "FAILED")
    assert tasks[chain[2]].error_msg == ended(chain[1], "CANCELLED")
    assert tasks[chain[1000]].error_msg == ended(chain[999], "CANCELLED")
    assert sched.value(EDGES) == 0


def test_a_chain_ends_at_one_that_runs_all_the_same(sched: Sched) -> None:
    first = sched.schedule()
    second = after(sched, first)
    third = after(sched, second, definition="stubborn")
    fourth = after(sched, third)

    end(sched, first, "CANCELLED")

    assert sched.status(second) == "CANCELLED"
    assert claimable(sched) == {third}
    assert sched.status(fourth) == "PENDING"


def test_a_diamond_is_cancelled_once(sched: Sched) -> None:
    top = sched.schedule()
    left, right = after(sched, top), after(sched, top)
    bottom = after(sched, left, right)

    end(sched, top, "CANCELLED")

    first = min(left, right)
    assert sched.task(bottom).error_msg == ended(first, "CANCELLED")
    assert sched.events(bottom) == ["CANCELLED"]
    assert sched.value(EDGES) == 0


# What nobody saw


@pytest.mark.parametrize("status", ["SUCCESS", "FAILED", "CANCELLED"])
@pytest.mark.parametrize("definition", ["job", "stubborn"])
def test_one_that_ends_while_the_other_is_scheduled_is_found_ended(
    sched: Sched, another: Sched, definition: str, status: str
) -> None:
    """Neither sees the other, and neither waits."""
    first = sched.schedule()
    if status != "CANCELLED":
        sched.settle(sched.claim_one())
    another.conn.execute("set lock_timeout = '1s'")

    with sched.conn.transaction():
        task_id = after(sched, first, definition=definition)
        end(another, first, status)

    assert claimable(sched) == set()  # nobody has told it
    assert sched.call("resolve_dependencies") == 1
    if definition == "job" and status != "SUCCESS":
        task = sched.task(task_id)
        assert (task.status, task.error_msg) == ("CANCELLED", ended(first, status))
    else:
        assert claimable(sched) == {task_id}
    assert sched.call("resolve_dependencies") == 0


def test_the_poll_goes_on_to_what_waits_for_what_it_cancels(sched: Sched, another: Sched) -> None:
    first = sched.schedule()
    with sched.conn.transaction():
        second = after(sched, first)
        third = after(sched, second)
        end(another, first, "CANCELLED")

    sched.call("resolve_dependencies")

    assert sched.task(third).error_msg == ended(second, "CANCELLED")
    assert sched.value(EDGES) == 0


def test_a_dependency_that_the_record_has_forgotten_has_failed(
    sched: Sched, another: Sched
) -> None:
    first = sched.schedule()
    with sched.conn.transaction():
        task_id = after(sched, first)
        another.run(first)
    sched.conn.execute("delete from pgsched.task_instances")

    assert sched.call("resolve_dependencies") == 1

    task = sched.task(task_id)
    assert task.status == "CANCELLED"
    assert task.error_msg == ended(first, "not in the record any more")


@pytest.mark.parametrize("status", ["SUCCESS", "CANCELLED"])
def test_a_task_that_a_stranger_has_locked_is_left_for_the_poll(
    sched: Sched, another: Sched, status: str
) -> None:
    first = sched.schedule()
    task_id, free = after(sched, first), after(sched, first)
    sched.conn.execute("set lock_timeout = '1s'")

    with another.transaction():
        query = "select from pgsched.scheduled_tasks where id = %s for update"
        another.conn.execute(query, [task_id])
        end(sched, first, status)
        assert sched.call("resolve_dependencies") == 1
        assert sched.task(task_id).pending_dependencies == 1
        assert claimable(sched) == ({free} if status == "SUCCESS" else set())

    assert sched.call("resolve_dependencies") == 1
    if status == "SUCCESS":
        assert claimable(sched) == {task_id}
    else:
        assert sched.task(task_id).error_msg == ended(first, "CANCELLED")


def test_one_that_was_retried_before_the_poll_came_is_waited_for(
    sched: Sched, another: Sched
) -> None:
    first = sched.schedule()
    with sched.conn.transaction():
        task_id = after(sched, first)
        end(another, first, "CANCELLED")
    sched.call("retry_task", first)

    assert sched.call("resolve_dependencies") == 0
    assert sched.call("unblock_tasks", [first], sched.now) == "{}"
    sched.run(first)

    assert claimable(sched) == {task_id}


# An operator's retry


def test_a_retry_waits_again_for_what_is_unfinished(sched: Sched) -> None:
    first, other = sched.schedule(), sched.schedule()
    task_id = after(sched, first, other)
    end(sched, first, "FAILED")
    sched.call("retry_task", first)

    sched.call("retry_task", task_id)

    assert sched.task(task_id).pending_dependencies == 2
    assert claimable(sched) == {first}
    sched.report(first, "SUCCESS")
    sched.report(other, "SUCCESS")
    assert claimable(sched) == {task_id}
    assert sched.value(EDGES) == 0


def test_a_retry_is_refused_while_what_it_depends_on_has_failed(sched: Sched) -> None:
    first = sched.schedule()
    second = after(sched, first)
    third = after(sched, second)
    end(sched, first, "FAILED")

    error = refusal(lambda: sched.call("retry_task", third))

    assert error.sqlstate == "PS409"
    wanted = f"task {third} cannot be retried: task {second} is CANCELLED"
    assert error.diag.message_primary == wanted
    assert sched.status(third) == "CANCELLED"
    for task_id in (first, second, third):
        sched.call("retry_task", task_id)
    for task_id in (first, second, third):
        sched.run(task_id)


def test_a_retry_of_one_that_runs_all_the_same_does_not_wait(sched: Sched) -> None:
    first = sched.schedule()
    task_id = after(sched, first, definition="stubborn")
    end(sched, task_id, "CANCELLED")
    end(sched, first, "CANCELLED")

    sched.call("retry_task", task_id)

    assert claimable(sched) == {task_id}


def test_a_retry_is_counted_right_when_it_was_cancelled_while_it_waited(sched: Sched) -> None:
    first = sched.schedule()
    task_id = after(sched, first)
    end(sched, task_id, "CANCELLED")

    sched.call("retry_task", task_id)

    assert sched.task(task_id).pending_dependencies == 1
    sched.run(first)
    assert claimable(sched) == {task_id}


def test_a_retry_does_not_wait_for_what_the_record_has_forgotten(sched: Sched) -> None:
    first = sched.schedule()
    task_id = after(sched, first)
    sched.run(first)
    sched.run(task_id, "FAILED")
    sched.conn.execute(b"delete from pgsched.task_instances where id = %s", [first])

    sched.call("retry_task", task_id)

    assert claimable(sched) == {task_id}


def test_what_was_cancelled_because_of_a_task_stays_so_when_that_is_retried(sched: Sched) -> None:
    first = sched.schedule()
    task_id = after(sched, first)
    end(sched, first, "FAILED")

    sched.call("retry_task", first)
    sched.run(first)

    assert sched.status(task_id) == "CANCELLED"


# The same key, by many at once


def test_of_sixteen_callers_with_the_same_key_all_get_the_same_task(
    sched: Sched, connect: Callable[[], Sched]
) -> None:
    first = sched.schedule()
    callers = [connect() for _ in range(16)]
    ready = Barrier(len(callers))

    def enqueue(caller: Sched) -> str:
        ready.wait(30)
        return after(caller, first, idempotency_key="k")

    with ThreadPoolExecutor(len(callers)) as pool:
        made = list(pool.map(enqueue, callers))

    assert len(set(made)) == 1
    assert [str(task.id) for task in sched.tasks("pending_dependencies > 0")] == made[:1]
    assert sched.value(EDGES) == 1
