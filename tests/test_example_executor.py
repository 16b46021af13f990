"""The example executor, as a process, with a real worker and API."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import pytest
from psycopg.types.json import Jsonb

from pgsched.ports import free_port
from pgsched.signing import read_secrets, webhook_headers
from pgsched.testing.server import LoopbackServer, Reply, Request
from tests.executing import task_row
from tests.roles import as_role
from tests.waiting import eventually
from tests.working import Connection, Process, StartWorker

EXAMPLE = Path(__file__).parents[1] / "examples/executor"
SECRET, CALLBACKS = (f"whsec_{base64.b64encode(word * 12).decode()}" for word in (b"one", b"two"))


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[str]:
    """The base URL of the example."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = ("uvicorn", "executor:app", "--app-dir", str(EXAMPLE), "--port", str(port))
    process = Process(tmp_path / "executor.log", {"SIGNING_SECRET": SECRET}, *command)
    try:
        eventually(lambda: "running on" in process.log)
        yield url
        assert "Traceback" not in process.log
    finally:
        process.kill()


@pytest.fixture
def running(
    dsn: str, db: Connection, executor: str, start_worker: StartWorker, tmp_path: Path
) -> Iterator[str]:
    """A worker and an API for it; its base URL."""
    port = free_port()
    settings = {
        "PGSCHED_DATABASE_URL": as_role(dsn, "operator"),
        "PGSCHED_EXTERNAL_SYSTEM_URL": executor,
        "PGSCHED_EXTERNAL_SYSTEM_SIGNING_SECRET": SECRET,
        "PGSCHED_CALLBACK_SECRET": CALLBACKS,
        "PGSCHED_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "PGSCHED_API_PORT": str(port),
        "PGSCHED_API_KEY": "not the executor's",
    }
    api = Process(tmp_path / "api.log", settings, "pgsched", "serve")
    try:
        eventually(lambda: "API listening" in api.log)
        start_worker(**{**settings, "PGSCHED_DATABASE_URL": as_role(dsn, "worker")})
        yield executor
    finally:
        api.kill()


def schedule(db: Connection, seconds: float) -> str:
    query = "select pgsched.schedule_immediate('job', %s)::text"
    row = db.execute(query, [Jsonb({"seconds": seconds})]).fetchone()
    assert row is not None
    return str(row[0])


def test_a_task_goes_there_and_comes_back_as_success(
    dsn: str, db: Connection, running: str
) -> None:
    endless, task_id = schedule(db, 600), schedule(db, 0.1)
    eventually(lambda: task_row(dsn, endless)["progress"] == {"percent": 0})
    assert task_row(dsn, endless)["status"] == "RUNNING"

    eventually(lambda: task_row(dsn, task_id)["status"] == "SUCCESS")

    row = task_row(dsn, task_id)
    assert row["progress"] == {"percent": 50}
    assert row["output_ref"] == f"done:{task_id}"
    assert (row["attempt"], row["delivery_count"]) == (1, 1)


def test_a_cancelled_task_is_worked_on_no_more(dsn: str, db: Connection, running: str) -> None:
    task_id = schedule(db, 1.0)
    eventually(lambda: task_row(dsn, task_id)["status"] == "RUNNING")

    db.execute("select pgsched.cancel_task(%s)", [task_id])
    other = schedule(db, 1.5)
    eventually(lambda: task_row(dsn, other)["status"] == "SUCCESS")

    assert task_row(dsn, task_id)["status"] == "CANCELLED"


def signed(body: bytes, secret: str = SECRET) -> dict[str, str]:
    headers = webhook_headers(read_secrets(secret), "msg", int(time.time()), body)
    return {name.decode(): value.decode() for name, value in headers}


def test_the_same_push_twice_is_run_once_and_a_forged_one_never(executor: str) -> None:
    heard: dict[str, list[str]] = {}  # what was reported, by token

    def report(request: Request) -> Reply:
        token = request.headers["authorization"].removeprefix("Bearer ")
        heard.setdefault(token, []).append(orjson.loads(request.raw)["status"])
        return Reply(200)

    api = LoopbackServer(report)
    with httpx.Client(base_url=executor, trust_env=False) as http:

        def push(task_id: str, secret: str | None = SECRET) -> int:
            body = orjson.dumps(
                {
                    "task_id": task_id,
                    "status": "READY_FOR_EXECUTION",
                    "idempotency_key": f"{task_id}:1",
                    "metadata": {"input_params": {"seconds": 0}},
                    "callback_url": api.url,
                    "callback_token": task_id,
                }
            )
            headers = signed(body, secret) if secret else {}
            return http.post("/api/tasks/status", content=body, headers=headers).status_code

        assert (push("forged", CALLBACKS), push("unsigned", None)) == (401, 401)
        assert (push("first"), push("first"), push("last")) == (202, 202, 202)
        whole = ["RUNNING", "RUNNING", "SUCCESS"]
        eventually(lambda: heard == {"first": whole, "last": whole})
    api.stop()
