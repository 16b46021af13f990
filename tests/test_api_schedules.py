"""The HTTP API of schedules and of cron expressions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx
import psycopg
import pytest

from pgsched import api
from pgsched.api.next_runs import next_runs
from pgsched.backfiller import Backfiller
from pgsched.database import Database
from pgsched.schedules import Schedule
from pgsched.settings import Settings
from pgsched.ticker import Ticker
from tests.apps import client_of
from tests.executing import task_row
from tests.roles import as_role, login_of

Client = httpx.AsyncClient

SCHEDULES = "/api/schedules"
NOBODY = "01980000-0000-7000-8000-000000000000"
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
# Names hold all that makes a path hard to read.
ODD_NAMES = ["plain", "nightly/mail report", "50% off? #1 & é;=+", "/", "a/fires/b", NOBODY]


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[Client]:
    app = api.create_app(Settings(database_url=as_role(dsn, "operator")))
    async with client_of(app) as client:
        await client.post("/api/definitions", json={"name": "job", "input_params": {"a": 1}})
        yield client


async def work(dsn: str) -> None:
    """What a worker does about schedules that are due, and about backfills that wait."""
    database = Database(as_role(dsn, "worker"))
    await database.open()
    try:
        await Ticker(database, asyncio.Event(), 0.001).step()
        await Backfiller(database, asyncio.Event(), 0.001).step()
    finally:
        await database.close()


def url(name: str, word: str = "") -> str:
    return f"{SCHEDULES}/{quote(name, safe='')}{word and f'/{word}'}"


async def make(client: Client, **body: Any) -> str:
    if "every_seconds" not in body:
        body = {"cron_expression": "0 3 * * *", **body}
    response = await client.post(SCHEDULES, json={"definition": "job", **body})
    assert response.status_code == 201, response.text
    return str(response.json()["schedule_id"])


async def get(client: Client, path: str, **params: Any) -> Any:
    response = await client.get(path, params=params)
    assert response.status_code == 200, response.text
    return response.json()


async def post(client: Client, path: str, body: Any = None, status: int = 200) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == status, response.text
    return response.json()


def iso(at: datetime) -> str:
    return at.isoformat()


# Making


async def test_every_option_of_a_schedule_arrives(dsn: str, client: Client) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("select pgsched.define_queue('mail')")
    options = {
        "name": "report",
        "input_params": {"b": 2},
        "priority": 3,
        "queue": "mail",
        "schedule_config": {"c": 3},
        "overlap_policy": "queue_one",
        "misfire_policy": "all",
        "misfire_grace_seconds": 90,
        "jitter_seconds": 1.5,
        "starts_at": "2030-01-01T00:00:00+00:00",
        "ends_at": "2031-01-01T00:00:00+00:00",
        "max_runs": 7,
        "trace_id": NOBODY,
    }

    cron = await make(client, timezone="Europe/Paris", **options)
    every = await make(client, every_seconds=5400.5, **{**options, "name": "interval"})

    by_cron, by_interval = await get(client, url(cron)), await get(client, url(every))
    assert by_cron.items() >= options.items()
    assert (by_cron["cron_expr"], by_cron["timezone"]) == ("0 3 * * *", "Europe/Paris")
    assert by_cron["every_seconds"] is None
    assert by_interval["every_seconds"] == 5400.5
    assert (by_interval["cron_expr"], by_interval["timezone"]) == (None, None)


async def test_the_same_again_changes_nothing_and_other_options_replace_all(client: Client) -> None:
    first = await make(client, priority=3, max_runs=7)
    again = await make(client, priority=3, max_runs=7)
    assert len((await get(client, url("job", "changes")))["changes"]) == 1

    replaced = await make(client, priority=4)

    assert first == again == replaced
    row = await get(client, url("job"))
    assert (row["priority"], row["max_runs"]) == (4, None)


async def test_schedules_are_listed_by_name_and_state(client: Client) -> None:
    for name in ("b", "a", "c"):
        await make(client, name=name)
    await client.post(url("c", "pause"))

    async def names(**params: str) -> list[str]:
        rows = (await get(client, SCHEDULES, **params))["schedules"]
        return [row["name"] for row in rows]

    assert await names() == ["a", "b", "c"]
    assert await names(state="ACTIVE") == ["a", "b"]
    assert await names(state="PAUSED") == ["c"]
    assert await names(state="BROKEN") == []


async def test_a_schedule_tells_why_it_fires_or_does_not(dsn: str, client: Client) -> None:
    await make(client)
    await work(dsn)
    waiting = await get(client, url("job"))
    await client.post(url("job", "pause"), json={"note": "the printer is out"})

    paused = await get(client, url("job"))

    assert waiting["state"] == "ACTIVE"
    assert "It fires next at" in waiting["explanation"]
    assert datetime.fromisoformat(waiting["next_run_at"]) > datetime.now(UTC)
    assert paused["state"] == "PAUSED"
    assert "the printer is out" in paused["explanation"]


# Control


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_a_schedule_of_any_name_is_found_by_every_endpoint(client: Client, name: str) -> None:
    schedule_id = await make(client, name=name)
    other = await make(client, name="other")
    hour = {"from": iso(TODAY - DAY), "to": iso(TODAY)}

    assert (await get(client, url(name)))["id"] == schedule_id
    assert (await get(client, url(name, "next")))["state"] == "ACTIVE"
    assert (await get(client, url(name, "fires"))) == {"fires": [], "next": None}
    assert (await get(client, url(name, "backfills"))) == {"backfills": []}
    assert len((await get(client, url(name, "changes")))["changes"]) == 1
    assert (await post(client, url(name, "pause")))["schedule_id"] == schedule_id
    assert (await post(client, url(name, "resume")))["schedule_id"] == schedule_id
    await post(client, url(name, "trigger"), status=201)
    await post(client, url(name, "backfill"), hour, status=202)
    patched = await client.patch(url(name), json={"timezone": "Asia/Tokyo"})
    assert patched.json() == {"schedule_id": schedule_id, "state": "ACTIVE"}
    deleted = await client.delete(url(name))
    assert deleted.json() == {"schedule_id": schedule_id, "cancelled_tasks": 1}
    assert [row["id"] for row in (await get(client, SCHEDULES))["schedules"]] == [other]


async def test_a_name_that_ends_like_an_endpoint_is_reached_by_its_id(client: Client) -> None:
    schedule_id = await make(client, name="mail/next")
    await make(client, name="mail")

    row = await get(client, url(schedule_id))
    runs = await get(client, url("mail/next"))

    assert row["name"] == "mail/next"
    assert runs.keys() == {"state", "next"}


async def test_the_time_of_a_schedule_is_changed_and_nothing_else(client: Client) -> None:
    await make(client, priority=3, timezone="Europe/Paris")

    async def patched(body: dict[str, Any]) -> tuple[Any, ...]:
        response = await client.patch(url("job"), json=body)
        assert response.status_code == 200, response.text
        row = await get(client, url("job"))
        return tuple(row[k] for k in ("cron_expr", "every_seconds", "timezone", "priority"))

    assert await patched({"cron_expression": "@daily"}) == ("@daily", None, "Europe/Paris", 3)
    assert await patched({"timezone": "Asia/Tokyo"}) == ("@daily", None, "Asia/Tokyo", 3)
    assert await patched({"every_seconds": 90}) == (None, 90, None, 3)
    last = await patched({"cron_expression": "* * * * *", "timezone": "UTC"})
    assert last == ("* * * * *", None, "UTC", 3)


async def test_a_schedule_is_paused_until_a_time_and_resumed(client: Client) -> None:
    schedule_id = await make(client)
    until = datetime.now(UTC) + DAY

    paused = await post(client, url("job", "pause"), {"note": "holidays", "until": iso(until)})
    row = await get(client, url("job"))
    resumed = await post(client, url("job", "resume"))

    assert paused == {"schedule_id": schedule_id, "state": "PAUSED"}
    assert (row["pause_note"], datetime.fromisoformat(row["paused_until"])) == ("holidays", until)
    assert resumed == {"schedule_id": schedule_id, "state": "ACTIVE"}


async def test_a_deployment_does_not_end_a_pause(client: Client) -> None:
    await make(client)
    await client.post(url("job", "pause"))

    await make(client)

    assert (await get(client, url("job")))["state"] == "PAUSED"


async def test_a_schedule_is_triggered_with_input_of_its_own(dsn: str, client: Client) -> None:
    schedule_id = await make(client, input_params={"b": 2, "c": 3})

    plain = await post(client, url("job", "trigger"), status=201)
    other = await post(client, url("job", "trigger"), {"input_params": {"c": 4}}, status=201)

    assert task_row(dsn, plain["task_id"])["input_params"] == {"a": 1, "b": 2, "c": 3}
    task = task_row(dsn, other["task_id"])
    assert task["input_params"] == {"a": 1, "b": 2, "c": 4}
    assert (str(task["schedule_id"]), task["status"]) == (schedule_id, "PENDING")


@pytest.mark.parametrize("where", ["header", "body", "both"])
async def test_an_idempotency_key_triggers_once(client: Client, where: str) -> None:
    await make(client)
    body = {} if where == "header" else {"idempotency_key": "k"}
    headers = {} if where == "body" else {"Idempotency-Key": "k"}

    first = await client.post(url("job", "trigger"), json=body, headers=headers)
    again = await client.post(url("job", "trigger"), json=body, headers=headers)

    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()


async def test_two_idempotency_keys_are_one_too_many(client: Client) -> None:
    await make(client)

    response = await client.post(
        url("job", "trigger"), json={"idempotency_key": "a"}, headers={"Idempotency-Key": "b"}
    )

    assert response.status_code == 422
    assert "idempotency_key" in response.json()["message"]


async def test_a_deletion_cancels_what_waits_and_keeps_the_record(dsn: str, client: Client) -> None:
    schedule_id = await make(client)
    task_id = (await post(client, url("job", "trigger"), status=201))["task_id"]

    deleted = (await client.delete(url("job"))).json()

    assert deleted == {"schedule_id": schedule_id, "cancelled_tasks": 1}
    assert task_row(dsn, task_id)["status"] == "CANCELLED"
    assert (await client.get(url("job"))).status_code == 404
    assert (await client.delete(url("job"))).status_code == 404
    for known in ("job", schedule_id):
        changes = (await get(client, url(known, "changes")))["changes"]
        assert [row["change"] for row in changes] == ["DELETED", "TRIGGERED", "CREATED"]


async def test_changes_tell_who_did_what_the_newest_first(client: Client) -> None:
    await make(client)
    await client.post(url("job", "pause"), json={"note": "why"})
    await client.patch(url("job"), json={"timezone": "Europe/Paris"})

    latest, before, _ = (await get(client, url("job", "changes")))["changes"]
    (one,) = (await get(client, url("job", "changes"), limit=1))["changes"]

    assert one == latest
    assert (latest["change"], latest["changed_by"]) == ("CHANGED", login_of("operator"))
    assert latest["old_values"] == {"timezone": "UTC"}
    assert latest["new_values"] == {"timezone": "Europe/Paris"}
    assert before["change"] == "PAUSED"


# Backfills and the ledger


async def hourly(client: Client) -> None:
    await make(client, cron_expression="0 * * * *")


def hours(first: int, last: int, **more: Any) -> dict[str, Any]:
    """A range of yesterday."""
    start = TODAY - DAY
    return {"from": iso(start + first * HOUR), "to": iso(start + last * HOUR), **more}


async def test_runs_of_an_older_time_are_not_counted(dsn: str, client: Client) -> None:
    await hourly(client)
    await post(client, url("job", "backfill"), hours(0, 4), status=202)
    await work(dsn)
    await client.patch(url("job"), json={"cron_expression": "30 3 * * *"})

    counts = await post(client, url("job", "backfill"), hours(0, 4, preview=True))

    assert (counts["instant_count"], counts["run_count"], counts["to_run"]) == (1, 0, 1)


async def test_a_backfill_is_counted_first_and_then_runs(dsn: str, client: Client) -> None:
    await hourly(client)
    path = url("job", "backfill")
    await post(client, path, hours(2, 3), status=202)
    await work(dsn)

    counts = await post(client, path, hours(0, 9, preview=True))

    assert counts == {
        "instant_count": 10,
        "run_count": 2,
        "to_run": 8,
        "first": iso(TODAY - DAY),
        "last": iso(TODAY - DAY + 9 * HOUR),
    }
    assert len((await get(client, "/api/tasks"))["tasks"]) == 2
    made = await post(client, path, hours(0, 9), status=202)
    waiting, _ = (await get(client, url("job", "backfills")))["backfills"]
    await work(dsn)
    done, _ = (await get(client, url("job", "backfills")))["backfills"]
    (only,) = (await get(client, url("job", "backfills"), limit=1))["backfills"]
    assert waiting["id"] == done["id"] == only["id"] == made["backfill_id"]
    assert (waiting["status"], done["status"]) == ("WAITING", "DONE")
    assert (done["instant_count"], done["run_count"]) == (10, 8)
    assert len((await get(client, "/api/tasks"))["tasks"]) == 10


async def test_a_range_without_instants_comes_to_nothing(client: Client) -> None:
    await make(client)

    counts = await post(client, url("job", "backfill"), hours(4, 5, preview=True))

    assert counts == {
        "instant_count": 0,
        "run_count": 0,
        "to_run": 0,
        "first": None,
        "last": None,
    }


async def test_a_backfill_past_its_bound_is_refused_and_its_preview_is_not(client: Client) -> None:
    await hourly(client)

    bounded = hours(0, 9, max_instants=9)
    refused = await client.post(url("job", "backfill"), json=bounded)
    counts = await post(client, url("job", "backfill"), {**bounded, "preview": True})

    assert (refused.status_code, refused.json()["code"]) == (422, "PS422")
    assert "max_instants" in refused.json()["message"]
    assert counts["to_run"] == 10
    assert (await get(client, url("job", "backfills"))) == {"backfills": []}


@pytest.mark.parametrize("is_preview", [False, True])
async def test_a_backfill_does_not_reach_into_the_future(client: Client, is_preview: bool) -> None:
    await hourly(client)
    soon = datetime.now(UTC) + HOUR
    body = {"from": iso(TODAY), "to": iso(soon), "preview": is_preview}

    response = await client.post(url("job", "backfill"), json=body)

    assert (response.status_code, response.json()["code"]) == (422, "PS422")
    assert response.json()["message"].startswith("to: ")


async def test_the_ledger_is_read_page_by_page(dsn: str, client: Client) -> None:
    await hourly(client)
    await post(client, url("job", "backfill"), hours(0, 4), status=202)
    await work(dsn)
    path = url("job", "fires")

    first = await get(client, path, limit=3)
    second = await client.get(f"{path}?limit=3&before={first['next']}")  # as it stands

    assert second.status_code == 200, second.text
    fires = first["fires"] + second.json()["fires"]
    assert [fire["scheduled_time"] for fire in fires] == [
        iso(TODAY - DAY + hour * HOUR) for hour in (4, 3, 2, 1, 0)
    ]
    assert {fire["outcome"] for fire in fires} == {"RUN"}
    assert all(task_row(dsn, fire["task_id"]) for fire in fires)
    assert second.json()["next"] is None


# The next runs


async def test_the_next_runs_of_a_schedule_begin_with_the_one_it_waits_for(
    dsn: str, client: Client
) -> None:
    await make(client, timezone="America/New_York", jitter_seconds=3600)
    await work(dsn)

    runs = (await get(client, url("job", "next"), count=3))["next"]

    row = await get(client, url("job"))
    assert runs[0]["fires_at"] == row["next_run_at"]
    assert [datetime.fromisoformat(run["local"]).hour for run in runs] == [3, 3, 3]
    delays = {
        datetime.fromisoformat(run["fires_at"]) - datetime.fromisoformat(run["at"]) for run in runs
    }
    (delay,) = delays
    assert timedelta(0) <= delay < HOUR


async def test_a_schedule_that_does_not_fire_has_no_next_runs(client: Client) -> None:
    await make(client)
    await client.post(url("job", "pause"))

    assert await get(client, url("job", "next")) == {"state": "PAUSED", "next": []}


async def test_a_pause_that_ends_has_next_runs_after_it(client: Client) -> None:
    await make(client)
    until = datetime.now(UTC) + 30 * DAY
    await client.post(url("job", "pause"), json={"until": iso(until)})

    found = await get(client, url("job", "next"), count=1)

    (run,) = found["next"]
    assert found["state"] == "PAUSED"
    assert until < datetime.fromisoformat(run["at"]) <= until + DAY


def schedule_of(**more: Any) -> Schedule:
    """A schedule every hour, made at noon; as its row would be."""
    row: dict[str, Any] = dict.fromkeys(Schedule.model_fields)
    row |= {
        "id": UUID(NOBODY),
        "name": "job",
        "state": "ACTIVE",
        "definition_id": UUID(NOBODY),
        "definition_name": "job",
        "every": HOUR,
        "run_count": 0,
        "idle_count": 0,
        "overlap_policy": "skip",
        "misfire_policy": "latest",
        "misfire_grace": HOUR,
        "jitter": timedelta(0),
        "queue": "default",
        "priority": 0,
        "is_own": False,
        "created_by": "someone",
        "created_at": NOON,
        "changed_at": NOON,
    }
    return Schedule(**row | more)


def runs_of(
    now: datetime, delay: timedelta = timedelta(0), count: int = 3, **more: Any
) -> list[datetime]:
    return [run.at for run in next_runs(schedule_of(**more), now, delay, count)]


def test_an_interval_counts_from_its_start() -> None:
    later = NOON + 90 * timedelta(minutes=1)

    assert runs_of(NOON) == [NOON + HOUR, NOON + 2 * HOUR, NOON + 3 * HOUR]
    assert runs_of(later, count=1) == [NOON + 2 * HOUR]
    assert runs_of(NOON, starts_at=later) == [later, later + HOUR, later + 2 * HOUR]


def test_what_is_due_but_for_its_jitter_is_still_to_come() -> None:
    delay = HOUR / 2
    now = NOON + HOUR + delay / 2

    runs = next_runs(schedule_of(), now, delay, 1)

    assert [(run.at, run.fires_at) for run in runs] == [(NOON + HOUR, NOON + HOUR + delay)]


def test_next_runs_end_with_the_schedule() -> None:
    assert runs_of(NOON, ends_at=NOON + 2 * HOUR) == [NOON + HOUR, NOON + 2 * HOUR]
    assert runs_of(NOON, ends_at=NOON) == []
    assert runs_of(NOON, max_runs=5, run_count=4) == [NOON + HOUR]
    assert runs_of(NOON, max_runs=5, run_count=5) == []
    cron: dict[str, Any] = {"every": None, "cron_expr": "0 * * * *", "timezone": "UTC"}
    assert runs_of(NOON, max_runs=5, run_count=5, **cron) == []
    assert runs_of(NOON, ends_at=NOON + HOUR, **cron) == [NOON + HOUR]


@pytest.mark.parametrize("state", ["BROKEN", "ENDED", "PAUSED"])
def test_without_an_end_in_sight_there_are_no_next_runs(state: str) -> None:
    assert runs_of(NOON, state=state) == []


# Cron expressions


async def test_the_next_runs_of_an_expression_tell_what_a_change_of_the_clocks_does(
    client: Client,
) -> None:
    found = await get(
        client,
        "/api/cron/next",
        expr="30 2 * * *",
        timezone="Europe/Paris",
        count=3,
        **{"from": "2026-03-28T00:00:00Z"},
    )

    before, in_the_gap, after = found["next"]
    assert [datetime.fromisoformat(run["at"]) for run in found["next"]] == [
        datetime(2026, 3, 28, 1, 30, tzinfo=UTC),
        datetime(2026, 3, 29, 1, 0, tzinfo=UTC),
        datetime(2026, 3, 30, 0, 30, tzinfo=UTC),
    ]
    assert before["local"] == "2026-03-28T02:30:00+01:00"
    assert before["note"] is after["note"] is None
    assert in_the_gap["note"]


async def test_the_next_runs_of_an_expression_are_five_in_utc_from_now(client: Client) -> None:
    before = datetime.now(UTC)

    runs = (await get(client, "/api/cron/next", expr="0 0 * * *"))["next"]

    first, *others = [datetime.fromisoformat(run["at"]) for run in runs]
    assert first.hour == 0
    assert before < first <= before + DAY + HOUR
    assert others == [first + day * DAY for day in range(1, 5)]


async def test_an_expression_is_explained(client: Client) -> None:
    path = "/api/cron/explain"
    plain = (await get(client, path, expr="30 2 * * *"))["explanation"]
    in_zone = (await get(client, path, expr="30 2 * * *", timezone="Europe/Paris"))["explanation"]

    assert "02:30" in plain
    assert in_zone.startswith(plain)
    assert "clocks" in in_zone.removeprefix(plain)


# What is refused

CRON = {"definition": "job", "cron_expression": "0 3 * * *"}
EVERY = {"definition": "job", "every_seconds": 60}
YESTERDAY = hours(0, 9)
WRONG: list[tuple[str, str, Any, int, str]] = [
    # method, path, body, status, what the message names
    ("GET", url("nothing"), None, 404, "nothing"),
    ("GET", url("nothing", "fires"), None, 404, "nothing"),
    ("GET", url("nothing", "changes"), None, 404, "nothing"),
    ("GET", url("nothing", "backfills"), None, 404, "nothing"),
    ("GET", url("nothing", "next"), None, 404, "nothing"),
    ("PATCH", url("nothing"), {"timezone": "UTC"}, 404, "nothing"),
    ("PATCH", url("nothing"), {"every_seconds": 5}, 404, "nothing"),
    ("DELETE", url("nothing"), None, 404, "nothing"),
    ("DELETE", url(NOBODY), None, 404, NOBODY),
    ("POST", url("nothing", "pause"), None, 404, "nothing"),
    ("POST", url("nothing", "resume"), None, 404, "nothing"),
    ("POST", url("nothing", "trigger"), None, 404, "nothing"),
    ("POST", url("nothing", "backfill"), YESTERDAY, 404, "nothing"),
    ("POST", url("nothing", "backfill"), {**YESTERDAY, "preview": True}, 404, "nothing"),
    ("POST", SCHEDULES, {**CRON, "definition": "nothing"}, 404, "nothing"),
    ("POST", SCHEDULES, {**CRON, "queue": "nowhere"}, 404, "nowhere"),
    ("POST", SCHEDULES, {"definition": "job"}, 422, "cron_expression"),
    ("POST", SCHEDULES, {**CRON, **EVERY}, 422, "cron_expression"),
    ("POST", SCHEDULES, {**EVERY, "timezone": "UTC"}, 422, "timezone"),
    ("POST", SCHEDULES, {**CRON, "cron_expression": "61 * * * *"}, 422, "cron"),
    ("POST", SCHEDULES, {**CRON, "cron_expression": "0 0 30 2 *"}, 422, "cron"),
    ("POST", SCHEDULES, {**CRON, "timezone": "Mars/Base"}, 422, "timezone"),
    ("POST", SCHEDULES, {**EVERY, "every_seconds": 0.5}, 422, "every_seconds"),
    ("POST", SCHEDULES, {**EVERY, "every_seconds": 366 * 86400 + 1}, 422, "every_seconds"),
    ("POST", SCHEDULES, {**CRON, "overlap_policy": "none"}, 422, "overlap_policy"),
    ("POST", SCHEDULES, {**CRON, "misfire_policy": "skip"}, 422, "misfire_policy"),
    ("POST", SCHEDULES, {**CRON, "misfire_grace_seconds": 0}, 422, "misfire_grace_seconds"),
    ("POST", SCHEDULES, {**CRON, "jitter_seconds": 86401}, 422, "jitter_seconds"),
    ("POST", SCHEDULES, {**CRON, "starts_at": "2030-01-01T00:00:00"}, 422, "starts_at"),
    ("POST", SCHEDULES, {**CRON, "ends_at": "2030-01-01T00:00:00"}, 422, "ends_at"),
    (
        "POST",
        SCHEDULES,
        {**CRON, "starts_at": "2031-01-01T00:00:00Z", "ends_at": "2030-01-01T00:00:00Z"},
        422,
        "ends_at",
    ),
    ("POST", SCHEDULES, {**CRON, "max_runs": 0}, 422, "max_runs"),
    ("POST", SCHEDULES, {**CRON, "trace_id": "no uuid"}, 422, "trace_id"),
    ("POST", SCHEDULES, {**CRON, "name": ""}, 422, "name"),
    ("POST", SCHEDULES, {**CRON, "name": "a\0b"}, 422, "name"),
    ("POST", SCHEDULES, {**CRON, "every": 5}, 422, "every"),
    ("POST", SCHEDULES, {**CRON, "idempotency_key": "k"}, 422, "idempotency_key"),
    ("POST", SCHEDULES, {**CRON, "input_params": {"a": "x" * 262144}}, 422, "262144"),
    ("GET", f"{SCHEDULES}?state=BUSY", None, 422, "state"),
    ("GET", f"{SCHEDULES}/%00", None, 422, "NUL"),
    ("PATCH", url("job"), None, 422, "body"),
    ("PATCH", url("job"), {}, 422, "cron_expression"),
    ("PATCH", url("job"), {"cron_expression": "@daily", "every_seconds": 5}, 422, "every"),
    ("PATCH", url("job"), {"every_seconds": 5, "timezone": "UTC"}, 422, "timezone"),
    ("PATCH", url("job"), {"timezone": "Mars/Base"}, 422, "timezone"),
    ("PATCH", url("job"), {"cron_expression": "61 * * * *"}, 422, "cron"),
    ("PATCH", url("job"), {"every_seconds": 0}, 422, "every_seconds"),
    ("PATCH", url("job"), {"priority": 3}, 422, "priority"),
    ("POST", url("job", "pause"), {"until": "2030-01-01T00:00:00"}, 422, "until"),
    ("POST", url("job", "pause"), {"until": "2020-01-01T00:00:00Z"}, 422, "until"),
    ("POST", url("job", "pause"), {"reason": "x"}, 422, "reason"),
    ("POST", url("job", "trigger"), {"input_params": [1]}, 422, "input_params"),
    ("POST", url("job", "trigger"), {"queue": "mail"}, 422, "queue"),
    ("POST", url("job", "backfill"), None, 422, "body"),
    ("POST", url("job", "backfill"), {"from": YESTERDAY["from"]}, 422, "to"),
    ("POST", url("job", "backfill"), {"to": YESTERDAY["to"]}, 422, "from"),
    ("POST", url("job", "backfill"), {**YESTERDAY, "from": "2020-01-01T00:00:00"}, 422, "from"),
    ("POST", url("job", "backfill"), {**YESTERDAY, "to": "2020-01-01T00:00:00"}, 422, "to"),
    ("POST", url("job", "backfill"), hours(9, 0), 422, "from"),
    ("POST", url("job", "backfill"), hours(9, 0, preview=True), 422, "from"),
    ("POST", url("job", "backfill"), {**YESTERDAY, "max_instants": 0}, 422, "max_instants"),
    ("POST", url("job", "backfill"), {**YESTERDAY, "max_instants": 100_001}, 422, "max_instants"),
    ("POST", url("job", "backfill"), {**YESTERDAY, "from_time": "x"}, 422, "from_time"),
    ("GET", url("job", "fires?before=2030-01-01T00:00:00"), None, 422, "before"),
    ("GET", url("job", "fires?before=soon"), None, 422, "before"),
    ("GET", url("job", "fires?limit=0"), None, 422, "limit"),
    ("GET", url("job", "changes?limit=1001"), None, 422, "limit"),
    ("GET", url("job", "backfills?limit=x"), None, 422, "limit"),
    ("GET", url("job", "next?count=0"), None, 422, "count"),
    ("GET", url("job", "next?count=101"), None, 422, "count"),
    ("GET", "/api/cron/next", None, 422, "expr"),
    ("GET", "/api/cron/next?expr=61+*+*+*+*", None, 422, "61"),
    ("GET", "/api/cron/next?expr=0+0+*+*+*&timezone=Mars/Base", None, 422, "timezone"),
    ("GET", "/api/cron/next?expr=0+0+*+*+*&from=2030-01-01", None, 422, "from"),
    ("GET", "/api/cron/next?expr=0+0+*+*+*&from=2030-01-01T00:00:00", None, 422, "from"),
    ("GET", "/api/cron/next?expr=0+0+*+*+*&count=101", None, 422, "count"),
    ("GET", "/api/cron/explain", None, 422, "expr"),
    ("GET", "/api/cron/explain?expr=61+*+*+*+*", None, 422, "61"),
    ("GET", "/api/cron/explain?expr=0+0+*+*+*&timezone=Mars/Base", None, 422, "timezone"),
]


async def test_bad_input_is_refused_by_name_and_changes_nothing(client: Client) -> None:
    await make(client)
    before = await get(client, SCHEDULES)

    for method, path, body, status, named in WRONG:
        response = await client.request(method, path, json=body)

        case = f"{method} {path} {str(body)[:80]}: {response.text}"
        assert response.status_code == status, case
        assert response.json().keys() == {"code", "message"}, case
        assert response.json()["code"] == f"PS{status}", case
        assert named in response.json()["message"], case
    assert await get(client, SCHEDULES) == before
    assert (await get(client, "/api/tasks"))["tasks"] == []


async def test_another_input_for_the_same_key_is_a_conflict(client: Client) -> None:
    await make(client)
    key = {"Idempotency-Key": "k"}
    await client.post(url("job", "trigger"), headers=key)

    other = await client.post(url("job", "trigger"), json={"input_params": {"a": 2}}, headers=key)

    assert (other.status_code, other.json()["code"]) == (409, "PS409")


@pytest.mark.parametrize(("method", "word"), [("PUT", ""), ("POST", ""), ("DELETE", "pause")])
async def test_what_cannot_be_done_with_a_schedule_is_told(
    client: Client, method: str, word: str
) -> None:
    await make(client)

    response = await client.request(method, url("job", word))

    assert response.status_code in (404, 405)
    assert (await get(client, url("job")))["state"] == "ACTIVE"
