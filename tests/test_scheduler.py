"""SchedulerService: what it writes, what it refuses, and that it never commits."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Unpack, get_args, get_origin, get_type_hints
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from pgsched.errors import Conflict, Invalid, NotFound, Unavailable
from pgsched.scheduler import SchedulerService
from pgsched.settings import Settings
from tests.executing import dispatched_task, task_row
from tests.roles import as_role

Connection = psycopg.AsyncConnection[Any]

MINUTE = timedelta(minutes=1)
TOMORROW = datetime.now(UTC) + timedelta(days=1)
NOBODY = "01980000-0000-7000-8000-000000000000"

scheduler = SchedulerService()


@pytest.fixture
async def conn(dsn: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(
        as_role(dsn, "operator"), autocommit=True
    ) as connection:
        await scheduler.define_task(connection, "job", {"do": "it"})
        yield connection


async def value(conn: Connection, query: str, *given: object) -> Any:
    row = await (await conn.execute(query.encode(), given)).fetchone()
    assert row is not None
    return row[0]


# What is written


@pytest.mark.parametrize(
    ("method", "arguments", "expected"),
    [
        ("schedule_immediate", {}, "IMMEDIATE"),
        ("schedule_delayed", {"delay": MINUTE}, "DELAYED"),
        ("schedule_delayed", {"scheduled_time": TOMORROW}, "DELAYED"),
        ("schedule_loop", {"max_rounds": 3}, "LOOP"),
        ("schedule_loop", {"max_rounds": 3, "loop_interval": MINUTE}, "INTERVAL_LOOP"),
        ("trigger_loop_once", {}, "LOOP_ONCE"),
    ],
)
async def test_each_method_writes_a_task_of_its_type(
    dsn: str, conn: Connection, method: str, arguments: dict[str, Any], expected: str
) -> None:
    task_id = await getattr(scheduler, method)(conn, "job", **arguments)

    assert isinstance(task_id, str)
    task = task_row(dsn, task_id)
    assert (task["schedule_type"], task["status"]) == (expected, "PENDING")


async def test_every_option_of_a_task_arrives(dsn: str, conn: Connection) -> None:
    await conn.execute("select pgsched.define_queue('mail')")
    trace_id = str(uuid4())

    task_id = await scheduler.schedule_delayed(
        conn,
        "job",
        input_params={"n": 1},
        scheduled_time=TOMORROW,
        trace_id=trace_id,
        priority=-9,
        queue="mail",
        idempotency_key="once",
        schedule_config={"note": "x"},
    )

    task = task_row(dsn, task_id)
    assert str(task["trace_id"]) == trace_id
    assert (task["priority"], task["queue"], task["input_params"]) == (-9, "mail", {"n": 1})
    assert (task["scheduled_time"], task["schedule_config"]) == (TOMORROW, {"note": "x"})


async def test_what_a_task_depends_on_arrives(dsn: str, conn: Connection) -> None:
    await scheduler.define_task(conn, "stubborn", on_dependency_failure="run")
    first = await scheduler.schedule_immediate(conn, "job")

    lists: list[list[UUID | str]] = [[first], [UUID(first), first]]
    for depends_on in lists:
        task_id = await scheduler.schedule_immediate(conn, "stubborn", depends_on=depends_on)
        task = task_row(dsn, task_id)
        assert {str(one) for one in task["depends_on"]} == {first}
        assert (task["pending_dependencies"], task["on_dependency_failure"]) == (1, "run")

    alone = task_row(dsn, await scheduler.schedule_immediate(conn, "job", depends_on=[]))
    assert (alone["pending_dependencies"], alone["depends_on"]) == (0, None)


async def test_a_task_cannot_depend_on_one_that_does_not_exist(conn: Connection) -> None:
    unknown = uuid4()

    with pytest.raises(NotFound, match=f"^depends_on: task {unknown} does not exist"):
        await scheduler.schedule_immediate(conn, "job", depends_on=[unknown])


async def test_a_task_cannot_depend_on_one_that_was_cancelled(conn: Connection) -> None:
    first = await scheduler.schedule_immediate(conn, "job")
    await scheduler.cancel_task(conn, first)

    with pytest.raises(Conflict, match=f"^depends_on: task {first} is CANCELLED"):
        await scheduler.schedule_immediate(conn, "job", depends_on=[first])


async def test_a_definition_goes_by_name_or_by_id(dsn: str, conn: Connection) -> None:
    definition_id = await scheduler.define_task(conn, "other")

    tasks = [
        await scheduler.schedule_immediate(conn, definition)
        for definition in ("other", definition_id, UUID(definition_id))
    ]

    assert {str(task_row(dsn, task)["definition_id"]) for task in tasks} == {definition_id}


async def test_the_same_idempotency_key_gives_the_same_task(conn: Connection) -> None:
    first = await scheduler.schedule_immediate(conn, "job", {"n": 1}, idempotency_key="k")

    assert await scheduler.schedule_immediate(conn, "job", {"n": 1}, idempotency_key="k") == first
    with pytest.raises(Conflict, match="'k' was used"):
        await scheduler.schedule_immediate(conn, "job", {"n": 2}, idempotency_key="k")


async def test_integers_of_any_size_survive(dsn: str, conn: Connection) -> None:
    big = 12345678901234567890123

    task_id = await scheduler.schedule_immediate(conn, "job", {"big": big})

    assert task_row(dsn, task_id)["input_params"] == {"big": big}


async def test_a_schedule_is_changed_by_its_name(conn: Connection) -> None:
    first = await scheduler.schedule_cron(conn, "job", "0 3 * * *", timezone="Europe/Paris")
    again = await scheduler.schedule_cron(conn, "job", "0 4 * * *")
    other = await scheduler.schedule_cron(conn, "job", "0 4 * * *", name="another")

    assert again == first != other
    assert await value(conn, "select cron_expr from pgsched.schedules where id = %s", first) == (
        "0 4 * * *"
    )


# Definitions


async def test_retries_of_a_definition_come_from_the_settings(conn: Connection) -> None:
    settings = Settings(database_url="", default_max_retries=7, retry_delay_seconds=5)

    await SchedulerService(settings).define_task(conn, "a")
    await SchedulerService(settings).define_task(conn, "b", max_retries=0, retry_delay=MINUTE)

    query = "select name, max_retries, retry_delay from pgsched.task_definitions order by name"
    rows = await (await conn.execute(query)).fetchall()
    assert ("a", 7, timedelta(seconds=5)) in rows
    assert ("b", 0, MINUTE) in rows


async def test_defining_again_changes_the_definition(conn: Connection) -> None:
    first = await scheduler.define_task(conn, "again", {"v": 1}, timeout=MINUTE)
    second = await scheduler.define_task(
        conn, "again", {"v": 2}, schedule_type="LOOP", loop_config={"max_rounds": 2}
    )

    assert second == first
    query = "select content, schedule_type from pgsched.task_definitions where id = %s"
    assert await (await conn.execute(query, [first])).fetchone() == ({"v": 2}, "LOOP")


# Control


async def test_a_task_is_cancelled_and_retried(dsn: str, conn: Connection) -> None:
    task_id = await scheduler.schedule_immediate(conn, "job")

    assert await scheduler.cancel_task(conn, task_id, "not wanted") == "CANCELLED"
    assert task_row(dsn, task_id)["error_msg"] == "not wanted"
    with pytest.raises(Conflict, match="CANCELLED already"):
        await scheduler.cancel_task(conn, task_id)

    assert await scheduler.retry_task(conn, UUID(task_id)) == "PENDING"
    with pytest.raises(Conflict, match="not finished"):
        await scheduler.retry_task(conn, task_id)


async def test_a_loop_is_stopped_at_its_waiting_round(dsn: str, conn: Connection) -> None:
    task_id = await scheduler.schedule_loop(conn, "job")

    assert await scheduler.stop_loop(conn, task_id) == task_id
    assert task_row(dsn, task_id)["status"] == "CANCELLED"
    assert await scheduler.stop_loop(conn, task_id) is None


@pytest.mark.parametrize("method", ["cancel_task", "retry_task", "stop_loop"])
async def test_a_task_nobody_knows_is_not_found(conn: Connection, method: str) -> None:
    with pytest.raises(NotFound, match=NOBODY):
        await getattr(scheduler, method)(conn, NOBODY)


# What is refused before Postgres sees it


WRONG = [
    ("schedule_immediate", {"input_params": [1]}, "input_params"),
    ("schedule_immediate", {"input_params": {1: 2}}, "input_params"),
    ("schedule_immediate", {"input_params": {"a": ["\0"]}}, "input_params"),
    ("schedule_immediate", {"input_params": {"a": float("nan")}}, "input_params"),
    ("schedule_immediate", {"schedule_config": "x"}, "schedule_config"),
    ("schedule_immediate", {"priority": 10}, "priority"),
    ("schedule_immediate", {"priority": -10}, "priority"),
    ("schedule_immediate", {"priority": 2**40}, "priority"),
    ("schedule_immediate", {"priority": True}, "priority"),
    ("schedule_immediate", {"priority": "high"}, "priority"),
    ("schedule_immediate", {"trace_id": "no uuid"}, "trace_id"),
    ("schedule_immediate", {"queue": ""}, "queue"),
    ("schedule_immediate", {"queue": "a\0b"}, "queue"),
    ("schedule_immediate", {"idempotency_key": ""}, "idempotency_key"),
    ("schedule_immediate", {"idempotency_key": "k" * 256}, "idempotency_key"),
    ("schedule_immediate", {"depends_on": ["no uuid"]}, "depends_on"),
    ("schedule_immediate", {"depends_on": [None]}, "depends_on"),
    ("schedule_immediate", {"depends_on": str(uuid4())}, "depends_on"),
    ("schedule_immediate", {"definition": None}, "definition"),
    ("schedule_immediate", {"definition": 7}, "definition"),
    ("schedule_immediate", {"definition": "\ud800"}, "definition"),
    ("schedule_delayed", {}, "delay"),
    ("schedule_delayed", {"delay": MINUTE, "scheduled_time": TOMORROW}, "delay"),
    ("schedule_delayed", {"delay": -MINUTE}, "delay"),
    ("schedule_delayed", {"delay": 60}, "delay"),
    ("schedule_delayed", {"delay": timedelta.max}, "delay"),
    ("schedule_delayed", {"scheduled_time": TOMORROW.replace(tzinfo=None)}, "scheduled_time"),
    ("schedule_delayed", {"scheduled_time": datetime.max.replace(tzinfo=UTC)}, "scheduled_time"),
    ("schedule_delayed", {"scheduled_time": "tomorrow"}, "scheduled_time"),
    ("schedule_loop", {"max_rounds": 0}, "max_rounds"),
    ("schedule_loop", {"max_rounds": 1.5}, "max_rounds"),
    ("schedule_loop", {"loop_interval": -MINUTE}, "loop_interval"),
    ("schedule_loop", {"loop_interval": timedelta(days=367)}, "loop_interval"),
    ("schedule_cron", {"cron_expression": "61 * * * *"}, "cron_expr"),
    ("schedule_cron", {"cron_expression": "0 0 30 2 *"}, "cron_expr"),
    ("schedule_cron", {"cron_expression": None}, "cron_expr"),
    ("schedule_cron", {"cron_expression": "* * * * *", "timezone": "Mars/Base"}, "timezone"),
    ("define_task", {"name": ""}, "name"),
    ("define_task", {"name": None}, "name"),
    ("define_task", {"name": "n" * 201}, "name"),
    ("define_task", {"max_retries": 101}, "max_retries"),
    ("define_task", {"retry_delay": timedelta(days=2)}, "retry_delay"),
    ("define_task", {"retry_backoff": "linear"}, "retry_backoff"),
    ("define_task", {"timeout": timedelta(0)}, "timeout"),
    ("define_task", {"on_dependency_failure": "wait"}, "on_dependency_failure"),
    ("define_task", {"schedule_type": "SOMETIMES"}, "schedule_type"),
    ("define_task", {"cron_expr": "nonsense"}, "cron_expr"),
    ("cancel_task", {"task_id": "no uuid"}, "task_id"),
    ("retry_task", {"task_id": None}, "task_id"),
]


@pytest.mark.parametrize(("method", "arguments", "field"), WRONG)
async def test_a_wrong_argument_is_named_before_the_session_is_touched(
    method: str, arguments: dict[str, Any], field: str
) -> None:
    first = {"name": "other"} if method == "define_task" else {"definition": "job"}
    given = arguments if method in ("cancel_task", "retry_task") else {**first, **arguments}

    with pytest.raises(Invalid, match=field):
        await getattr(scheduler, method)(None, **given)


async def test_a_wrong_argument_leaves_the_transaction_usable(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        await scheduler.define_task(conn, "job")

        with pytest.raises(Invalid, match="priority"):
            await scheduler.schedule_immediate(conn, "job", priority=10)

        await scheduler.schedule_immediate(conn, "job")


# What Postgres refuses


async def test_what_does_not_exist_is_not_found(conn: Connection) -> None:
    with pytest.raises(NotFound, match="'nothing'"):
        await scheduler.schedule_immediate(conn, "nothing")
    with pytest.raises(NotFound, match="'nowhere'"):
        await scheduler.schedule_immediate(conn, "job", queue="nowhere")
    with pytest.raises(NotFound, match="'nowhere'"):
        await scheduler.define_task(conn, "other", queue="nowhere")


async def test_an_inactive_definition_is_a_conflict(conn: Connection) -> None:
    await conn.execute("update pgsched.task_definitions set is_active = false")

    with pytest.raises(Conflict, match="not active"):
        await scheduler.schedule_immediate(conn, "job")


@pytest.mark.parametrize("field", ["input_params", "schedule_config"])
async def test_a_payload_over_256_kib_is_invalid(conn: Connection, field: str) -> None:
    payload: Any = {field: {"x": "y" * 262_144}}

    with pytest.raises(Invalid, match=f"{field} has .* more than the 262144"):
        await scheduler.schedule_immediate(conn, "job", **payload)


# Whose connection it is


async def test_the_caller_may_have_rows_of_any_kind(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, row_factory=dict_row) as conn:
        await scheduler.define_task(conn, "job")

        task_id = await scheduler.schedule_immediate(conn, "job")

        row = await (await conn.execute("select id from pgsched.scheduled_tasks")).fetchone()
        assert row == {"id": UUID(task_id)}


async def test_a_session_of_another_kind_is_refused_by_name(dsn: str) -> None:
    with (
        psycopg.connect(dsn) as connection,
        pytest.raises(Invalid, match=r"session must be .* not Connection"),
    ):
        await scheduler.schedule_immediate(connection, "job")


async def test_a_closed_connection_is_unavailable(dsn: str) -> None:
    connection = await psycopg.AsyncConnection.connect(dsn)
    await connection.close()

    with pytest.raises(Unavailable):
        await scheduler.schedule_immediate(connection, "job")


# The signatures


async def test_an_option_nobody_knows_is_a_type_error(conn: Connection) -> None:
    unknown: Any = {"delayed": MINUTE}

    with pytest.raises(TypeError, match="delayed"):
        await scheduler.schedule_immediate(conn, "job", **unknown)
    with pytest.raises(TypeError, match="delayed"):
        await scheduler.define_task(conn, "job", **unknown)


SQL = {
    "define_task": {"define_task"},
    "schedule_immediate": {"schedule_immediate"},
    "schedule_delayed": {"schedule_delayed", "schedule_at"},
    "schedule_cron": {"schedule_cron"},
    "schedule_loop": {"schedule_loop"},
    "trigger_loop_once": {"trigger_loop_once"},
    "cancel_task": {"cancel_task"},
    "schedule_many": {"schedule_many"},
    "retry_task": {"retry_task"},
    "stop_loop": {"stop_loop"},
}


def names_of(method: Any) -> set[str]:
    names = set(inspect.signature(method).parameters) - {"self", "session", "options"}
    options = get_type_hints(method).get("options")
    if get_origin(options) is Unpack:
        names |= set(get_args(options)[0].__annotations__)
    return names


@pytest.mark.parametrize("method", SQL)
async def test_arguments_are_those_of_sql_without_the_p(conn: Connection, method: str) -> None:
    query = """
        select array_agg(distinct substr(a, 3))
        from pg_proc as p, unnest(p.proargnames) as a
        where p.pronamespace = 'pgsched'::regnamespace and p.proname = any (%s)
    """

    assert names_of(getattr(SchedulerService, method)) == set(
        await value(conn, query, list(SQL[method]))
    )


async def test_a_task_under_way_can_be_cancelled(dsn: str, conn: Connection) -> None:
    task_id = dispatched_task(dsn)

    assert await scheduler.cancel_task(conn, task_id) == "CANCELLED"
