"""LifecycleService: tasks begun in one go, and the reports that come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pgsched import reports
from pgsched.errors import Conflict, Invalid, NotFound
from pgsched.lifecycle import LifecycleService
from pgsched.models import StatusReport, TaskStatus
from pgsched.scheduler import SchedulerService
from pgsched.storing import without_nul
from tests.executing import dispatch_due, dispatched_task, events_of, task_row
from tests.roles import as_role
from tests.waiting import eventually

Connection = psycopg.AsyncConnection[Any]

MINUTE = timedelta(minutes=1)
TOMORROW = datetime.now(UTC) + timedelta(days=1)
NOBODY = "01980000-0000-7000-8000-000000000000"

lifecycle = LifecycleService()
scheduler = SchedulerService()


@pytest.fixture
async def conn(dsn: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(
        as_role(dsn, "operator"), autocommit=True
    ) as connection:
        yield connection


async def schedules(conn: Connection) -> dict[str, tuple[str, str]]:
    """The expression and the zone of each schedule, by its id."""
    query = "select id::text, cron_expr, timezone from pgsched.schedules"
    return {row[0]: row[1:] async for row in await conn.execute(query)}


# Ad hoc


@pytest.mark.parametrize(
    ("task_type", "timing", "expected"),
    [
        ("ONCE", {}, "IMMEDIATE"),
        ("IMMEDIATE", {}, "IMMEDIATE"),
        ("DELAY", {"delay": MINUTE}, "DELAYED"),
        ("DELAYED", {"scheduled_time": TOMORROW}, "DELAYED"),
        ("LOOP", {"max_rounds": 2}, "LOOP"),
        ("LOOP", {"loop_interval": MINUTE}, "INTERVAL_LOOP"),
        ("INTERVAL_LOOP", {"loop_interval": MINUTE}, "INTERVAL_LOOP"),
        ("INTERVAL_LOOP", {"schedule_config": {"loop_interval": 60}}, "INTERVAL_LOOP"),
        ("LOOP_ONCE", {}, "LOOP_ONCE"),
    ],
)
async def test_an_ad_hoc_task_is_defined_and_scheduled_in_one_go(
    dsn: str, conn: Connection, task_type: str, timing: dict[str, Any], expected: str
) -> None:
    task_id = await lifecycle.submit_ad_hoc_task(
        conn, "once", {"do": "it"}, task_type, input_params={"n": 1}, priority=3, **timing
    )

    task = task_row(dsn, task_id)
    assert (task["schedule_type"], task["priority"]) == (expected, 3)
    assert task["input_params"] == {"n": 1}
    query = "select name, content, is_temporary from pgsched.task_definitions where id = %s"
    cursor = await conn.execute(query, [task["definition_id"]])
    assert await cursor.fetchone() == ("once", {"do": "it"}, True)


async def test_an_ad_hoc_task_may_depend_on_another(dsn: str, conn: Connection) -> None:
    first = await lifecycle.submit_ad_hoc_task(conn, "once")

    task_id = await lifecycle.submit_ad_hoc_task(
        conn, "once", depends_on=[first], on_dependency_failure="run"
    )

    task = task_row(dsn, task_id)
    assert [str(one) for one in task["depends_on"]] == [first]
    assert (task["pending_dependencies"], task["on_dependency_failure"]) == (1, "run")


async def test_ad_hoc_tasks_may_share_a_name(conn: Connection) -> None:
    first = await lifecycle.submit_ad_hoc_task(conn, "once")

    assert await lifecycle.submit_ad_hoc_task(conn, "once") != first


async def test_an_ad_hoc_cron_leaves_the_schedule_of_that_name_alone(conn: Connection) -> None:
    await scheduler.define_task(conn, "report")
    regular = await scheduler.schedule_cron(conn, "report", "0 3 * * *")

    extra = await lifecycle.submit_ad_hoc_task(
        conn, "report", task_type="CRON", cron_expression="0 4 * * *", timezone="Europe/Paris"
    )

    assert await schedules(conn) == {
        regular: ("0 3 * * *", "UTC"),
        extra: ("0 4 * * *", "Europe/Paris"),
    }


@pytest.mark.parametrize(
    ("task_type", "options", "field"),
    [
        ("OFTEN", {}, "task_type"),
        (None, {}, "task_type"),
        ([], {}, "task_type"),
        ("ONCE", {"delay": MINUTE}, "delay"),
        ("ONCE", {"max_rounds": 3}, "max_rounds"),
        ("ONCE", {"idempotency_key": 5}, "idempotency_key"),
        ("ONCE", {"retries": 3}, "retries"),
        ("ONCE", {"max_retries": -1}, "max_retries"),
        ("DELAY", {}, "delay"),
        ("DELAY", {"delay": -MINUTE}, "delay"),
        ("CRON", {}, "cron_expression"),
        ("CRON", {"cron_expression": "@daily", "depends_on": [NOBODY]}, "depends_on"),
        ("CRON", {"cron_expression": "nonsense"}, "cron_expr"),
        ("LOOP", {"max_rounds": 0}, "max_rounds"),
        ("LOOP", {"schedule_config": 5}, "schedule_config"),
        ("INTERVAL_LOOP", {}, "loop_interval"),
        ("INTERVAL_LOOP", {"loop_interval": timedelta(0)}, "loop_interval"),
        ("INTERVAL_LOOP", {"loop_interval": 60}, "loop_interval"),
    ],
)
async def test_what_makes_no_sense_for_the_type_is_named(
    conn: Connection, task_type: Any, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(Invalid, match=field):
        await lifecycle.submit_ad_hoc_task(conn, "once", None, task_type, **options)


# Traces


async def test_a_new_trace_is_given_to_its_first_task(dsn: str, conn: Connection) -> None:
    await scheduler.define_task(conn, "job")

    trace_id, task_id = await lifecycle.start_new_trace(conn, "job", input_params={"n": 1})
    other_trace, _ = await lifecycle.start_new_trace(conn, "job", "DELAY", delay=MINUTE)

    assert trace_id != other_trace
    task = task_row(dsn, task_id)
    assert (str(task["trace_id"]), task["input_params"]) == (trace_id, {"n": 1})


async def test_a_new_trace_cannot_be_an_old_one(conn: Connection) -> None:
    with pytest.raises(Invalid, match="trace_id"):
        await lifecycle.start_new_trace(conn, "job", trace_id=NOBODY)


# By id


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "IMMEDIATE"),
        ({"schedule_type": "DELAYED", "schedule_config": {"delay_seconds": 60}}, "DELAYED"),
        ({"schedule_type": "LOOP", "loop_config": {"max_rounds": 3}}, "LOOP"),
        ({"schedule_type": "INTERVAL_LOOP", "loop_config": {"loop_interval": 5}}, "INTERVAL_LOOP"),
        ({"schedule_type": "LOOP_ONCE"}, "LOOP_ONCE"),
    ],
)
async def test_a_definition_is_run_in_its_own_way(
    dsn: str, conn: Connection, options: dict[str, Any], expected: str
) -> None:
    definition_id = await scheduler.define_task(conn, "job", **options)

    task_id = await lifecycle.trigger_by_id(conn, UUID(definition_id), input_params={"n": 1})

    task = task_row(dsn, task_id)
    assert (task["schedule_type"], task["input_params"]) == (expected, {"n": 1})
    if expected == "DELAYED":
        assert task["scheduled_time"] - task["created_at"] >= 0.99 * MINUTE


async def test_what_the_caller_says_goes_before_what_the_definition_says(
    dsn: str, conn: Connection
) -> None:
    config = {"delay_seconds": 60}
    definition_id = await scheduler.define_task(
        conn, "job", schedule_type="DELAYED", schedule_config=config
    )

    task_id = await lifecycle.trigger_by_id(conn, definition_id, scheduled_time=TOMORROW)

    assert task_row(dsn, task_id)["scheduled_time"] == TOMORROW


async def test_a_definition_with_a_cron_expr_is_scheduled_by_it(conn: Connection) -> None:
    definition_id = await scheduler.define_task(
        conn,
        "job",
        schedule_type="CRON",
        cron_expr="0 3 * * *",
        schedule_config={"timezone": "Europe/Paris"},
    )

    schedule_id = await lifecycle.trigger_by_id(conn, definition_id)

    assert await schedules(conn) == {schedule_id: ("0 3 * * *", "Europe/Paris")}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"schedule_type": "CRON"}, "cron_expression"),
        ({"schedule_type": "DELAYED"}, "delay"),
        ({"schedule_type": "DELAYED", "schedule_config": {"delay_seconds": "60"}}, "delay"),
        ({"schedule_type": "DELAYED", "schedule_config": {"delay_seconds": -1}}, "delay"),
        ({"schedule_type": "INTERVAL_LOOP"}, "loop_interval"),
    ],
)
async def test_a_definition_that_does_not_say_when_cannot_be_triggered(
    conn: Connection, options: dict[str, Any], field: str
) -> None:
    definition_id = await scheduler.define_task(conn, "job", **options)

    with pytest.raises(Invalid, match=field):
        await lifecycle.trigger_by_id(conn, definition_id)


async def test_a_definition_nobody_knows_is_not_found(conn: Connection) -> None:
    with pytest.raises(NotFound, match=NOBODY):
        await lifecycle.trigger_by_id(conn, NOBODY)


# Reports


async def test_a_task_is_reported_to_its_end(dsn: str, conn: Connection) -> None:
    task_id = dispatched_task(dsn)

    status = await lifecycle.report_status(conn, task_id, "RUNNING", 1, progress={"done": 0.5})
    assert status is TaskStatus.RUNNING
    assert task_row(dsn, task_id)["progress"] == {"done": 0.5}

    status = await lifecycle.report_status(conn, task_id, TaskStatus.SUCCESS, output_ref="s3://x")
    assert status is TaskStatus.SUCCESS
    assert task_row(dsn, task_id)["output_ref"] == "s3://x"


async def test_a_failure_with_budget_is_pending_again(dsn: str, conn: Connection) -> None:
    task_id = dispatched_task(dsn)

    status = await lifecycle.report_status(conn, task_id, "FAILED", 1, error_msg="no paper")

    assert status is TaskStatus.PENDING
    assert task_row(dsn, task_id)["error_msg"] == "no paper"


async def test_a_loop_goes_on_with_next_input_until_it_is_stopped(
    dsn: str, conn: Connection
) -> None:
    await scheduler.define_task(conn, "job")
    first = await scheduler.schedule_loop(conn, "job")
    dispatch_due(dsn)
    await lifecycle.report_status(conn, first, "SUCCESS", next_input={"page": 2})

    (second,) = dispatch_due(dsn)

    assert second["input_params"] == {"page": 2}
    await lifecycle.report_status(conn, second["id"], "SUCCESS", stop_loop=True)
    assert dispatch_due(dsn) == []


async def test_nul_characters_are_taken_out_of_a_report(dsn: str, conn: Connection) -> None:
    task_id = dispatched_task(dsn)

    await lifecycle.report_status(conn, task_id, "RUNNING", progress={"a\0": ["b\0", 1]})
    await lifecycle.report_status(conn, task_id, "SUCCESS", output_ref="s3\0://x")

    task = task_row(dsn, task_id)
    assert (task["progress"], task["output_ref"]) == ({"a": ["b", 1]}, "s3://x")


def test_taking_out_nul_leaves_everything_else() -> None:
    value = {"a": [1, 2.5, None, True, "text", {"b": "é\\u0000"}]}

    assert without_nul(value) == value


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"status": "DONE"}, "status"),
        ({"status": "PENDING"}, "status"),
        ({"task_id": "no uuid"}, "task_id"),
        ({"attempt": 0}, "attempt"),
        ({"attempt": 2**31}, "attempt"),
        ({"attempt": "one"}, "attempt"),
        ({"output_ref": 5}, "output_ref"),
        ({"error_msg": {"code": 5}}, "error_msg"),
        ({"next_input": [1]}, "next_input"),
        ({"stop_loop": "perhaps"}, "stop_loop"),
    ],
)
async def test_a_report_of_the_wrong_shape_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid, match=field):
        await lifecycle.report_status(None, **{"task_id": NOBODY, "status": "RUNNING", **fields})


def test_a_report_takes_no_field_it_does_not_know() -> None:
    given: Any = {"task_id": NOBODY, "status": "RUNNING", "result": 5}

    with pytest.raises(Invalid, match="result"):
        reports.report_of(given)


async def test_a_refused_report_raises_what_it_is_and_leaves_an_event(
    dsn: str, conn: Connection
) -> None:
    task_id = dispatched_task(dsn)
    await lifecycle.report_status(conn, task_id, "SUCCESS")

    with pytest.raises(NotFound, match=NOBODY):
        await lifecycle.report_status(conn, NOBODY, "SUCCESS")
    with pytest.raises(Conflict, match="is SUCCESS"):
        await lifecycle.report_status(conn, task_id, "FAILED")
    with pytest.raises(Invalid, match=r"attempt 9 .* never pushed"):
        await lifecycle.report_status(conn, task_id, "SUCCESS", 9)
    assert await lifecycle.report_status(conn, task_id, "SUCCESS") is TaskStatus.SUCCESS

    assert events_of(dsn, task_id) == ["REPORT_REFUSED", "REPORT_REFUSED"]


async def test_many_reports_are_answered_one_by_one_in_their_order(
    dsn: str, conn: Connection
) -> None:
    task_id = dispatched_task(dsn)
    wanted = [
        {"task_id": NOBODY, "status": "RUNNING"},
        {"task_id": task_id, "status": "RUNNING"},
        {"task_id": task_id, "status": "SUCCESS"},
        {"task_id": task_id, "status": "FAILED"},
    ]

    answers = await lifecycle.report_statuses(
        conn, [StatusReport.model_validate(fields) for fields in wanted]
    )

    assert [(a.report_index, a.task_id, a.status, a.code) for a in answers] == [
        (0, NOBODY, None, "PS404"),
        (1, task_id, "RUNNING", None),
        (2, task_id, "SUCCESS", None),
        (3, task_id, "SUCCESS", "PS409"),
    ]
    assert await lifecycle.report_statuses(conn, []) == []


# Locks


async def test_a_locked_task_is_reported_once_the_lock_is_gone(dsn: str, conn: Connection) -> None:
    locked, free = dispatched_task(dsn, "a"), dispatched_task(dsn, "b")
    both = [StatusReport(task_id=UUID(task), status="SUCCESS") for task in (locked, free)]
    async with await psycopg.AsyncConnection.connect(dsn) as other:
        await other.execute(
            "select from pgsched.scheduled_tasks where id = %s for update", [locked]
        )
        reporting = asyncio.create_task(lifecycle.report_statuses(conn, both))
        # The neighbour does not wait.
        await asyncio.to_thread(eventually, lambda: task_row(dsn, free)["status"] == "SUCCESS")
        assert not reporting.done()

        await other.rollback()

    assert [(a.report_index, a.task_id, a.status) for a in await reporting] == [
        (0, locked, "SUCCESS"),
        (1, free, "SUCCESS"),
    ]


async def test_a_task_that_stays_locked_is_a_conflict_in_the_end(
    dsn: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "LOCKED_WAIT", 0.05)
    task_id = dispatched_task(dsn)
    async with await psycopg.AsyncConnection.connect(dsn) as other:
        await other.execute("select from pgsched.scheduled_tasks for update")

        with pytest.raises(Conflict, match="locked by another session"):
            await lifecycle.report_status(conn, task_id, "SUCCESS")
