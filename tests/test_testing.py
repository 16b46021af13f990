"""The test double that users of pgsched are given: what it takes, keeps, answers and reports."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest

from pgsched.signing import read_secrets, webhook_headers
from pgsched.testing import RESET, FakeExternalSystem, Push
from pgsched.testing.server import LoopbackServer, Reply, Request

OLD, NEW = ("whsec_" + base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))
PATH = "/api/tasks/status"
BATCH = "/api/tasks/status/batch"


@pytest.fixture
def system() -> Iterator[FakeExternalSystem]:
    with FakeExternalSystem() as it:
        yield it


def ready(task_id: str | None = None, attempt: int = 1, **fields: Any) -> dict[str, Any]:
    task_id = task_id or str(uuid4())
    return {
        "task_id": task_id,
        "status": "READY_FOR_EXECUTION",
        "attempt": attempt,
        "sequence": attempt,
        "idempotency_key": f"{task_id}:{attempt}",
        **fields,
    }


def cancelled(task_id: str) -> dict[str, Any]:
    key = f"{task_id}:status:2"
    return ready(task_id, status="CANCELLED", sequence=2, idempotency_key=key, callback_url=None)


def post(
    system: FakeExternalSystem,
    body: object,
    path: str = PATH,
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return httpx.post(system.url + path, content=raw, headers=headers, trust_env=False)


# The ledger


def test_it_accepts_and_keeps_what_comes(system: FakeExternalSystem) -> None:
    one, other = ready(), ready()

    assert post(system, one, headers={"Idempotency-Key": "k"}).status_code == 202
    post(system, other)
    post(system, one)
    post(system, cancelled(one["task_id"]))

    first, *_ = system.pushes
    assert (first.body, first.path, first.delivery) == (one, PATH, 1)
    assert first.headers["idempotency-key"] == "k"
    assert orjson.loads(first.raw) == one
    assert [push.delivery for push in system.of(one["task_id"])] == [1, 3, 4]
    assert system.executions == [one["idempotency_key"], other["idempotency_key"]]
    assert [push.status for push in system.news] == ["CANCELLED"]


def test_a_batch_is_a_push_for_each_and_one_delivery(system: FakeExternalSystem) -> None:
    tasks = [ready(), ready()]

    answer = post(system, tasks, BATCH)

    assert answer.status_code == 200
    assert answer.json() == [{"task_id": task["task_id"], "code": 202} for task in tasks]
    assert [(push.body, push.delivery, push.path) for push in system.pushes] == [
        (task, 1, BATCH) for task in tasks
    ]


def test_the_path_for_batches_may_be_missing() -> None:
    with FakeExternalSystem(batches=False) as system:
        assert post(system, [ready()], BATCH).status_code == 404
        assert post(system, ready()).status_code == 202
        assert len(system.pushes) == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [(PATH, b"{"), (PATH, [ready()]), (PATH, {"task_id": "x"}), (BATCH, ready()), (BATCH, [5])],
)
def test_what_is_no_push_is_refused(system: FakeExternalSystem, path: str, body: object) -> None:
    assert post(system, body, path).status_code == 400
    assert system.pushes == []
    assert len(system.refused) == 1


def test_waiting_ends_when_the_pushes_are_there(system: FakeExternalSystem) -> None:
    timer = threading.Timer(0.1, post, [system, ready()])
    timer.start()
    assert len(system.wait_for(1)) == 1
    timer.join()

    with pytest.raises(TimeoutError, match="1 pushes, 0 reports"):
        system.wait_for(2, timeout=0.01)
    assert system.wait_until(lambda: system.executions) == [system.pushes[0].key]


# Who may push


def test_pushes_must_carry_the_key() -> None:
    with FakeExternalSystem(api_key="s3cret") as system:
        assert post(system, ready()).status_code == 401
        assert post(system, ready(), headers={"Authorization": "Bearer s"}).status_code == 401
        assert post(system, ready(), headers={"Authorization": "Bearer s3cret"}).status_code == 202
        assert system.refused == ["the bearer key is missing or wrong"] * 2
        assert len(system.pushes) == 1


def test_pushes_must_be_signed_with_one_of_the_secrets() -> None:
    body = orjson.dumps(ready())

    def signed(secret: str, at: float) -> dict[str, str]:
        headers = webhook_headers(read_secrets(secret), "id", int(at), body)
        return {name.decode(): value.decode() for name, value in headers}

    with FakeExternalSystem(secrets=f"{NEW} {OLD}") as system:
        assert post(system, body, headers=signed(OLD, time.time())).status_code == 202
        assert post(system, body).json() == {"message": system.refused[0]}
        assert post(system, body, headers=signed(OLD, time.time() - 600)).status_code == 401
        stranger = base64.b64encode(b"nobody knows who they are").decode()
        assert post(system, body, headers=signed(stranger, time.time())).status_code == 401
        reasons = ["is missing", "too far from now", "fits none of the secrets"]
        for reason, refusal in zip(reasons, system.refused, strict=True):
            assert reason in refusal


# Answers


def test_it_answers_one_after_the_other_and_then_like_the_last(system: FakeExternalSystem) -> None:
    system.answer(503, (429, "busy", {"Retry-After": "7"}), (200, {"status": "SUCCESS"}))

    answers = [post(system, ready()) for _ in range(4)]

    assert [answer.status_code for answer in answers] == [503, 429, 200, 200]
    assert (answers[1].json(), answers[1].headers["Retry-After"]) == ("busy", "7")
    assert answers[3].json() == {"status": "SUCCESS"}


def test_a_function_decides_for_each_push(system: FakeExternalSystem) -> None:
    good, bad = ready(), ready()
    system.answer(lambda push: (422, b"no") if push.task_id == bad["task_id"] else 202)

    assert post(system, good).status_code == 202
    assert (post(system, bad).status_code, post(system, bad).text) == (422, "no")


def test_news_takes_no_answer_of_what_is_to_be_executed(system: FakeExternalSystem) -> None:
    system.answer(400, 503, delay=0.1)
    system.answer_news(500, 200)
    bodies = [ready(), cancelled("a"), cancelled("b"), ready(), cancelled("c")]

    assert [post(system, body).status_code for body in bodies] == [400, 500, 200, 503, 200]
    assert [r["code"] for r in post(system, bodies[:2], BATCH).json()] == [503, 200]


@pytest.mark.parametrize("wrong", ["no", "202", ("202",), (), (202, b"", {}, 1)])
def test_what_is_no_answer_is_refused_where_it_is_given(
    system: FakeExternalSystem, wrong: Any
) -> None:
    for give in (system.answer, system.answer_news, system.answer_batch):
        with pytest.raises(TypeError, match=r"an answer is a status, .* or RESET, not"):
            give(wrong)
    assert post(system, ready()).status_code == 202


def test_a_reset_is_no_answer(system: FakeExternalSystem) -> None:
    system.answer(RESET, 202)

    with pytest.raises(httpx.RemoteProtocolError):
        post(system, ready())
    assert post(system, ready()).status_code == 202
    assert len(system.pushes) == 2


def test_an_answer_may_be_late(system: FakeExternalSystem) -> None:
    system.answer(202, delay=0.1)
    started = time.monotonic()

    assert post(system, ready()).status_code == 202
    assert time.monotonic() - started >= 0.1


def test_the_end_does_not_wait_for_late_answers() -> None:
    def push(system: FakeExternalSystem) -> None:
        with contextlib.suppress(httpx.TransportError):
            post(system, ready())

    with FakeExternalSystem() as system:
        system.answer(202, delay=600)
        waiting = threading.Thread(target=push, args=[system])
        waiting.start()
        system.wait_for(1)
    waiting.join(30)
    assert not waiting.is_alive()


def test_the_results_of_a_batch_follow_the_answers(system: FakeExternalSystem) -> None:
    tasks = [ready(), ready(), ready()]
    done = {"status": "SUCCESS", "output_ref": "s3://there"}
    system.answer((200, done), (503, None, {"Retry-After": "7"}), 422)

    assert post(system, tasks, BATCH).json() == [
        {"task_id": tasks[0]["task_id"], "code": 200, **done},
        {"task_id": tasks[1]["task_id"], "code": 503, "retry_after": 7},
        {"task_id": tasks[2]["task_id"], "code": 422},
    ]


def test_a_batch_may_be_answered_as_a_whole(system: FakeExternalSystem) -> None:
    system.answer_batch(202)
    answer = post(system, [ready()], BATCH)
    assert (answer.status_code, answer.content) == (202, b"")

    system.answer_batch(lambda pushes: (207, [push.key for push in pushes]))
    task = ready()
    assert post(system, [task], BATCH).json() == [task["idempotency_key"]]

    system.answer_batch(RESET)
    with pytest.raises(httpx.RemoteProtocolError):
        post(system, [ready()], BATCH)

    system.answer_batch(None)
    assert post(system, [ready()], BATCH).status_code == 200
    assert post(system, [], BATCH).json() == []


def test_what_goes_wrong_in_a_function_of_the_test_is_raised_in_the_end() -> None:
    def strict(push: Push) -> int:
        raise LookupError(push.task_id)

    system = FakeExternalSystem()
    system.answer(strict)

    with pytest.raises(LookupError, match="known"), system:
        post(system, ready("known"))
    with pytest.raises(KeyError), FakeExternalSystem():
        raise KeyError  # that of the test itself goes first


# Reports


class Api:
    """Stands in for the API of pgsched."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, str | None, dict[str, Any]]] = []
        self.answers: list[Reply | None] = []
        self.server = LoopbackServer(self.take)

    def take(self, request: Request) -> Reply | None:
        body = orjson.loads(request.raw)
        self.reports.append((request.path, request.headers.get("authorization"), body))
        if self.answers:
            return self.answers.pop(0)
        return Reply(200, orjson.dumps({"status": body["status"]}))

    def callback(self, task: dict[str, Any], token: str | None = "t") -> dict[str, Any]:
        path = f"/api/tasks/{task['task_id']}/status?attempt={task['attempt']}"
        return task | {"callback_url": self.server.url + path, "callback_token": token}

    @property
    def statuses(self) -> list[str]:
        return [body["status"] for _, _, body in self.reports]


@pytest.fixture
def api() -> Iterator[Api]:
    it = Api()
    yield it
    it.server.stop()


def test_it_reports_where_and_as_the_push_says(api: Api) -> None:
    with FakeExternalSystem(report_key="of the API") as system:
        post(system, api.callback(ready("a", 2)))
        post(system, api.callback(ready("b"), token=None))
        post(system, ready("c"))
        first, second, third = system.pushes

        assert system.report(first, "SUCCESS", output_ref="x") == (200, {"status": "SUCCESS"})
        api.answers = [Reply(409, b"stop")]
        assert system.report(second, "RUNNING") == (409, "stop")
        with pytest.raises(ValueError, match="no callback_url"):
            system.report(third, "SUCCESS")

        body = {"status": "SUCCESS", "attempt": 2, "output_ref": "x"}
        assert api.reports[0] == ("/api/tasks/a/status?attempt=2", "Bearer t", body)
        assert api.reports[1][1] == "Bearer of the API"
        assert [(r.push, r.status, r.code) for r in system.reported] == [
            (first, "SUCCESS", 200),
            (second, "RUNNING", 409),
        ]


def test_it_can_report_the_end_of_all_it_accepts(api: Api) -> None:
    with FakeExternalSystem(reports="SUCCESS") as system:
        system.answer(503, 202)
        task = api.callback(ready())
        api.answers = [None, Reply(500)]  # not heard: said again
        for body in (task, task, task, cancelled(task["task_id"])):
            post(system, body)

        assert system.wait_until(lambda: len(system.reported) == 3)
    assert api.statuses == ["RUNNING"] * 3 + ["SUCCESS"]


def test_it_stops_at_a_report_that_is_refused(api: Api) -> None:
    with FakeExternalSystem(reports="FAILED", dedupe=False) as system:
        task = api.callback(ready())
        api.answers = [Reply(409)]
        post(system, task)
        system.wait_until(lambda: system.reported)
        post(system, task)
        system.wait_until(lambda: len(system.reported) == 3)
    assert api.statuses == ["RUNNING", "RUNNING", "FAILED"]


def test_a_batch_is_reported_task_by_task(api: Api) -> None:
    with FakeExternalSystem(reports="SUCCESS") as system:
        tasks = [api.callback(ready()) for _ in range(3)]
        system.answer(202, 422, 202)
        post(system, tasks, BATCH)
        ends = system.wait_until(
            lambda: [r for r in system.reported if r.status == "SUCCESS"][1:] and system.reported
        )
    assert {end.push.task_id for end in ends} == {tasks[0]["task_id"], tasks[2]["task_id"]}


# In an event loop


async def test_it_can_be_used_in_an_event_loop() -> None:
    async with FakeExternalSystem() as system, httpx.AsyncClient(trust_env=False) as client:
        waiting = asyncio.create_task(asyncio.to_thread(system.wait_for, 1))
        await client.post(system.url + PATH, json=ready())
        assert len(await waiting) == 1


def test_a_kept_connection_is_cut_at_the_end() -> None:
    with httpx.Client(trust_env=False) as client:
        with FakeExternalSystem() as system:
            url = system.url + PATH
            client.post(url, json=ready())
        with pytest.raises(httpx.TransportError):
            client.post(url, json=ready())
        assert len(system.pushes) == 1
