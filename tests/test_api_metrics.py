"""The metrics of the API: its own, and what it tells of the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import psycopg
import pytest
from pydantic import SecretStr

from pgsched import api, census
from pgsched.api import metrics
from pgsched.settings import Settings
from tests.apps import client_of
from tests.roles import as_role
from tests.scraping import OPENMETRICS, Scrape

Client = httpx.AsyncClient
DOWN = "host=127.0.0.1 port=1 user=nobody dbname=none"
NOBODY = "01980000-0000-7000-8000-000000000000"


@pytest.fixture
async def client(dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    monkeypatch.setattr(metrics, "CENSUS_AGE", 0)
    async for client in serving(dsn):
        yield client


async def serving(dsn: str, **settings: Any) -> AsyncIterator[Client]:
    app = api.create_app(Settings(database_url=as_role(dsn, "operator"), **settings))
    async with client_of(app) as client:
        yield client


async def scrape(client: Client, accept: str = "text/plain") -> Scrape:
    answer = await client.get("/metrics", headers={"Accept": accept})
    assert answer.status_code == 200, answer.text
    return Scrape(answer.text, is_openmetrics="openmetrics" in answer.headers["content-type"])


def execute(dsn: str, *queries: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        for query in queries:
            conn.execute(query.encode())


async def test_requests_are_counted_by_route_and_class_of_status(client: Client) -> None:
    await client.post("/api/definitions", json={"name": "job"})
    for task in (NOBODY, NOBODY.replace("1", "2")):
        assert (await client.get(f"/api/tasks/{task}")).status_code == 404
    await client.get("/nowhere")
    await client.request("BREW", "/coffee")
    found = await scrape(client)

    assert found.values("pgsched_api_requests_total") == {
        ("POST", "/api/definitions", "2xx"): 1,
        ("GET", "/api/tasks/{task_id}", "4xx"): 2,
        ("GET", "none", "4xx"): 1,
        ("other", "none", "4xx"): 1,
    }
    name = "pgsched_api_request_duration_seconds_count"
    assert found.value(name, "GET", "/api/tasks/{task_id}") == 2


async def test_what_is_refused_at_the_door_is_counted_as_well(dsn: str) -> None:
    async for client in serving(dsn, api_key=SecretStr("s3cret")):
        assert (await client.get("/metrics")).status_code == 401
        client.headers["Authorization"] = "Bearer s3cret"
        found = await scrape(client)

    assert found.value("pgsched_api_requests_total", "GET", "none", "4xx") == 1


async def test_reports_are_counted_by_status_and_answer(client: Client) -> None:
    await client.post("/api/definitions", json={"name": "job"})
    await client.post(f"/api/tasks/{NOBODY}/status", json={"status": "SUCCESS"})
    reports = [{"task_id": NOBODY, "status": "RUNNING"}, {"task_id": NOBODY, "status": "RUNNING"}]
    await client.post("/api/tasks/status", json=reports)
    found = await scrape(client)

    assert found.values("pgsched_api_reports_total") == {
        ("PS404", "SUCCESS"): 1,
        ("PS404", "RUNNING"): 2,
    }
    assert found.value("pgsched_api_requests_total", "POST", "/api/tasks/{task_id}/status", "4xx")


async def test_a_report_that_counts_is_ok(client: Client, dsn: str) -> None:
    execute(dsn, "select pgsched.define_task('job')", "select pgsched.schedule_immediate('job')")
    worker = "(select pgsched.register_worker('here', 1, '1'))"
    with psycopg.connect(dsn, autocommit=True) as conn:
        row = conn.execute(
            f"select id::text, attempt from pgsched.claim_due_tasks({worker})".encode()
        ).fetchone()
    assert row is not None
    await client.post(f"/api/tasks/{row[0]}/status", json={"status": "RUNNING"})
    found = await scrape(client)

    assert found.value("pgsched_api_reports_total", "ok", "RUNNING") == 1
    assert found.value("pgsched_workers_alive") == 1
    assert found.value("pgsched_queue_in_flight_tasks", "default", "RUNNING") == 1
    assert found.value("pgsched_queue_in_flight_tasks", "default", "SCHEDULED") == 0


async def test_queues_are_described(client: Client, dsn: str) -> None:
    execute(
        dsn,
        "select pgsched.define_task('job')",
        "select pgsched.define_queue('mail', p_max_in_flight => 5, p_rate_per_second => 2)",
        "select pgsched.pause_queue('mail')",
        "select pgsched.schedule_at('job', now() - interval '100 s', p_priority => n)"
        " from generate_series(-1, 1) as n",
        "update pgsched.scheduled_tasks set execute_after = scheduled_time",
        "select pgsched.schedule_delayed('job', '1 h')",
        "select pgsched.schedule_immediate('job', p_depends_on => array[id])"
        " from pgsched.tasks limit 1",
    )
    found = await scrape(client)

    assert found.value("pgsched_queue_due_tasks", "default") == 3
    assert 100 <= found.value("pgsched_queue_oldest_due_seconds", "default") < 160
    assert found.value("pgsched_queue_oldest_due_seconds", "mail") == 0
    assert found.value("pgsched_queue_later_tasks", "default") == 1
    assert found.value("pgsched_queue_waiting_tasks", "default") == 1
    assert found.values("pgsched_queue_paused") == {("default",): 0, ("mail",): 1}
    assert found.values("pgsched_queue_max_in_flight") == {("mail",): 5}
    assert found.values("pgsched_queue_max_tasks_per_second") == {("mail",): 2}


async def test_counts_stop_at_10_000_over_all_priorities(client: Client, dsn: str) -> None:
    execute(
        dsn,
        "select pgsched.define_task('job')",
        "select pgsched.schedule_many((select jsonb_agg(jsonb_build_object("
        "'definition', 'job', 'priority', n % 10)) from generate_series(1, 11000) as n))",
    )
    found = await scrape(client)

    assert found.value("pgsched_queue_due_tasks", "default") == 10_000


async def test_breakers_schedules_and_the_outbox_are_described(client: Client, dsn: str) -> None:
    execute(
        dsn,
        "select pgsched.define_task('job')",
        "select pgsched.open_breaker('default', 'the test')",
        "select pgsched.schedule_every('job', '1 h', p_name => n) from unnest('{a,b}'::text[]) n",
        "select pgsched.pause_schedule('b')",
        "update pgsched.schedules set next_run_at = now() - interval '50 s' where name = 'a'",
        """
        insert into pgsched.status_pushes (
          task_id, queue, definition_id, trace_id, scheduled_time, status, attempt, created_at,
          due_at, given_up_at
        )
        select
          gen_random_uuid(), 'default', d.id, gen_random_uuid(), now(), 'FAILED', 1,
          now() - interval '70 s', g.due_at, g.given_up_at
        from pgsched.task_definitions as d
        cross join (values (now(), null), (null, now()), (null, now())) as g (due_at, given_up_at)
        """,
    )
    found = await scrape(client)

    assert found.values("pgsched_breaker_state") == {("default",): 1}
    states = {"ACTIVE": 1, "PAUSED": 1, "BROKEN": 0, "ENDED": 0}
    assert found.values("pgsched_schedules") == {(s,): n for s, n in states.items()}
    assert found.value("pgsched_schedules_overdue") == 1
    assert 50 <= found.value("pgsched_schedules_oldest_overdue_seconds") < 110
    assert found.value("pgsched_outbox_messages") == 1
    assert 70 <= found.value("pgsched_outbox_oldest_seconds") < 130
    assert found.value("pgsched_outbox_given_up_messages") == 2


async def test_a_snapshot_that_is_held_shows(client: Client, dsn: str) -> None:
    # Of other roles' sessions only pg_monitor sees that.
    with psycopg.connect(as_role(dsn, "operator")) as stranger:
        stranger.execute("set transaction isolation level repeatable read")
        stranger.execute("select pg_sleep(0.05)")
        found = await scrape(client)

    assert found.value("pgsched_database_oldest_snapshot_seconds") >= 0.05


async def test_ten_who_ask_at_once_cost_one_look(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    async def counted(session: Any) -> census.Census:
        nonlocal looks
        looks += 1
        return await census.take_census(session)

    monkeypatch.setattr(metrics, "take_census", counted)
    async for client in serving(dsn):
        found = await asyncio.gather(*(scrape(client) for _ in range(10)))

    assert looks == 1
    assert all(one.value("pgsched_database_up") == 1 for one in found)


async def test_without_a_database_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "CENSUS_WAIT", 0.1)
    async for client in serving(DOWN):
        found = await scrape(client)

    assert found.value("pgsched_database_up") == 0
    assert found.values("pgsched_queue_due_tasks") == {}
    assert "pgsched_queue_due_tasks" in found.kinds


async def test_both_formats_say_the_same(client: Client) -> None:
    plain, modern = await scrape(client), await scrape(client, OPENMETRICS)

    assert plain.kinds == modern.kinds
    assert modern.value("pgsched_database_up") == 1
