"""Many tasks from Python and over HTTP: chunks, order, all or none, and errors by their index."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from pgsched import api, bulk
from pgsched.errors import Conflict, Invalid, NotFound
from pgsched.options import NewTask
from pgsched.scheduler import SchedulerService
from pgsched.settings import Settings
from tests.apps import client_of
from tests.executing import count_tasks, task_row
from tests.roles import as_role

Connection = psycopg.AsyncConnection[Any]
Client = httpx.AsyncClient

TOMORROW = datetime.now(UTC) + timedelta(days=1)
GOOD: NewTask = {"definition": "job"}

scheduler = SchedulerService()


def numbered(count: int) -> list[NewTask]:
    return [{"definition": "job", "input_params": {"n": n}} for n in range(count)]


@pytest.fixture
async def conn(dsn: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(
        as_role(dsn, "operator"), autocommit=True
    ) as connection:
        await scheduler.define_task(connection, "job")
        yield connection


@pytest.fixture
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "MAX_TASKS", 10)


@pytest.fixture(params=["psycopg", "autocommit", "sqlalchemy"])
async def session(request: pytest.FixtureRequest, dsn: str, conn: Connection) -> AsyncIterator[Any]:
    """What a caller may hand us; `conn` has made the definition."""
    async with AsyncExitStack() as stack:
        if request.param == "sqlalchemy":
            info: dict[str, Any] = conninfo_to_dict(dsn)
            at = {"host": info["host"], "port": str(info["port"])}
            driver = "postgresql+psycopg"
            url = URL.create(driver, username=info["user"], database=info["dbname"], query=at)
            engine = create_async_engine(url)
            stack.push_async_callback(engine.dispose)
            yield await stack.enter_async_context(AsyncSession(engine))
        elif request.param == "autocommit":
            yield conn
        else:
            connection = await psycopg.AsyncConnection.connect(as_role(dsn, "operator"))
            yield await stack.enter_async_context(connection)


def is_autocommit(session: Any) -> bool:
    return getattr(session, "autocommit", False) is True


# In Python


@pytest.mark.usefixtures("_small_chunks")
async def test_the_ids_are_in_the_order_given_and_the_caller_commits(
    dsn: str, session: Any
) -> None:
    ids = await scheduler.schedule_many(session, numbered(35))

    assert count_tasks(dsn) == (35 if is_autocommit(session) else 0)
    await session.commit()
    assert [task_row(dsn, task_id)["input_params"] for task_id in ids] == [
        {"n": n} for n in range(35)
    ]
    assert all(isinstance(task_id, str) for task_id in ids)


@pytest.mark.usefixtures("_small_chunks")
async def test_a_rollback_takes_all(dsn: str, session: Any) -> None:
    if is_autocommit(session):
        async with session.transaction(force_rollback=True):
            await scheduler.schedule_many(session, numbered(35))
    else:
        await scheduler.schedule_many(session, numbered(35))
        await session.rollback()

    assert count_tasks(dsn) == 0


@pytest.mark.usefixtures("_small_chunks")
async def test_one_that_the_database_refuses_takes_all_and_has_the_index_of_the_whole_list(
    dsn: str, session: Any
) -> None:
    tasks = numbered(35)
    tasks[27]["queue"] = "nowhere"

    with pytest.raises(NotFound, match=r"^tasks\[27\]\.queue: queue 'nowhere' does not exist"):
        await scheduler.schedule_many(session, tasks)
    await session.rollback()

    assert count_tasks(dsn) == 0


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"priority": 12}, r"^tasks\[27\]\.priority: "),
        ({"input_params": {"a": {1, 2}}}, r"^tasks\[27\]: not JSON"),
        ({"input_params": {"a": float("nan")}}, r"^tasks\[27\]\.input_params: .*nan"),
        (3, r"^tasks\[27\]: "),
    ],
)
async def test_one_that_is_wrong_here_has_the_index_of_the_whole_list_and_costs_no_transaction(
    dsn: str, wrong: Any, message: str
) -> None:
    tasks: list[Any] = numbered(35)
    tasks[27] = {**GOOD, **wrong} if isinstance(wrong, dict) else wrong

    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await scheduler.define_task(connection, "job")
        with pytest.raises(Invalid, match=message):
            await scheduler.schedule_many(connection, tasks)
        await connection.commit()

    assert count_tasks(dsn) == 0


@pytest.mark.usefixtures("_small_chunks")
async def test_a_call_that_needs_a_closer_look_is_written_as_the_others(
    dsn: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "MAX_BYTES", 1000)
    odd: dict[int, Any] = {3: None, 12: 2**70, 23: "\\u0000", 24: "null", 31: "x" * 2000}
    tasks = numbered(40)
    for n, value in odd.items():
        tasks[n] = {"definition": "job", "input_params": {"n": value}, "priority": None}

    ids = await scheduler.schedule_many(conn, tasks)

    assert [task_row(dsn, task_id)["input_params"]["n"] for task_id in ids] == [
        odd.get(n, n) for n in range(40)
    ]


async def test_every_field_arrives(dsn: str, conn: Connection) -> None:
    await conn.execute("select pgsched.define_queue('mail')")
    definition_id = UUID(await scheduler.define_task(conn, "job"))
    task: NewTask = {
        "definition": definition_id,
        "input_params": {"n": 2**70, "text": "\\u0000", "nothing": None},
        "scheduled_time": TOMORROW,
        "priority": -9,
        "queue": "mail",
        "trace_id": uuid4(),
        "idempotency_key": "once",
        "schedule_config": {"note": "x"},
    }
    later: NewTask = {"definition": "job", "delay": timedelta(hours=1.5), "trace_id": str(uuid4())}

    first, second, again = await scheduler.schedule_many(conn, (task, later, task))

    row = task_row(dsn, first)
    names = ("input_params", "scheduled_time", "priority", "queue", "trace_id", "schedule_config")
    assert {name: row[name] for name in names} == {name: task.get(name) for name in names}
    assert (row["definition_id"], row["schedule_type"]) == (definition_id, "DELAYED")
    row = task_row(dsn, second)
    assert row["scheduled_time"] - row["created_at"] == timedelta(hours=1.5)
    assert str(row["trace_id"]) == later["trace_id"]
    assert again == first


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"priority": 10}, r"^tasks\[2\]\.priority: "),
        ({"priority": "5"}, r"^tasks\[2\]\.priority: "),
        ({"priority": True}, r"^tasks\[2\]\.priority: "),
        ({"definition": ""}, r"^tasks\[2\]\.definition: "),
        ({"definition": None}, r"^tasks\[2\]\.definition: "),
        ({"definition": "a\0"}, r"^tasks\[2\]\.definition: .*NUL"),
        ({"input_params": [1]}, r"^tasks\[2\]\.input_params: "),
        ({"input_params": {"a": float("nan")}}, r"^tasks\[2\]\.input_params: .*nan"),
        ({"input_params": {"a": ["\0"]}}, r"^tasks\[2\]\.input_params: .*NUL"),
        ({"input_params": {"a": {1, 2}}}, r"^tasks\[2\]: not JSON"),
        ({"delay": 5}, r"^tasks\[2\]\.delay: "),
        ({"delay": timedelta(seconds=-1)}, r"^tasks\[2\]\.delay: "),
        ({"scheduled_time": datetime(2030, 1, 1)}, r"^tasks\[2\]\.scheduled_time: "),  # noqa: DTZ001
        ({"scheduled_time": "2030-01-01Z"}, r"^tasks\[2\]\.scheduled_time: "),
        ({"delay": timedelta(1), "scheduled_time": TOMORROW}, r"^tasks\[2\]\.delay: give one"),
        ({"trace_id": "x"}, r"^tasks\[2\]\.trace_id: "),
        ({"idempotency_key": "k" * 256}, r"^tasks\[2\]\.idempotency_key: "),
        ({"colour": "red"}, r"^tasks\[2\]\.colour: "),
    ],
)
async def test_what_is_wrong_is_named_by_index_and_field(
    dsn: str, conn: Connection, wrong: Any, message: str
) -> None:
    bad: Any = {**GOOD, **wrong}

    with pytest.raises(Invalid, match=message):
        await scheduler.schedule_many(conn, [GOOD, GOOD, bad, GOOD, bad])

    assert count_tasks(dsn) == 0


@pytest.mark.parametrize(
    ("tasks", "message"),
    [([3], r"^tasks\[0\]: "), (["job"], r"^tasks\[0\]: "), (3, "^tasks: "), ({}, "^tasks: ")],
)
async def test_what_is_no_list_of_tasks_is_refused(
    conn: Connection, tasks: Any, message: str
) -> None:
    with pytest.raises(Invalid, match=message):
        await scheduler.schedule_many(conn, tasks)


async def test_a_definition_that_is_not_active_is_a_conflict(conn: Connection) -> None:
    await conn.execute("update pgsched.task_definitions set is_active = false")

    with pytest.raises(Conflict, match=r"^tasks\[0\]\.definition"):
        await scheduler.schedule_many(conn, [GOOD])


async def test_none_are_no_call(conn: Connection) -> None:
    assert await scheduler.schedule_many(conn, []) == []


async def test_the_tasks_of_the_caller_are_left_as_they_were(conn: Connection) -> None:
    task: NewTask = {"definition": "job", "delay": timedelta(hours=1), "trace_id": uuid4()}
    before = task.copy()

    await scheduler.schedule_many(conn, [task])

    assert task == before


def test_calls_are_bounded_in_number_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "MAX_TASKS", 3)
    monkeypatch.setattr(bulk, "MAX_BYTES", 10)
    items = [b"1", b"2", b"3", b"4", b"55555", b"66666", b"7" * 20, b"8"]

    assert list(bulk.chunks(items)) == [items[:3], items[3:5], items[5:6], items[6:7], items[7:]]


def test_what_is_checked_is_what_may_be_given() -> None:
    assert bulk._Task.__annotations__.keys() == NewTask.__annotations__.keys()
    assert bulk._Task.__required_keys__ == NewTask.__required_keys__


# Over HTTP


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[Client]:
    app = api.create_app(Settings(database_url=as_role(dsn, "operator")))
    async with client_of(app) as client:
        await client.post("/api/definitions", json={"name": "job"})
        yield client


async def test_a_list_is_posted(dsn: str, client: Client) -> None:
    tasks = [
        {"definition": "job", "input_params": {"n": 0}, "idempotency_key": "a"},
        {"definition": "job", "delay_seconds": 60, "priority": 3},
        {"definition": "job", "scheduled_time": TOMORROW.isoformat()},
    ]

    response = await client.post("/api/tasks/bulk", json={"tasks": tasks})

    assert response.status_code == 201, response.text
    first, second, third = response.json()["task_ids"]
    assert task_row(dsn, first)["input_params"] == {"n": 0}
    row = task_row(dsn, second)
    assert row["scheduled_time"] - row["created_at"] == timedelta(minutes=1)
    assert row["priority"] == 3
    assert task_row(dsn, third)["scheduled_time"] == TOMORROW


@pytest.mark.parametrize(
    ("wrong", "status", "place"),
    [
        ({"priority": 12}, 422, "tasks.1.priority"),
        ({"schedule_type": "LOOP"}, 422, "tasks.1.schedule_type"),
        ({"definition": "nothing"}, 404, "tasks[1].definition"),
        ({"queue": "nowhere"}, 404, "tasks[1].queue"),
    ],
)
async def test_a_list_with_one_that_is_wrong_is_refused(
    dsn: str, client: Client, wrong: dict[str, Any], status: int, place: str
) -> None:
    tasks = [GOOD, {**GOOD, **wrong}]

    response = await client.post("/api/tasks/bulk", json={"tasks": tasks})

    assert response.status_code == status
    assert response.json()["code"] == f"PS{status}"
    assert response.json()["message"].startswith(place)
    assert count_tasks(dsn) == 0


async def test_an_answer_does_not_grow_with_the_mistakes(client: Client) -> None:
    response = await client.post("/api/tasks/bulk", json={"tasks": [{}] * 10_000})

    assert response.status_code == 422
    assert len(response.content) < 1000
