"""One bad row must not stop a batch, a queue, or the workers."""

from __future__ import annotations

import psycopg
import pytest

from tests.sql.sched import HOUR, Sched


def orphan(sched: Sched) -> str:
    """A task whose definition was deleted while the enqueue had not committed."""
    sched.define("gone")
    task_id = sched.schedule("gone", priority=1)  # first in line
    sched.conn.execute("set session_replication_role = replica")
    sched.conn.execute("delete from pgsched.task_definitions where name = 'gone'")
    sched.conn.execute("reset session_replication_role")
    return task_id


def test_a_task_without_a_definition_ends_and_takes_no_place_in_the_next_claim(
    sched: Sched,
) -> None:
    lost, other = orphan(sched), sched.schedule()

    assert sched.claim(1) == []

    task = sched.task(lost)
    assert (task.status, task.error_msg) == ("FAILED", "its definition does not exist any more")
    assert [t.id for t in sched.claim(1)] == [other]


def test_a_task_without_a_definition_cannot_be_retried(sched: Sched) -> None:
    lost = orphan(sched)
    sched.claim(1)

    with pytest.raises(psycopg.Error, match="definition") as refused:
        sched.call("retry_task", lost)

    assert refused.value.sqlstate == "PS409"
    assert sched.status(lost) == "FAILED"


def test_rounds_may_be_counted_in_any_way_that_json_writes_a_whole_number(sched: Sched) -> None:
    sched.conn.execute(
        "select pgsched.schedule_loop('job', p_schedule_config => '{\"max_rounds\": 2.0}')"
    )
    for _ in range(2):
        sched.report(sched.claim_one().id, "SUCCESS")

    assert sched.claim() == []


def test_what_a_definition_says_about_rounds_is_checked_too(sched: Sched) -> None:
    sched.define("odd", schedule_config={"max_rounds": "many"})

    with pytest.raises(psycopg.Error, match="max_rounds") as refused:
        sched.call("schedule_loop", "odd")

    assert refused.value.sqlstate == "PS422"


@pytest.mark.parametrize(
    "change", ["delete from pgsched.queues", "update pgsched.queues set name = 'b'"]
)
@pytest.mark.parametrize("is_claimed", [False, True])
def test_a_queue_with_unfinished_tasks_stays(sched: Sched, change: str, is_claimed: bool) -> None:
    sched.call("define_queue", "a")
    sched.schedule(queue="a")
    if is_claimed:
        sched.claim()

    with pytest.raises(psycopg.Error, match="unfinished tasks") as refused:
        sched.conn.execute(f"{change} where name = 'a'".encode())

    assert refused.value.sqlstate == "PS409"


def test_a_timeout_that_no_clock_can_show_is_refused(sched: Sched) -> None:
    with pytest.raises(psycopg.Error, match="timeout") as refused:
        sched.define("long", timeout=HOUR * 24 * 366 * 11)

    assert refused.value.sqlstate == "PS422"


@pytest.mark.parametrize("zone", ["America/Juneau", "Pacific/Kiritimati"])
@pytest.mark.parametrize("at", ["0001-01-01", "9999-12-31 23:59"])
def test_a_time_that_a_worker_could_not_read_is_refused(sched: Sched, zone: str, at: str) -> None:
    sched.conn.execute(f"set timezone = '{zone}'".encode())

    with pytest.raises(psycopg.Error, match="p_scheduled_time") as refused:
        sched.conn.execute("select pgsched.schedule_at('job', %s::timestamptz)", [at])

    assert refused.value.sqlstate == "PS422"
