"""
The whole loop with an executor that nobody here wrote: Node-RED.

Opt-in, since it installs Node-RED from npm (117 MB, into build/): run it with
PGSCHED_TEST_NODE_RED=1 in the environment, or with `-m node_red`.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest

from tests.node_red.program import API_KEY, PUSH_KEY, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.node_red, pytest.mark.timeout(600)]


class ReportEndpoint(ThreadingHTTPServer):
    """Stands in for the API: takes reports, and answers as told."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.reports: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.keys: set[str | None] = set()
        self.answers: list[int] = []  # the next ones; 200 when there is none


class _Handler(BaseHTTPRequestHandler):
    server: ReportEndpoint
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status = self.server.answers.pop(0) if self.server.answers else 200
        self.server.keys.add(self.headers["authorization"])
        self.server.reports[self.path].append({**body, "answered": status})
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def api() -> Iterator[ReportEndpoint]:
    with ReportEndpoint() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def node_red(
    node_red_program: Path, api: ReportEndpoint, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The base URL of a running executor that reports to *api*."""
    with running(node_red_program, tmp_path_factory.mktemp("node-red"), api.url) as url:
        yield url


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


# Pushes and what becomes of them


@pytest.fixture
def client(node_red: str) -> Iterator[httpx.Client]:
    bearer = {"authorization": f"Bearer {PUSH_KEY}"}
    with httpx.Client(base_url=node_red, headers=bearer, trust_env=False) as client:
        yield client


@pytest.fixture
def reports(api: ReportEndpoint) -> Callable[[dict[str, Any]], list[Any]]:
    """What was reported of a task: statuses, in order."""
    return lambda task: [report["status"] for report in api.reports[callback(task)]]


def callback(task: dict[str, Any]) -> str:
    return f"/api/tasks/{task['task_id']}/status?attempt={task['attempt']}"


def a_task(**fields: Any) -> dict[str, Any]:
    task = {"task_id": str(uuid4()), "status": "READY_FOR_EXECUTION", "attempt": 1} | fields
    return {
        "idempotency_key": f"{task['task_id']}:{task['attempt']}",
        "callback_url": callback(task),
        "metadata": {"input_params": {}},
        **task,
    }


def push(client: httpx.Client, task: object) -> int:
    return client.post("/api/tasks/status", json=task).status_code


RAN = ["RUNNING", "SUCCESS"]


def test_a_hundred_tasks_are_accepted_and_each_reported_to_its_end(
    client: httpx.Client, api: ReportEndpoint, reports: Callable[[dict[str, Any]], list[Any]]
) -> None:
    tasks = [a_task(attempt=n % 3 + 1) for n in range(100)]

    assert {push(client, task) for task in tasks} == {202}

    wait_until(lambda: all(reports(task) == RAN for task in tasks))
    for task in tasks:
        _, success = api.reports[callback(task)]
        assert success["attempt"] == task["attempt"]
        assert success["output_ref"] == f"node-red:{task['idempotency_key']}"
    assert api.keys == {f"Bearer {API_KEY}"}


def test_a_callback_url_may_be_absolute(
    client: httpx.Client, api: ReportEndpoint, reports: Callable[[dict[str, Any]], list[Any]]
) -> None:
    task = a_task()
    task["callback_url"] = api.url + callback(task)
    assert push(client, task) == 202
    wait_until(lambda: reports(task) == RAN)


def test_a_batch_is_accepted_as_a_whole(
    client: httpx.Client, reports: Callable[[dict[str, Any]], list[Any]]
) -> None:
    tasks = [a_task() for _ in range(20)]
    answer = client.post("/api/tasks/status/batch", json=tasks)
    assert (answer.status_code, answer.content) == (202, b"")
    wait_until(lambda: all(reports(task) == RAN for task in tasks))


def test_what_comes_twice_runs_once_and_a_new_attempt_runs_again(
    client: httpx.Client, reports: Callable[[dict[str, Any]], list[Any]]
) -> None:
    task = a_task()
    again = a_task(task_id=task["task_id"], attempt=2)

    assert [push(client, each) for each in (task, task, again)] == [202, 202, 202]

    wait_until(lambda: reports(again) == RAN)
    wait_until(lambda: reports(task) == RAN)


def test_news_about_a_task_runs_nothing(
    client: httpx.Client, api: ReportEndpoint, reports: Callable[[dict[str, Any]], list[Any]]
) -> None:
    task, after = a_task(status="CANCELLED", callback_url=None, callback_token=None), a_task()
    assert push(client, task) == 202
    assert client.post("/api/tasks/status/batch", json=[task, after]).status_code == 202
    wait_until(lambda: reports(after) == RAN)
    assert callback(task) not in api.reports


def test_a_report_that_is_not_heard_is_said_again(
    client: httpx.Client, api: ReportEndpoint, reports: Callable[[dict[str, Any]], list[Any]]
) -> None:
    api.answers += [503]
    task = a_task()
    assert push(client, task) == 202
    wait_until(lambda: reports(task) == ["RUNNING", *RAN])


def test_a_refused_running_stops_the_work(
    client: httpx.Client, api: ReportEndpoint, reports: Callable[[dict[str, Any]], list[Any]]
) -> None:
    api.answers += [409]
    task, after = a_task(), a_task()
    assert push(client, task) == 202
    wait_until(lambda: reports(task))
    assert push(client, after) == 202
    wait_until(lambda: reports(after) == RAN)
    assert reports(task) == ["RUNNING"]


def test_work_that_throws_is_reported_as_failed(
    client: httpx.Client, api: ReportEndpoint, reports: Callable[[dict[str, Any]], list[Any]]
) -> None:
    task = a_task(metadata={"input_params": {"fail": "no paper"}})
    assert push(client, task) == 202
    wait_until(lambda: reports(task) == ["RUNNING", "FAILED"])
    assert "no paper" in api.reports[callback(task)][1]["error_msg"]


def test_the_key_of_the_api_is_sent_to_nobody_else(
    client: httpx.Client, api: ReportEndpoint
) -> None:
    with ReportEndpoint() as stranger:
        task = a_task(callback_url=f"{stranger.url}/steal")
        assert push(client, task) == 403


@pytest.mark.parametrize(
    ("task", "status"), [({}, 400), ([], 202), ([{"task_id": "x"}], 400), ([5], 400)]
)
def test_what_is_no_task_is_refused(client: httpx.Client, task: object, status: int) -> None:
    assert push(client, task) == status


def test_a_push_needs_the_right_key(node_red: str) -> None:
    bearer = {"authorization": "Bearer guessed"}
    url = f"{node_red}/api/tasks/status"
    assert httpx.post(url, json=a_task(), headers=bearer, trust_env=False).status_code == 401
    assert httpx.post(url, json=a_task(), trust_env=False).status_code == 401


@pytest.mark.parametrize("path", ["/", "/red", "/admin", "/flows", "/settings", "/auth/login"])
def test_there_is_no_editor(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404
