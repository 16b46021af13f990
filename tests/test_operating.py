"""Queues, external systems and acts on many tasks, from Python."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Unpack, get_args, get_origin, get_type_hints
from uuid import UUID

import psycopg
import pytest

from pgsched import BulkResult, TaskStatus, reading
from pgsched.errors import Conflict, Invalid, NotFound, Unavailable
from pgsched.models import Completion
from pgsched.operating import OperatorControl
from pgsched.scheduler import SchedulerService
from tests.executing import task_row
from tests.roles import as_role

Connection = psycopg.AsyncConnection[Any]

SECOND = timedelta(seconds=1)
NOBODY = "01980000-0000-7000-8000-000000000000"
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)

scheduler = SchedulerService()


@pytest.fixture
async def conn(dsn: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(
        as_role(dsn, "operator"), autocommit=True
    ) as connection:
        await scheduler.define_task(connection, "job")
        yield connection


async def system(conn: Connection, name: str = "mailer") -> Any:
    return await reading.get_external_system(conn, name)


async def queue(conn: Connection, name: str = "mail") -> Any:
    (row,) = (row for row in await reading.list_queues(conn) if row.queue == name)
    return row


# External systems and queues


async def test_an_external_system_is_defined_and_changed(conn: Connection) -> None:
    await scheduler.define_external_system(
        conn,
        "mailer",
        "https://mailer.example.org/v1",
        api_key_env="MAILER_KEY",
        signing_secret_env="MAILER_SECRET",
        completion=Completion.RESPONSE,
        request_timeout=5 * SECOND,
        delivery_timeout=timedelta(days=2),
        batch_size=50,
        max_in_flight=4,
        push_statuses=["FAILED", TaskStatus.CANCELLED],
    )

    row = await system(conn)
    assert (row.base_url, row.api_key_env) == ("https://mailer.example.org/v1", "MAILER_KEY")
    assert (row.signing_secret_env, row.completion) == ("MAILER_SECRET", "response")
    assert (row.request_timeout, row.delivery_timeout) == (5 * SECOND, timedelta(days=2))
    assert (row.batch_size, row.max_in_flight) == (50, 4)
    assert (row.push_statuses, row.breaker) == (["FAILED", "CANCELLED"], "closed")

    await scheduler.define_external_system(conn, "mailer")

    row = await system(conn)
    assert (row.base_url, row.batch_size, row.max_in_flight) == (None, 1, None)
    assert [found.name for found in await reading.list_external_systems(conn)] == [
        "default",
        "mailer",
    ]


async def test_a_system_may_be_told_of_nothing(conn: Connection) -> None:
    await scheduler.define_external_system(conn, "mailer", push_statuses=[])

    assert (await system(conn)).push_statuses == []


async def test_a_queue_is_defined_limited_paused_and_resumed(conn: Connection) -> None:
    await scheduler.define_external_system(conn, "mailer")
    await scheduler.define_queue(
        conn, "mail", "mailer", max_in_flight=7, rate_per_second=2.5, burst=3
    )
    row = await queue(conn)
    assert (row.external_system, row.max_in_flight, row.rate_per_second) == ("mailer", 7, 2.5)

    await scheduler.pause_queue(conn, "mail", "moving")
    assert (await queue(conn)).is_paused
    await scheduler.define_queue(conn, "mail")

    row = await queue(conn)
    assert (row.external_system, row.is_paused, row.max_in_flight) == ("default", True, None)
    await scheduler.resume_queue(conn, "mail")
    row = await queue(conn)
    assert (row.is_paused, row.is_ramping) == (False, True)


async def test_a_breaker_is_opened_and_closed(conn: Connection) -> None:
    until = await scheduler.open_breaker(conn, "default", "moving")

    row = await system(conn, "default")
    assert (row.breaker, row.open_until, row.open_reason) == ("open", until, "moving")
    assert await scheduler.open_breaker(conn, "default") == until
    assert await scheduler.close_breaker(conn, "default") is True
    assert await scheduler.close_breaker(conn, "default") is False
    assert (await queue(conn, "default")).breaker == "closed"


async def test_a_locked_breaker_is_a_conflict(dsn: str, conn: Connection) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as stranger:
        await stranger.execute("select from pgsched.external_systems for update")

        with pytest.raises(Conflict, match="locked by another session"):
            await scheduler.open_breaker(conn, "default")


# Many tasks


async def test_many_tasks_are_counted_cancelled_and_retried(dsn: str, conn: Connection) -> None:
    tasks = [await scheduler.schedule_immediate(conn, "job") for _ in range(3)]

    counted = await scheduler.cancel_tasks(conn, definition="job", is_preview=True)
    assert counted == BulkResult(3, 0, 0)
    assert await scheduler.cancel_tasks(
        conn, queue="default", status=TaskStatus.PENDING, reason="void", limit=2
    ) == BulkResult(2, 2, 0)
    assert await scheduler.retry_tasks(
        conn, error_like="vo%", after=LONG_AGO, status="CANCELLED"
    ) == BulkResult(2, 2, 0)

    assert {task_row(dsn, task_id)["status"] for task_id in tasks} == {"PENDING"}


@pytest.mark.parametrize("method", ["retry_tasks", "cancel_tasks"])
async def test_every_filter_is_one(conn: Connection, method: str) -> None:
    definition = UUID(await scheduler.define_task(conn, "other"))
    schedule = await scheduler.schedule_cron(conn, "job", "@daily")
    status = "FAILED" if method == "retry_tasks" else "RUNNING"
    for given in (
        {"definition": definition},
        {"queue": "default"},
        {"schedule": UUID(schedule)},
        {"trace_id": NOBODY},
        {"status": status},
        {"error_like": "%"},
        {"after": LONG_AGO},
        {"before": LONG_AGO},
    ):
        assert await getattr(scheduler, method)(conn, **given) == BulkResult(0, 0, 0)


async def test_what_was_done_is_not_committed(conn: Connection) -> None:
    await scheduler.schedule_immediate(conn, "job")
    async with conn.transaction(force_rollback=True):
        await scheduler.cancel_tasks(conn, definition="job")
        await scheduler.define_queue(conn, "mail")

    assert (await scheduler.cancel_tasks(conn, definition="job", is_preview=True)).matched == 1
    assert [row.queue for row in await reading.list_queues(conn)] == ["default"]


# What is refused

SYSTEM, QUEUE, RETRY, CANCEL = (
    "define_external_system",
    "define_queue",
    "retry_tasks",
    "cancel_tasks",
)
WRONG = [
    (SYSTEM, {"name": ""}, "name"),
    (SYSTEM, {"name": None}, "name"),
    (SYSTEM, {"base_url": "ftp://a"}, "base_url"),
    (SYSTEM, {"base_url": "https://"}, "base_url"),
    (SYSTEM, {"base_url": "https://me:secret@mailer"}, "base_url"),
    (SYSTEM, {"base_url": "https://a b"}, "base_url"),
    (SYSTEM, {"api_key_env": ""}, "api_key_env"),
    (SYSTEM, {"completion": "maybe"}, "completion"),
    (SYSTEM, {"request_timeout": 5}, "request_timeout"),
    (SYSTEM, {"request_timeout": SECOND / 20}, "request_timeout"),
    (SYSTEM, {"request_timeout": 601 * SECOND}, "request_timeout"),
    (SYSTEM, {"delivery_timeout": timedelta(0)}, "delivery_timeout"),
    (SYSTEM, {"delivery_timeout": timedelta(days=4000)}, "delivery_timeout"),
    (SYSTEM, {"batch_size": 0}, "batch_size"),
    (SYSTEM, {"batch_size": 1001}, "batch_size"),
    (SYSTEM, {"batch_size": True}, "batch_size"),
    (SYSTEM, {"max_in_flight": 1001}, "max_in_flight"),
    (SYSTEM, {"push_statuses": ["RUNNING"]}, "push_statuses"),
    (SYSTEM, {"push_statuses": "FAILED"}, "push_statuses"),
    (SYSTEM, {"secret": "s"}, "secret"),
    (QUEUE, {"name": "a b"}, "name"),
    (QUEUE, {"name": "a\n"}, "name"),
    (QUEUE, {"name": None}, "name"),
    (QUEUE, {"external_system": None}, "external_system"),
    (QUEUE, {"max_in_flight": 0}, "max_in_flight"),
    (QUEUE, {"max_in_flight": 1_000_001}, "max_in_flight"),
    (QUEUE, {"rate_per_second": 0}, "rate_per_second"),
    (QUEUE, {"rate_per_second": float("nan")}, "rate_per_second"),
    (QUEUE, {"rate_per_second": float("inf")}, "rate_per_second"),
    (QUEUE, {"rate_per_second": 1, "burst": 0}, "burst"),
    (QUEUE, {"burst": 5}, "burst"),
    ("pause_queue", {"queue": None}, "queue"),
    ("pause_queue", {"queue": "a", "note": "\0"}, "note"),
    ("resume_queue", {"queue": ""}, "queue"),
    ("open_breaker", {"external_system": None}, "external_system"),
    ("open_breaker", {"external_system": "a", "reason": 5}, "reason"),
    ("close_breaker", {"external_system": ""}, "external_system"),
    *(
        (method, given, field)
        for method in (RETRY, CANCEL)
        for given, field in [
            ({}, "definition, queue, schedule, trace_id, status, error_like, after, before"),
            ({"limit": 5, "queue": None}, "at least one of"),
            ({"queue": "a", "limit": 0}, "limit"),
            ({"queue": "a", "limit": 10_001}, "limit"),
            ({"queue": "a", "is_preview": "yes"}, "is_preview"),
            ({"queue": ""}, "queue"),
            ({"definition": 7}, "definition"),
            ({"trace_id": "no uuid"}, "trace_id"),
            ({"status": "SUCCESS"}, "status"),
            ({"error_like": "a\\"}, "error_like"),
            ({"after": datetime(2026, 1, 1)}, "after"),  # noqa: DTZ001
            ({"after": LONG_AGO, "before": LONG_AGO}, "after"),
            ({"colour": "red"}, "colour"),
        ]
    ),
    (RETRY, {"status": "PENDING"}, "status"),
    (CANCEL, {"status": "FAILED"}, "status"),
    (CANCEL, {"queue": "a", "reason": ""}, "reason"),
]


@pytest.mark.parametrize(("method", "given", "field"), WRONG)
async def test_a_wrong_argument_is_named_before_the_session_is_touched(
    method: str, given: dict[str, Any], field: str
) -> None:
    first = {"name": "a"} if method in (SYSTEM, QUEUE) else {}

    with pytest.raises(Invalid, match=field):
        await getattr(scheduler, method)(None, **{**first, **given})


@pytest.mark.parametrize(
    ("method", "given", "named"),
    [
        (QUEUE, {"name": "a", "external_system": "nowhere"}, "nowhere"),
        ("pause_queue", {"queue": "nowhere"}, "nowhere"),
        ("resume_queue", {"queue": "nowhere"}, "nowhere"),
        ("open_breaker", {"external_system": "nowhere"}, "nowhere"),
        ("close_breaker", {"external_system": "nowhere"}, "nowhere"),
        (RETRY, {"queue": "nowhere"}, "nowhere"),
        (CANCEL, {"definition": "nowhere"}, "nowhere"),
        (RETRY, {"schedule": "nowhere"}, "nowhere"),
    ],
)
async def test_what_does_not_exist_is_not_found(
    conn: Connection, method: str, given: dict[str, Any], named: str
) -> None:
    with pytest.raises(NotFound, match=named):
        await getattr(scheduler, method)(conn, **given)


async def test_an_unknown_system_cannot_be_read(conn: Connection) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        await system(conn, "nowhere")


async def test_a_database_that_is_gone_is_unavailable(conn: Connection) -> None:
    await conn.close()

    with pytest.raises(Unavailable):
        await scheduler.cancel_tasks(conn, queue="default")


METHODS = sorted(name for name in vars(OperatorControl) if not name.startswith("_"))


def names_of(method: Any) -> set[str]:
    names = set(inspect.signature(method).parameters) - {"self", "session", "options"}
    options = get_type_hints(method).get("options")
    if get_origin(options) is Unpack:
        names |= set(get_args(options)[0].__annotations__)
    return names


@pytest.mark.parametrize("method", METHODS)
async def test_arguments_are_those_of_sql_without_the_p(conn: Connection, method: str) -> None:
    query = "select p.proargnames from pg_proc as p where p.proname = %s"
    (row,) = await (await conn.execute(query, [method])).fetchall()
    there = {name.removeprefix("p_") for name in row[0] if name.startswith("p_")}

    # Only workers say who they are.
    assert names_of(getattr(SchedulerService, method)) == there - {"worker_id"}
