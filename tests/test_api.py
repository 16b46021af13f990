"""The HTTP API, through ASGI, and as a process behind a socket."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from pgsched import api, reports
from pgsched.api import services
from pgsched.api.guard import MAX_BODY, MAX_LIST
from pgsched.errors import ConfigError
from pgsched.settings import Settings
from pgsched.signing import callback_token
from tests.apps import client_of
from tests.chaos.door import Door, connect_to_server
from tests.executing import count_tasks, dispatched_task, events_of, task_row
from tests.roles import as_role
from tests.sessions import cut_sessions
from tests.waiting import eventually, until

Client = httpx.AsyncClient
OpenClient = Callable[..., Awaitable[Client]]

NOBODY = "01980000-0000-7000-8000-000000000000"
DOWN = "host=127.0.0.1 port=1 user=nobody dbname=none"
KEY = "s3cret"
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).isoformat()


@pytest.fixture
def door(dsn: str) -> Iterator[Door]:
    """A way to the database that a test may close."""
    with Door(lambda: connect_to_server(dsn)) as door:
        yield door


@pytest.fixture
async def open_client() -> AsyncIterator[OpenClient]:
    """Clients of apps in this process, whose lifespans end with the test."""
    async with AsyncExitStack() as stack:

        async def open_one(database_url: str, **more: Any) -> Client:
            app = api.create_app(Settings(database_url=as_role(database_url, "operator"), **more))
            return await stack.enter_async_context(client_of(app))

        yield open_one


@pytest.fixture
async def client(dsn: str, open_client: OpenClient) -> Client:
    client = await open_client(dsn)
    await client.post("/api/definitions", json={"name": "job", "content": {"do": "it"}})
    return client


async def schedule(client: Client, **body: Any) -> str:
    response = await client.post("/api/tasks", json={"definition": "job", **body})
    assert response.status_code == 201, response.text
    return str(response.json()["task_id"])


def execute(dsn: str, query: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(query.encode())


# Definitions


async def test_a_definition_can_be_made_changed_and_read(client: Client) -> None:
    body = {
        "name": "mail/weekly",
        "content": {"do": "it"},
        "priority": 3,
        "max_retries": 5,
        "retry_delay_seconds": 1.5,
        "timeout_seconds": 90,
        "schedule_type": "LOOP",
        "loop_config": {"max_rounds": 2},
    }

    first = await client.post("/api/definitions", json=body)
    again = await client.post("/api/definitions", json={**body, "priority": 4})

    assert first.status_code == 201
    assert first.json() == again.json()
    by_name = await client.get("/api/definitions/mail/weekly")
    by_id = await client.get(f"/api/definitions/{first.json()['definition_id']}")
    assert by_name.json() == by_id.json()
    assert by_name.json().items() >= {**body, "priority": 4, "is_temporary": False}.items()
    names = [d["name"] for d in (await client.get("/api/definitions")).json()["definitions"]]
    assert names == ["job", "mail/weekly"]


async def test_retries_are_those_of_the_settings_when_left_out(
    dsn: str, open_client: OpenClient
) -> None:
    client = await open_client(dsn, default_max_retries=9, retry_delay_seconds=7)

    await client.post("/api/definitions", json={"name": "job"})

    definition = (await client.get("/api/definitions/job")).json()
    assert (definition["max_retries"], definition["retry_delay_seconds"]) == (9, 7)


# Tasks


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, "IMMEDIATE"),
        ({"schedule_type": "DELAYED", "delay_seconds": 90}, "DELAYED"),
        ({"schedule_type": "DELAYED", "scheduled_time": TOMORROW}, "DELAYED"),
        ({"schedule_type": "LOOP", "max_rounds": 2}, "LOOP"),
        ({"schedule_type": "INTERVAL_LOOP", "loop_interval_seconds": 0.5}, "INTERVAL_LOOP"),
        ({"schedule_type": "LOOP_ONCE"}, "LOOP_ONCE"),
    ],
)
async def test_a_task_of_each_type_is_scheduled(
    client: Client, body: dict[str, Any], expected: str
) -> None:
    task_id = await schedule(client, **body)

    task = (await client.get(f"/api/tasks/{task_id}")).json()
    assert (task["id"], task["schedule_type"], task["status"]) == (task_id, expected, "PENDING")


async def test_a_task_is_explained(client: Client) -> None:
    task_id = await schedule(client)

    found = await client.get(f"/api/tasks/{task_id}/explanation")
    assert found.status_code == 200
    assert found.json()["task_id"] == task_id
    assert "No worker is alive." in found.json()["explanation"]

    unknown = await client.get(f"/api/tasks/{NOBODY}/explanation")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "PS404")


async def test_an_interval_loop_may_take_its_interval_from_the_definition(client: Client) -> None:
    body = {"name": "loop", "loop_config": {"loop_interval": 5}}
    await client.post("/api/definitions", json=body)

    task_id = await schedule(client, definition="loop", schedule_type="INTERVAL_LOOP")

    task = (await client.get(f"/api/tasks/{task_id}")).json()
    assert task["schedule_config"] == {"loop_interval": 5}


async def test_every_option_of_a_task_arrives_and_numbers_keep_their_digits(
    dsn: str, client: Client
) -> None:
    execute(dsn, "select pgsched.define_queue('mail')")
    options = {"trace_id": NOBODY, "priority": 9, "queue": "mail", "schedule_config": {"a": 1}}
    body = json.dumps({"definition": "job", **options})[:-1]

    response = await client.post(
        "/api/tasks",
        content=f'{body}, "input_params": {{"big": 12345678901234567890123, "é": "☃"}}}}',
        headers={"Content-Type": "application/json"},
    )

    task = (await client.get(f"/api/tasks/{response.json()['task_id']}")).json()
    assert task.items() >= options.items()
    assert task["input_params"] == {"big": 12345678901234567890123, "é": "☃"}


async def test_a_task_may_depend_on_others(client: Client) -> None:
    definition = {"name": "stubborn", "on_dependency_failure": "run"}
    await client.post("/api/definitions", json=definition)
    first = await schedule(client)

    body = {"definition": "stubborn", "depends_on": [first]}
    response = await client.post("/api/tasks", json=body)

    task = (await client.get(f"/api/tasks/{response.json()['task_id']}")).json()
    assert (task["depends_on"], task["pending_dependencies"]) == ([first], 1)
    assert task["on_dependency_failure"] == "run"


@pytest.mark.parametrize("where", ["header", "body", "both"])
async def test_an_idempotency_key_gives_the_same_task(client: Client, where: str) -> None:
    body = {"definition": "job"} | ({} if where == "header" else {"idempotency_key": "k"})
    headers = {} if where == "body" else {"Idempotency-Key": "k"}

    first = await client.post("/api/tasks", json=body, headers=headers)
    again = await client.post("/api/tasks", json=body, headers=headers)

    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()


async def test_tasks_are_listed_newest_first_page_by_page(client: Client) -> None:
    made = [await schedule(client) for _ in range(5)]

    first = (await client.get("/api/tasks", params={"limit": 3})).json()
    second = (await client.get("/api/tasks", params={"limit": 3, "before": first["next"]})).json()

    listed = [task["id"] for task in first["tasks"] + second["tasks"]]
    assert listed == made[::-1]
    assert second["next"] is None


async def test_tasks_are_filtered(dsn: str, client: Client) -> None:
    execute(dsn, "select pgsched.define_queue('mail')")
    plain = await schedule(client)
    mail = await schedule(client, queue="mail")
    traced = await schedule(client, trace_id=NOBODY)
    await client.post(f"/api/tasks/{plain}/cancel")

    async def ids(**filters: str) -> set[str]:
        found = (await client.get("/api/tasks", params=filters)).json()["tasks"]
        return {task["id"] for task in found}

    assert await ids(queue="mail") == {mail}
    assert await ids(trace_id=NOBODY) == {traced}
    assert await ids(status="CANCELLED") == {plain}
    assert await ids(status="PENDING", queue="default") == {traced}


async def test_a_task_is_cancelled_and_retried(client: Client) -> None:
    task_id = await schedule(client)

    cancelled = await client.post(f"/api/tasks/{task_id}/cancel", json={"reason": "not wanted"})
    assert cancelled.json() == {"task_id": task_id, "status": "CANCELLED"}
    assert (await client.get(f"/api/tasks/{task_id}")).json()["error_msg"] == "not wanted"
    assert (await client.post(f"/api/tasks/{task_id}/cancel")).status_code == 409

    retried = await client.post(f"/api/tasks/{task_id}/retry")
    assert retried.json() == {"task_id": task_id, "status": "PENDING"}
    assert (await client.post(f"/api/tasks/{task_id}/retry")).status_code == 409


async def test_a_loop_is_stopped(client: Client) -> None:
    task_id = await schedule(client, schedule_type="LOOP")

    stopped = await client.post(f"/api/tasks/{task_id}/stop-loop")
    again = await client.post(f"/api/tasks/{task_id}/stop-loop")

    assert stopped.json() == {"task_id": task_id, "last_round_id": task_id}
    assert again.json() == {"task_id": task_id, "last_round_id": None}


# Schedules and queues


async def test_a_schedule_is_made_and_changed_by_its_name(client: Client) -> None:
    body = {"definition": "job", "cron_expression": "0 3 * * *", "timezone": "Europe/Paris"}

    first = await client.post("/api/schedules", json=body)
    again = await client.post("/api/schedules", json=body)
    other = await client.post("/api/schedules", json={**body, "name": "another"})

    assert first.status_code == 201
    assert first.json() == again.json() != other.json()


async def test_queues_and_what_comes_up_are_shown(client: Client) -> None:
    await schedule(client)
    later = await schedule(client, schedule_type="DELAYED", delay_seconds=3600)

    (queue,) = (await client.get("/api/queues")).json()["queues"]
    (next_one,) = (await client.get("/api/upcoming")).json()["upcoming"]

    assert (queue["queue"], queue["due_count"], queue["later_count"]) == ("default", 1, 1)
    assert (next_one["id"], next_one["kind"], next_one["name"]) == (later, "task", "job")


# Reports


async def test_a_task_is_reported_to_its_end(dsn: str, client: Client) -> None:
    task_id = dispatched_task(dsn)
    url = f"/api/tasks/{task_id}/status"

    running = await client.post(url, json={"status": "RUNNING", "progress": {"done": 1}})
    ended = await client.post(
        url, json={"task_id": task_id, "status": "SUCCESS", "attempt": 1, "output_ref": "s3\0://x"}
    )

    assert running.json() == {"task_id": task_id, "status": "RUNNING"}
    assert ended.json() == {"task_id": task_id, "status": "SUCCESS"}
    task = task_row(dsn, task_id)
    assert (task["progress"], task["output_ref"]) == ({"done": 1}, "s3://x")


async def test_the_attempt_of_the_query_counts_when_the_body_has_none(
    dsn: str, client: Client
) -> None:
    task_id = dispatched_task(dsn)
    url = f"/api/tasks/{task_id}/status"

    of_query = await client.post(url, params={"attempt": 2}, json={"status": "RUNNING"})
    of_body = await client.post(
        url, params={"attempt": 2}, json={"status": "RUNNING", "attempt": 1}
    )

    assert (of_query.status_code, of_body.status_code) == (422, 200)
    assert "attempt 2" in of_query.json()["message"]


async def test_a_refused_report_leaves_an_event(dsn: str, client: Client) -> None:
    task_id = dispatched_task(dsn)
    await client.post(f"/api/tasks/{task_id}/status", json={"status": "SUCCESS"})

    late = await client.post(f"/api/tasks/{task_id}/status", json={"status": "RUNNING"})

    assert late.status_code == 409
    assert late.json()["code"] == "PS409"
    assert "stop working on it" in late.json()["message"]
    assert events_of(dsn, task_id) == ["REPORT_REFUSED"]


async def test_a_report_is_posted_and_nothing_else(client: Client) -> None:
    response = await client.put(f"/api/tasks/{NOBODY}/status", json={"status": "SUCCESS"})

    assert (response.status_code, response.headers["Allow"]) == (405, "POST")
    assert response.json()["code"] == "METHOD_NOT_ALLOWED"


async def test_a_list_of_reports_is_answered_one_by_one(dsn: str, client: Client) -> None:
    task_id = dispatched_task(dsn)
    wanted: list[Any] = [
        {"task_id": task_id, "status": "RUNNING"},
        {"task_id": "no uuid", "status": "RUNNING"},
        "nonsense",
        {"task_id": {"no": "uuid"}, "status": "RUNNING"},
        {"task_id": NOBODY, "status": "SUCCESS"},
        {"task_id": task_id, "status": "SUCCESS"},
        {"task_id": task_id, "status": "FAILED"},
    ]

    response = await client.post("/api/tasks/status", json=wanted)

    assert response.status_code == 200
    results = response.json()["results"]
    assert [(r["task_id"], r["status"], r.get("code")) for r in results] == [
        (task_id, "RUNNING", None),
        ("no uuid", None, "PS422"),
        (None, None, "PS422"),
        (None, None, "PS422"),
        (NOBODY, None, "PS404"),
        (task_id, "SUCCESS", None),
        (task_id, "SUCCESS", "PS409"),
    ]
    assert events_of(dsn, task_id) == ["REPORT_REFUSED"]
    assert (await client.post("/api/tasks/status", json=[])).json() == {"results": []}


async def test_a_task_that_stays_locked_is_a_conflict(
    dsn: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "LOCKED_WAIT", 0.05)
    task_id = dispatched_task(dsn)
    async with await psycopg.AsyncConnection.connect(dsn) as other:
        await other.execute("select from pgsched.scheduled_tasks for update")

        response = await client.post(f"/api/tasks/{task_id}/status", json={"status": "SUCCESS"})

    assert (response.status_code, response.json()["code"]) == (409, "PS409")


async def test_many_reports_at_the_same_time_are_all_applied(dsn: str, client: Client) -> None:
    tasks = [dispatched_task(dsn) for _ in range(20)]

    answers = await asyncio.gather(
        *(client.post(f"/api/tasks/{task}/status", json={"status": "SUCCESS"}) for task in tasks)
    )

    assert [answer.json() for answer in answers] == [
        {"task_id": task, "status": "SUCCESS"} for task in tasks
    ]
    assert count_tasks(dsn) == 0


# What is refused


TASKS = "/api/tasks"
WRONG: list[tuple[str, str, Any, int, str]] = [
    # method, path, body, status, what the message names
    ("POST", TASKS, {"definition": "nothing"}, 404, "nothing"),
    ("POST", TASKS, {"definition": "job", "queue": "nowhere"}, 404, "nowhere"),
    ("GET", f"{TASKS}/{NOBODY}", None, 404, NOBODY),
    ("GET", "/api/definitions/nothing", None, 404, "nothing"),
    ("POST", f"{TASKS}/{NOBODY}/cancel", None, 404, NOBODY),
    ("POST", f"{TASKS}/{NOBODY}/retry", None, 404, NOBODY),
    ("POST", f"{TASKS}/{NOBODY}/stop-loop", None, 404, NOBODY),
    ("POST", f"{TASKS}/{NOBODY}/status", {"status": "RUNNING"}, 404, NOBODY),
    ("GET", f"{TASKS}/no-uuid", None, 422, "task_id"),
    ("POST", f"{TASKS}/no-uuid/cancel", None, 422, "task_id"),
    ("POST", f"{TASKS}/no-uuid/status", {"status": "RUNNING"}, 422, "task_id"),
    ("GET", f"{TASKS}?trace_id=no-uuid", None, 422, "trace_id"),
    ("GET", f"{TASKS}?before=no-uuid", None, 422, "before"),
    ("GET", f"{TASKS}?status=DONE", None, 422, "status"),
    ("GET", f"{TASKS}?limit=0", None, 422, "limit"),
    ("GET", f"{TASKS}?limit=1001", None, 422, "limit"),
    ("GET", f"{TASKS}?queue=%00", None, 422, "NUL"),
    ("POST", TASKS, {}, 422, "definition"),
    ("POST", TASKS, [], 422, "body"),
    ("POST", TASKS, "text", 422, "body"),
    ("POST", TASKS, None, 422, "body"),
    ("POST", TASKS, {"definition": "job", "color": "red"}, 422, "color"),
    ("POST", TASKS, {"definition": "job", "depends_on": ["x"]}, 422, "depends_on"),
    ("POST", TASKS, {"definition": "job", "depends_on": [NOBODY]}, 404, NOBODY),
    ("POST", TASKS, {"definition": "job", "priority": 10}, 422, "priority"),
    ("POST", TASKS, {"definition": "job", "priority": "5"}, 422, "priority"),
    ("POST", TASKS, {"definition": "job", "priority": True}, 422, "priority"),
    ("POST", TASKS, {"definition": "job", "delay_seconds": "5"}, 422, "delay_seconds"),
    ("POST", TASKS, {"definition": "job", "scheduled_time": 1893456000}, 422, "scheduled_time"),
    ("POST", TASKS, {"definition": "job", "scheduled_time": "1893456000"}, 422, "ISO 8601"),
    ("POST", "/api/tasks/retry", {"definition": "job", "preview": 1}, 422, "preview"),
    ("POST", TASKS, {"definition": "job", "trace_id": "no uuid"}, 422, "trace_id"),
    ("POST", TASKS, {"definition": "job", "schedule_type": "CRON"}, 422, "schedule_type"),
    ("POST", TASKS, {"definition": "job", "delay_seconds": 5}, 422, "delay"),
    ("POST", TASKS, {"definition": "job", "input_params": [1]}, 422, "input_params"),
    ("POST", TASKS, {"definition": "job", "input_params": {"a": "\0"}}, 422, "input_params"),
    ("POST", TASKS, {"definition": "job", "input_params": {"a": "\ud800"}}, 422, "JSON"),
    ("POST", TASKS, {"definition": "job", "input_params": {"a": float("nan")}}, 422, "nan"),
    ("POST", TASKS, {"definition": "job", "input_params": {"a": "x" * 262144}}, 422, "262144"),
    ("POST", TASKS, {"definition": "job", "schedule_type": "DELAYED"}, 422, "delay"),
    (
        "POST",
        TASKS,
        {"definition": "job", "schedule_type": "DELAYED", "delay_seconds": -1},
        422,
        "delay_seconds",
    ),
    (
        "POST",
        TASKS,
        {"definition": "job", "schedule_type": "DELAYED", "delay_seconds": 1e300},
        422,
        "delay_seconds",
    ),
    (
        "POST",
        TASKS,
        {"definition": "job", "schedule_type": "DELAYED", "scheduled_time": "2030-01-01T00:00:00"},
        422,
        "scheduled_time",
    ),
    (
        "POST",
        TASKS,
        {"definition": "job", "schedule_type": "LOOP", "max_rounds": 0},
        422,
        "max_rounds",
    ),
    ("POST", TASKS, {"definition": "job", "schedule_type": "INTERVAL_LOOP"}, 422, "loop_interval"),
    ("POST", "/api/schedules", {"definition": "job", "cron_expression": "61 * * * *"}, 422, "cron"),
    ("POST", "/api/schedules", {"definition": "job"}, 422, "cron_expression"),
    (
        "POST",
        "/api/schedules",
        {"definition": "job", "cron_expression": "0 3 * * *", "timezone": "Mars/Base"},
        422,
        "timezone",
    ),
    ("POST", "/api/definitions", {"name": ""}, 422, "name"),
    ("POST", "/api/definitions", {"name": "x", "timeout_seconds": 0}, 422, "timeout_seconds"),
    ("POST", "/api/definitions", {"name": "x", "cron_expr": "nonsense"}, 422, "cron_expr"),
    ("POST", f"{TASKS}/{NOBODY}/status", {"status": "DONE"}, 422, "status"),
    ("POST", f"{TASKS}/{NOBODY}/status", {}, 422, "status"),
    ("POST", f"{TASKS}/{NOBODY}/status", [], 422, "body"),
    ("POST", f"{TASKS}/{NOBODY}/status", {"status": "RUNNING", "color": 1}, 422, "color"),
    ("POST", f"{TASKS}/{NOBODY}/status", {"status": "RUNNING", "attempt": 2**31}, 422, "attempt"),
    ("POST", f"{TASKS}/{NOBODY}/status?attempt=x", {"status": "RUNNING"}, 422, "attempt"),
    (
        "POST",
        f"{TASKS}/{NOBODY}/status?attempt=x",
        {"status": "RUNNING", "attempt": 1},
        422,
        "attempt",
    ),
    ("POST", f"{TASKS}/{NOBODY}/status", {"status": "RUNNING", "task_id": "x"}, 422, "task_id"),
    ("POST", "/api/tasks/status", {"status": "RUNNING"}, 422, "body"),
    ("POST", "/api/tasks/status", [{}] * 10_001, 422, "10000"),
]


async def test_bad_input_is_refused_by_name_and_changes_nothing(dsn: str, client: Client) -> None:
    for method, path, body, status, named in WRONG:
        content = None if body is None else json.dumps(body)
        response = await client.request(
            method, path, content=content, headers={"Content-Type": "application/json"}
        )

        case = f"{method} {path} {str(body)[:80]}: {response.text}"
        assert response.status_code == status, case
        assert response.json().keys() == {"code", "message"}, case
        assert response.json()["code"] == f"PS{status}", case
        assert named in response.json()["message"], case
    assert count_tasks(dsn) == 0


@pytest.mark.parametrize("path", [TASKS, f"{TASKS}/{NOBODY}/status", "/api/tasks/status"])
@pytest.mark.parametrize("body", [b"{", b'{"a": \xff}', b"[" * 100_000, b'{"a": NaN}', b""])
async def test_malformed_json_is_refused(client: Client, path: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}

    response = await client.post(path, content=body, headers=headers)

    assert (response.status_code, response.json()["code"]) == (422, "PS422")


async def test_what_is_not_sent_as_json_is_refused(client: Client) -> None:
    response = await client.post("/api/tasks", content=b'{"definition": "job"}')

    assert response.status_code == 422
    assert "application/json" in response.json()["message"]


async def test_two_idempotency_keys_are_one_too_many(client: Client) -> None:
    body = {"definition": "job", "idempotency_key": "a"}

    response = await client.post("/api/tasks", json=body, headers={"Idempotency-Key": "b"})

    assert response.status_code == 422
    assert "idempotency_key" in response.json()["message"]


async def test_what_is_not_there_is_told_from_a_task_that_is_not(client: Client) -> None:
    path = await client.get("/api/nothing")
    method = await client.delete("/api/tasks")

    assert (path.status_code, path.json()["code"]) == (404, "NOT_FOUND")
    assert (method.status_code, method.json()["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert method.headers["Allow"] == "GET, POST"


@pytest.mark.parametrize("word", ["bulk", "cancel", "retry", "status"])
async def test_a_word_that_is_posted_to_is_no_task(client: Client, word: str) -> None:
    response = await client.get(f"/api/tasks/{word}")

    assert (response.status_code, response.headers["Allow"]) == (405, "POST")


async def in_pieces(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 65_536):
        yield b" " * 65_536


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        (TASKS, MAX_BODY),
        (f"{TASKS}/{NOBODY}/status", MAX_BODY),
        ("/api/tasks/status", MAX_LIST),
        ("/api/tasks/bulk", MAX_LIST),
    ],
)
async def test_a_body_that_is_too_large_is_refused(client: Client, path: str, limit: int) -> None:
    headers = {"Content-Type": "application/json"}
    with_length = await client.post(path, content=b" " * (limit + 1), headers=headers)
    without = await client.post(path, content=in_pieces(limit + 65_536), headers=headers)
    just_fits = await client.post(path, content=in_pieces(limit), headers=headers)

    assert (with_length.status_code, with_length.json()["code"]) == (413, "TOO_LARGE")
    assert (without.status_code, without.json()["code"]) == (413, "TOO_LARGE")
    assert just_fits.status_code == 422


async def test_a_fault_is_logged_and_told_without_details(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("the secret is 42")

    monkeypatch.setattr(services.Services, "unready_because", broken)

    response = await client.get("/health/ready")

    assert (response.status_code, response.json()["code"]) == (500, "INTERNAL")
    assert "42" not in response.text
    assert "the secret is 42" in caplog.text


# The key


async def test_without_the_key_there_is_nothing_but_health(
    dsn: str, open_client: OpenClient
) -> None:
    client = await open_client(dsn, api_key=SecretStr(KEY))

    for path in ("/api/tasks", "/openapi.json", "/docs", "/nothing"):
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}):
            refused = await client.get(path, headers=given)
            assert (refused.status_code, refused.json()["code"]) == (401, "UNAUTHORIZED")
            assert refused.headers["WWW-Authenticate"] == "Bearer"
    for path in ("/health/live", "/health/ready"):
        assert (await client.get(path)).status_code == 200

    for scheme in ("Bearer", "bearer"):
        given = {"Authorization": f"{scheme} {KEY}"}
        assert (await client.get("/api/tasks", headers=given)).status_code == 200


SECRETS = [b"new" * 8, b"old" * 8]
SECRET_TEXT = SecretStr(" ".join(base64.b64encode(secret).decode() for secret in SECRETS))


@pytest.fixture
async def guarded(dsn: str, open_client: OpenClient) -> Client:
    return await open_client(dsn, api_key=SecretStr(KEY), callback_secret=SECRET_TEXT)


def bearing(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("secret", SECRETS)
async def test_with_its_callback_token_an_executor_reports_without_the_key(
    dsn: str, guarded: Client, secret: bytes
) -> None:
    task_id = dispatched_task(dsn)
    token = bearing(callback_token(secret, task_id, 1))
    path = f"/api/tasks/{task_id}/status"

    running = await guarded.post(path, json={"status": "RUNNING"}, headers=token)
    done = await guarded.post(
        f"{path}?attempt=1",
        json={"status": "SUCCESS"},
        headers=token,
    )

    assert running.json() == {"task_id": task_id, "status": "RUNNING"}
    assert done.status_code == 200, done.text
    assert task_row(dsn, task_id)["status"] == "SUCCESS"


async def test_a_callback_token_opens_nothing_but_its_attempt_of_its_task(
    dsn: str, guarded: Client
) -> None:
    task_id, other = dispatched_task(dsn), dispatched_task(dsn)
    token = bearing(callback_token(SECRETS[0], task_id, 1))
    path, body = f"/api/tasks/{task_id}/status", {"status": "SUCCESS"}

    for method, strange in (
        ("POST", f"/api/tasks/{other}/status"),
        ("POST", "/api/tasks/status"),
        ("POST", f"/api/tasks/{task_id}/cancel"),
        ("GET", f"/api/tasks/{task_id}"),
        ("GET", path),
    ):
        refused = await guarded.request(method, strange, json=body, headers=token)
        assert refused.status_code == 401, strange
    for query, more in (("?attempt=2", {}), ("", {"attempt": 2}), ("?attempt=1", {"attempt": 2})):
        refused = await guarded.post(path + query, json=body | more, headers=token)
        assert (refused.status_code, refused.json()["code"]) == (403, "FORBIDDEN")
        assert "good for attempt 1, and not for attempt 2" in refused.json()["message"]
    forged = bearing(callback_token(b"bad" * 8, task_id, 1))
    assert (await guarded.post(path, json=body, headers=forged)).status_code == 401
    assert task_row(dsn, task_id)["status"] == task_row(dsn, other)["status"] == "DISPATCHED"


async def test_without_a_callback_secret_no_token_is_taken(
    dsn: str, open_client: OpenClient
) -> None:
    client = await open_client(dsn, api_key=SecretStr(KEY))
    task_id = dispatched_task(dsn)

    token = bearing(callback_token(SECRETS[0], task_id, 1))
    refused = await client.post(
        f"/api/tasks/{task_id}/status", json={"status": "SUCCESS"}, headers=token
    )

    assert refused.status_code == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
async def test_the_world_is_not_served_without_a_key(host: str) -> None:
    for key in (None, SecretStr("")):
        settings = Settings(database_url=DOWN, api_host=host, api_key=key)
        with pytest.raises(ConfigError, match="PGSCHED_API_KEY"):
            await api.serve(settings, asyncio.Event())


# Health, and a database that is not there


async def test_it_is_live_and_ready(client: Client) -> None:
    assert (await client.get("/health/live")).json() == {"status": "live"}
    assert (await client.get("/health/ready")).json() == {"status": "ready"}


async def test_without_a_database_it_is_live_and_says_so_of_the_rest(
    open_client: OpenClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "CONNECTION_WAIT", 0.05)
    client = await open_client(DOWN)

    assert (await client.get("/health/live")).status_code == 200
    responses = [
        await client.get("/health/ready"),
        await client.get("/api/tasks"),
        await client.post("/api/tasks", json={"definition": "job"}),
        await client.post(f"/api/tasks/{NOBODY}/status", json={"status": "RUNNING"}),
        await client.post("/api/tasks/status", json=[{"task_id": NOBODY, "status": "RUNNING"}]),
    ]

    for response in responses:
        assert (response.status_code, response.json()["code"]) == (503, "UNAVAILABLE")


@pytest.mark.own_database
async def test_ready_names_what_the_schema_lacks(dsn: str, client: Client) -> None:
    execute(dsn, "delete from pgsched.schema_migrations where name = 'views'")
    behind = await client.get("/health/ready")
    execute(dsn, "drop schema pgsched cascade")
    missing = await client.get("/health/ready")
    refused = await client.post("/api/tasks", json={"definition": "job"})

    assert behind.status_code == missing.status_code == refused.status_code == 503
    assert re.search(r"lacks \d{3} views:", behind.json()["message"])
    assert "missing" in missing.json()["message"]


@pytest.mark.own_database
async def test_ready_refuses_a_schema_that_is_too_new(dsn: str, client: Client) -> None:
    add = "insert into pgsched.schema_migrations (version, name, breaking) values (999, 'x', {})"
    execute(dsn, add.format("false"))
    assert (await client.get("/health/ready")).status_code == 200

    execute(dsn, "update pgsched.schema_migrations set breaking = true where version = 999")
    response = await client.get("/health/ready")

    assert response.status_code == 503
    assert "too new" in response.json()["message"]


@pytest.mark.own_database
@pytest.mark.parametrize("path", ["/health/ready", "/api/definitions"])
async def test_a_database_that_takes_no_writes_is_connected_to_anew(
    dsn: str, postgresql: psycopg.Connection[Any], open_client: OpenClient, path: str
) -> None:
    postgresql.autocommit = True
    alter = f"alter database {postgresql.info.dbname}"  # which holds for later sessions
    postgresql.execute(f"{alter} set default_transaction_read_only = on".encode())
    client = await open_client(dsn)
    body = {"name": "job"}
    method = "GET" if path == "/health/ready" else "POST"

    answer = await client.request(method, path, json=body)

    assert answer.status_code == 503
    assert "the database is read-only" in answer.text
    postgresql.execute(f"{alter} reset default_transaction_read_only".encode())
    async with asyncio.timeout(30):  # what was connected before the reset is left once more
        while (answer := await client.post("/api/definitions", json=body)).status_code == 503:
            pass
    assert answer.status_code == 201


@pytest.mark.parametrize("hangs_up", [True, False])
async def test_connections_that_the_server_has_cut_are_not_noticed_outside(
    dsn: str, door: Door, client: Client, hangs_up: bool
) -> None:
    if not hangs_up:  # it says goodbye first
        door.hold_hangups()
    way = make_conninfo(dsn, host="127.0.0.1", port=door.port)
    app = api.create_app(Settings(database_url=as_role(way, "operator")))
    async with client_of(app) as behind:
        async with AsyncExitStack() as stack:  # all that there may be: none is opened meanwhile
            for _ in range(services.CONNECTIONS):
                await stack.enter_async_context(app.state.services.connection())

        with psycopg.connect(dsn, autocommit=True) as conn:
            cut_sessions(conn, "pgsched")
        await until(lambda: door.all_have_hung_up)

        assert (await behind.post("/api/tasks", json={"definition": "job"})).status_code == 201


# The document


async def test_every_path_is_in_the_openapi_document(client: Client) -> None:
    document = (await client.get("/openapi.json")).json()

    assert set(document["paths"]) == {
        "/api/cron/explain",
        "/api/cron/next",
        "/api/definitions",
        "/api/definitions/{name_or_id}",
        "/api/external-systems",
        "/api/external-systems/{name}/close",
        "/api/external-systems/{name}/open",
        "/api/queues",
        "/api/queues/{queue}/pause",
        "/api/queues/{queue}/resume",
        "/api/schedules",
        "/api/schedules/{schedule}",
        "/api/schedules/{schedule}/backfill",
        "/api/schedules/{schedule}/backfills",
        "/api/schedules/{schedule}/changes",
        "/api/schedules/{schedule}/fires",
        "/api/schedules/{schedule}/next",
        "/api/schedules/{schedule}/pause",
        "/api/schedules/{schedule}/resume",
        "/api/schedules/{schedule}/trigger",
        "/api/tasks",
        "/api/tasks/bulk",
        "/api/tasks/cancel",
        "/api/tasks/retry",
        "/api/tasks/status",
        "/api/tasks/{task_id}",
        "/api/tasks/{task_id}/cancel",
        "/api/tasks/{task_id}/explanation",
        "/api/tasks/{task_id}/retry",
        "/api/tasks/{task_id}/status",
        "/api/tasks/{task_id}/stop-loop",
        "/api/upcoming",
        "/health/live",
        "/health/ready",
        "/metrics",
    }
    report = document["paths"]["/api/tasks/{task_id}/status"]["post"]
    properties = report["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert "next_input" in properties
    assert [p["name"] for p in report["parameters"]] == ["task_id", "attempt"]
    assert document["paths"]["/api/schedules"].keys() == {"get", "post"}
    assert document["paths"]["/api/schedules/{schedule}"].keys() == {"get", "patch", "delete"}


async def test_the_docs_name_every_path(client: Client) -> None:
    text = (Path(__file__).parents[1] / "docs" / "http_api.md").read_text()
    document = (await client.get("/openapi.json")).json()

    assert [path for path in document["paths"] if f"`{path}`" not in text] == []


# As a process


class Server:
    def __init__(self, log: Path, environment: dict[str, str]) -> None:
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pgsched", "serve"],
                env={**os.environ, "PGSCHED_API_PORT": "0", **environment},
                stdout=out,
                stderr=out,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def url(self) -> str:
        found = eventually(lambda: re.search(r"API listening url=(http://\S+)", self.log))
        assert found is not None
        return found[1]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    with ExitStack() as stack:

        def start(**environment: str) -> Server:
            server = Server(tmp_path / "log", environment)
            stack.callback(server.end)
            return server

        yield start


def test_the_process_serves_and_ends_on_sigterm_with_exit_0(
    dsn: str, start_server: Callable[..., Server]
) -> None:
    task_id = dispatched_task(dsn)
    server = start_server(PGSCHED_DATABASE_URL=as_role(dsn, "operator"), PGSCHED_API_KEY=KEY)
    with httpx.Client(
        base_url=server.url, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False
    ) as client:
        eventually(lambda: client.get("/health/ready").status_code == 200)
        body = {"status": "SUCCESS"}
        answer = client.post(f"/api/tasks/{task_id}/status?attempt=1", json=body)
        refused = httpx.get(f"{server.url}/api/tasks", trust_env=False)

        server.process.send_signal(signal.SIGTERM)

        assert server.process.wait(30) == 0
    assert answer.json() == {"task_id": task_id, "status": "SUCCESS"}
    assert refused.status_code == 401
    assert "Traceback" not in server.log
    assert KEY not in server.log


def test_the_process_starts_while_the_database_is_down(
    start_server: Callable[..., Server],
) -> None:
    server = start_server(PGSCHED_DATABASE_URL=DOWN)

    with httpx.Client(base_url=server.url, trust_env=False) as client:
        assert eventually(lambda: client.get("/health/live")).status_code == 200
        assert client.get("/health/ready").status_code == 503
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) == 0


def test_a_port_that_is_taken_is_one_line_and_exit_1(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    first = start_server(PGSCHED_DATABASE_URL=DOWN)
    port = first.url.rpartition(":")[2]
    second = Server(tmp_path / "second", {"PGSCHED_DATABASE_URL": DOWN, "PGSCHED_API_PORT": port})

    assert second.process.wait(30) == 1
    assert "PGSCHED_API_PORT: cannot listen on 127.0.0.1" in second.log
    assert "Traceback" not in second.log


def test_without_the_extra_the_error_says_what_to_install() -> None:
    hide = "import sys; sys.modules['fastapi'] = None; import pgsched.api"

    result = subprocess.run(
        [sys.executable, "-c", hide], capture_output=True, text=True, check=False
    )

    assert "ConfigError: the API needs the extra `server`" in result.stderr
