"""What real processes log at DEBUG while everything goes wrong: no secret and no payload."""

from __future__ import annotations

import base64
import json
import re
import signal
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest
from psycopg.conninfo import make_conninfo

from tests.receiver import Push, Receiver
from tests.roles import as_role
from tests.waiting import eventually
from tests.working import Connection, Process, StartWorker

PAYLOAD = "canary-of-a-payload"
API_KEY = "canary-of-the-api-key"
PUSH_KEY = "canary-of-the-push-key"
PASSWORD = "canary-of-the-password"


def webhook_secret(word: str) -> str:
    return f"whsec_{base64.b64encode(word.ljust(32).encode()).decode()}"


SECRETS = {
    "PGSCHED_API_KEY": API_KEY,
    "PGSCHED_EXTERNAL_SYSTEM_API_KEY": PUSH_KEY,
    "PGSCHED_EXTERNAL_SYSTEM_SIGNING_SECRET": webhook_secret("signing"),
    "PGSCHED_CALLBACK_SECRET": webhook_secret("callback"),
}


def answer_badly(push: Push) -> bool:
    """Quote what was pushed in each kind of answer."""
    push.answer(next(STATUSES), quoted=push.body, error=PAYLOAD)
    return True


def answer_in_a_body(push: Push) -> bool:
    details = {"output_ref": PAYLOAD, "error_msg": PAYLOAD, "next_input": {PAYLOAD: 1}}
    # News of a failure of before takes no turn.
    push.answer(200, status="SUCCESS" if push.is_news else next(ENDS), **details)
    return True


STATUSES = cycle([503, 429, 422, 500, 401, 302, 408, 418, 501])
ENDS = cycle(["SUCCESS", "FAILED"])


@pytest.fixture
def log_in() -> dict[str, str]:
    """What both processes are told."""
    return SECRETS | {
        "PGSCHED_LOG_LEVEL": "DEBUG",
        "PGSCHED_PUBLIC_URL": "http://127.0.0.1:1",
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def api(dsn: str, log_in: dict[str, str], tmp_path: Path) -> Iterator[Process]:
    environment = log_in | {
        "PGSCHED_DATABASE_URL": make_conninfo(as_role(dsn, "operator"), password=PASSWORD),
        "PGSCHED_API_PORT": "0",
        "PGSCHED_LOG_FORMAT": "json",
    }
    process = Process(tmp_path / "api.log", environment, "pgsched", "serve")
    yield process
    process.kill()


def call_badly(client: httpx.Client, tasks: list[str]) -> None:
    """What a caller, or an executor, can get wrong."""
    report = {"status": "SUCCESS", "output_ref": PAYLOAD}
    url = f"/api/tasks/{tasks[0]}/status"
    eventually(lambda: client.post(url, json=report).status_code == 500)
    for task in tasks:
        report = {"status": "FAILED", "error_msg": PAYLOAD, "output_ref": PAYLOAD}
        client.post(f"/api/tasks/{task}/status", json=report)
        client.post(f"/api/tasks/{task}/status", json=report | {"attempt": PAYLOAD})
    headers = {"Authorization": f"Bearer {PAYLOAD}"}
    client.post(url, json={"status": "SUCCESS"}, headers=headers)
    client.post("/api/tasks", json={"definition": "job", "input_params": PAYLOAD})
    client.post("/api/tasks", json={"definition": PAYLOAD, "input_params": {"a": PAYLOAD}})
    client.post("/api/tasks", content=f"{{{PAYLOAD}".encode())
    client.get(f"/api/tasks/{PAYLOAD}", params={PAYLOAD: PAYLOAD})
    client.post("/api/definitions", json={"name": "bad", "content": PAYLOAD})


def test_no_secret_and_no_payload_is_logged(
    db: Connection,
    dsn: str,
    receiver: Receiver,
    start_worker: StartWorker,
    log_in: dict[str, str],
    api: Process,
) -> None:
    # Postgres quotes a row that a constraint refuses.
    db.execute("alter table pgsched.task_instances add check (status <> 'SUCCESS')")
    db.execute(
        "select pgsched.define_task('job', %s, p_max_retries => 0)",
        [json.dumps({"content": PAYLOAD})],
    )
    receiver.holds = answer_badly
    dsn = make_conninfo(as_role(dsn, "worker"), password=PASSWORD)
    worker = start_worker(PGSCHED_DATABASE_URL=dsn, **log_in)

    def schedule(count: int) -> list[str]:
        query = "select pgsched.schedule_immediate('job', %s)::text from generate_series(1, %s)"
        rows: list[Any] = db.execute(query, [json.dumps({"a": PAYLOAD}), count]).fetchall()
        return [row[0] for row in rows]

    schedule(27)
    eventually(lambda: "external system is misconfigured" in worker.log)
    eventually(lambda: "task failed" in worker.log)
    receiver.holds = answer_in_a_body
    db.execute("delete from pgsched.scheduled_tasks")
    schedule(8)

    def is_unsettled() -> bool:
        # A failure from before may still open it.
        db.execute("select pgsched.close_breaker('default')")
        return "task cannot be settled" in worker.log

    eventually(is_unsettled)
    found = eventually(lambda: re.search(r'"url": "(\S+)"', api.log))
    assert found
    receiver.holds = lambda push: False
    headers = {"Authorization": f"Bearer {API_KEY}"}
    with httpx.Client(base_url=found[1], headers=headers, trust_env=False) as client:
        eventually(lambda: client.get("/health/ready").is_success)
        call_badly(client, schedule(2))
    for process in (worker, api):
        process.signal(signal.SIGTERM)
        assert process.process.wait(30) == 0

    assert '"message": "request failed"' in api.log
    assert "violates check constraint" in api.log
    assert "violates check constraint" in worker.log
    assert "push ended task_id=" in worker.log
    assert [json.loads(line)["level"] for line in api.log.splitlines()]
    words = [PAYLOAD, PASSWORD, *(secret.removeprefix("whsec_") for secret in SECRETS.values())]
    for name, log in (("worker", worker.log), ("api", api.log)):
        assert [(name, word) for word in words if word in log] == []
        assert "whsec_" not in log
        assert "Bearer" not in log
