"""The endpoints for operators: queues, external systems, and acts on many tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import psycopg
import pytest

from pgsched import api
from pgsched.settings import Settings
from tests.apps import client_of
from tests.roles import as_role

Client = httpx.AsyncClient

NOBODY = "01980000-0000-7000-8000-000000000000"
KEY = "s3cret"


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[Client]:
    app = api.create_app(Settings(database_url=as_role(dsn, "operator")))
    async with client_of(app) as client:
        await client.post("/api/definitions", json={"name": "job"})
        yield client


async def post(client: Client, path: str, body: Any = None, expected: int = 200) -> Any:
    response = await client.post(f"/api/{path}", json=body)
    assert response.status_code == expected, response.text
    return response.json()


async def queue(client: Client, name: str) -> Any:
    queues = (await client.get("/api/queues")).json()["queues"]
    return next(row for row in queues if row["queue"] == name)


async def schedule(client: Client, **body: Any) -> str:
    return str((await post(client, "tasks", {"definition": "job", **body}, 201))["task_id"])


async def status(client: Client, task_id: str) -> str:
    return str((await client.get(f"/api/tasks/{task_id}")).json()["status"])


# External systems


async def test_an_external_system_can_be_made_changed_and_seen(client: Client) -> None:
    body = {
        "name": "mailer",
        "base_url": "https://mailer.example.org",
        "api_key_env": "MAILER_KEY",
        "signing_secret_env": "MAILER_SECRET",
        "completion": "response",
        "request_timeout_seconds": 2.5,
        "delivery_timeout_seconds": 3600,
        "batch_size": 50,
        "max_in_flight": 4,
        "push_statuses": ["FAILED"],
    }
    await post(client, "external-systems", {"name": "mailer", "batch_size": 2}, 201)
    made = await post(client, "external-systems", body, 201)

    assert made == {"external_system": "mailer"}
    systems = (await client.get("/api/external-systems")).json()["external_systems"]
    assert [row["name"] for row in systems] == ["default", "mailer"]
    assert systems[1].items() >= {**body, "breaker": "closed", "open_until": None}.items()


async def test_no_answer_holds_more_than_the_name_of_a_key(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILER_KEY", KEY)
    await post(client, "external-systems", {"name": "mailer", "api_key_env": "MAILER_KEY"}, 201)

    assert KEY not in (await client.get("/api/external-systems")).text


@pytest.mark.parametrize("name", ["mailer", "a/b c"])
async def test_a_breaker_can_be_opened_and_closed(client: Client, name: str) -> None:
    await post(client, "external-systems", {"name": name}, 201)
    await post(client, "queues", {"name": "mail", "external_system": name}, 201)

    opened = await post(client, f"external-systems/{name}/open", {"reason": "moving"})

    assert (opened["external_system"], opened["breaker"]) == (name, "open")
    row = await queue(client, "mail")
    assert (row["breaker"], row["open_reason"]) == ("open", "moving")
    assert row["open_until"] == opened["open_until"] is not None
    assert await post(client, f"external-systems/{name}/open") == opened
    closed = {"external_system": name, "breaker": "closed", "open_until": None}
    assert await post(client, f"external-systems/{name}/close") == closed
    assert await post(client, f"external-systems/{name}/close") == closed


# Queues


async def test_a_queue_can_be_made_and_changed(client: Client) -> None:
    body = {"name": "mail", "max_in_flight": 7, "rate_per_second": 2.5, "burst": 3}
    assert await post(client, "queues", body, 201) == {"queue": "mail"}
    row = await queue(client, "mail")
    assert (row["max_in_flight"], row["rate_per_second"]) == (7, 2.5)

    await post(client, "queues", {"name": "mail"}, 201)

    row = await queue(client, "mail")
    assert (row["external_system"], row["max_in_flight"]) == ("default", None)
    assert (row["rate_per_second"], row["in_flight_count"]) == (None, 0)


async def test_a_queue_can_be_paused_and_resumed(client: Client) -> None:
    paused = await post(client, "queues/default/pause", {"note": "moving"})
    assert paused == {"queue": "default", "is_paused": True}
    assert (await queue(client, "default"))["is_paused"] is True

    resumed = await post(client, "queues/default/resume")

    assert resumed == {"queue": "default", "is_paused": False}
    row = await queue(client, "default")
    assert (row["is_paused"], row["is_ramping"]) == (False, True)


# Many tasks


async def test_many_tasks_can_be_counted_cancelled_and_retried(client: Client) -> None:
    tasks = [await schedule(client) for _ in range(3)]
    chosen = {"definition": "job", "status": "PENDING"}

    counted = await post(client, "tasks/cancel", {**chosen, "preview": True})
    assert counted == {"matched": 3, "done": 0, "refused": 0}
    assert [await status(client, task_id) for task_id in tasks] == ["PENDING"] * 3

    some = await post(client, "tasks/cancel", {**chosen, "limit": 2, "reason": "void"})
    assert some == {"matched": 2, "done": 2, "refused": 0}
    back = await post(client, "tasks/retry", {"error_like": "vo%", "after": "2020-01-01T00:00:00Z"})
    assert back == {"matched": 2, "done": 2, "refused": 0}
    assert [await status(client, task_id) for task_id in tasks] == ["PENDING"] * 3


async def test_what_cannot_be_retried_is_counted(client: Client) -> None:
    first = await schedule(client)
    waiting = await schedule(client, depends_on=[first], queue="default", trace_id=NOBODY)
    await post(client, f"tasks/{first}/cancel")

    refused = await post(client, "tasks/retry", {"trace_id": NOBODY})

    assert refused == {"matched": 1, "done": 0, "refused": 1}
    assert await status(client, waiting) == "CANCELLED"


# What is refused

LISTS = [
    ("tasks/retry", {}, "definition, queue, schedule, trace_id, status"),
    ("tasks/retry", {"preview": True}, "at least one of"),
    ("tasks/retry", {"status": "SUCCESS"}, "status"),
    ("tasks/retry", {"status": "PENDING"}, "status"),
    ("tasks/retry", {"queue": "default", "limit": 0}, "limit"),
    ("tasks/retry", {"queue": "default", "limit": 10_001}, "limit"),
    ("tasks/retry", {"queue": "default", "reason": "x"}, "reason"),
    ("tasks/retry", {"after": "yesterday"}, "after"),
    ("tasks/retry", {"after": "2026-01-02T00:00:00"}, "after"),
    ("tasks/retry", {"trace_id": "x"}, "trace_id"),
    ("tasks/retry", {"error_like": "a\\"}, "error_like"),
    ("tasks/cancel", {}, "at least one of"),
    ("tasks/cancel", {"status": "FAILED"}, "status"),
    ("tasks/cancel", {"colour": "red"}, "colour"),
    (
        "tasks/cancel",
        {"after": "2026-01-02T00:00:00Z", "before": "2026-01-01T00:00:00Z"},
        "after",
    ),
]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("external-systems", {}, "name"),
        ("external-systems", {"name": ""}, "name"),
        ("external-systems", {"name": "a", "base_url": "mailer"}, "base_url"),
        ("external-systems", {"name": "a", "base_url": "https://me:pw@mailer"}, "base_url"),
        ("external-systems", {"name": "a", "api_key": "s3cret"}, "api_key"),
        ("external-systems", {"name": "a", "completion": "maybe"}, "completion"),
        ("external-systems", {"name": "a", "request_timeout_seconds": 0}, "request_timeout"),
        ("external-systems", {"name": "a", "delivery_timeout_seconds": 0}, "delivery_timeout"),
        ("external-systems", {"name": "a", "batch_size": 1001}, "batch_size"),
        ("external-systems", {"name": "a", "max_in_flight": 0}, "max_in_flight"),
        ("external-systems", {"name": "a", "push_statuses": ["RUNNING"]}, "push_statuses"),
        ("external-systems/default/open", {"reason": ""}, "reason"),
        ("external-systems/default/open", {"until": "x"}, "until"),
        ("queues", {}, "name"),
        ("queues", {"name": "a b"}, "name"),
        ("queues", {"name": "a", "max_in_flight": 0}, "max_in_flight"),
        ("queues", {"name": "a", "rate_per_second": 0}, "rate_per_second"),
        ("queues", {"name": "a", "burst": 5}, "burst"),
        ("queues", {"name": "a", "base_url": "https://a"}, "base_url"),
        ("queues/default/pause", {"note": 5}, "note"),
        *LISTS,
    ],
)
async def test_wrong_input_names_the_field(
    client: Client, path: str, body: dict[str, Any], field: str
) -> None:
    refused = await post(client, path, body, 422)

    assert refused["code"] == "PS422"
    assert field in refused["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("external-systems/nowhere/open", None),
        ("external-systems/nowhere/close", None),
        ("queues", {"name": "a", "external_system": "nowhere"}),
        ("queues/nowhere/pause", None),
        ("queues/nowhere/resume", None),
        ("tasks/retry", {"queue": "nowhere"}),
        ("tasks/cancel", {"definition": "nowhere"}),
        ("tasks/cancel", {"schedule": "nowhere"}),
    ],
)
async def test_what_does_not_exist_is_named(client: Client, path: str, body: Any) -> None:
    refused = await post(client, path, body, 404)

    assert refused["code"] == "PS404"
    assert "nowhere" in refused["message"]


async def test_a_locked_breaker_is_a_conflict(dsn: str, client: Client) -> None:
    with psycopg.connect(dsn) as stranger:
        stranger.execute("select from pgsched.external_systems for update")

        refused = await post(client, "external-systems/default/open", None, 409)

    assert refused["code"] == "PS409"


async def test_the_endpoints_of_single_tasks_are_still_there(client: Client) -> None:
    task_id = await schedule(client)
    assert (await post(client, f"tasks/{task_id}/cancel"))["status"] == "CANCELLED"
    assert (await post(client, f"tasks/{task_id}/retry"))["status"] == "PENDING"
    assert (await client.get("/api/tasks/retry")).status_code == 405
    assert (await post(client, f"tasks/{NOBODY}/retry", None, 404))["code"] == "PS404"
