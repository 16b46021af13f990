"""Batches: what one request carries, and what its answer says about each task."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import orjson
import pytest
from standardwebhooks import Webhook

from pgsched.answers import Answer, Reply, Verdict, outcome_of
from pgsched.batches import NO_BATCHES, BatchAnswer, answers_of
from pgsched.external import ExternalSystemClient
from pgsched.messages import MAX_BATCH_BYTES, Messages
from pgsched.models import ClaimedTask, Completion, ExternalSystem
from tests.claimed import claimed

SECRET = b"of the system" * 2
TASKS = [claimed(n) for n in range(1, 4)]
IDS = [task.id for task in TASKS]


def system(**given: Any) -> ExternalSystem:
    crm = ExternalSystem(
        "crm", "https://crm.example/in", "s3cret", Completion.CALLBACK, timedelta(seconds=5)
    )
    return crm._replace(batch_size=50, **given)


def answers(status: int | None, body: Any = b"", reply: Reply = Reply.ANSWERED) -> BatchAnswer:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return answers_of(Answer(reply, status, elapsed=timedelta(seconds=1), raw=raw), IDS)


def codes(answer: BatchAnswer) -> list[int | None]:
    return [part and part.status_code for part in answer.parts]


# What an answer says


@pytest.mark.parametrize("body", [b"", b" \r\n"])
def test_an_empty_success_is_the_answer_to_each(body: bytes) -> None:
    answer = answers(202, body)

    assert codes(answer) == [202, 202, 202]
    assert all(part is not answer.whole for part in answer.parts)


def test_results_belong_to_the_tasks_they_name_in_any_order() -> None:
    results = [
        {"task_id": IDS[2].upper(), "code": 429, "retry_after": 7},
        {"task_id": IDS[0]},
        {"task_id": IDS[1], "code": 422, "error_msg": "no such\naddress"},
    ]

    first, second, third = answers(200, results).parts

    assert first
    assert first.status_code == 200
    assert second
    assert (second.status_code, second.text) == (422, "no such address")
    assert third
    assert (third.status_code, third.retry_after) == (429, timedelta(seconds=7))


def test_a_result_settles_like_a_body() -> None:
    results = [{"task_id": IDS[0], "status": "SUCCESS", "output_ref": "s3://there"}]

    part = answers(202, results).parts[0]

    assert part
    outcome = outcome_of(part, Completion.CALLBACK, 0)
    assert (outcome.verdict, outcome.output_ref) == (Verdict.SUCCEEDED, "s3://there")


def test_what_is_not_answered_is_to_be_pushed_alone() -> None:
    assert codes(answers(202, [{"task_id": IDS[1]}])) == [None, 202, None]


@pytest.mark.parametrize(
    "result",
    [
        {"code": 202},
        {"task_id": IDS[0], "code": "202"},
        {"task_id": IDS[0], "code": True},
        {"task_id": IDS[0], "code": 99},
        {"task_id": IDS[0], "code": 700},
        {"task_id": IDS[0], "code": None},
        {"task_id": 7},
        "SUCCESS",
        None,
    ],
)
def test_a_result_that_cannot_be_understood_answers_nothing(result: Any) -> None:
    assert codes(answers(200, [result])) == [None, None, None]


@pytest.mark.parametrize("wait", [-1, "7", True, None, 1e300])
def test_a_wait_that_cannot_be_understood_is_none(wait: Any) -> None:
    part = answers(200, [{"task_id": IDS[0], "code": 503, "retry_after": wait}]).parts[0]

    assert part
    assert part.retry_after is None


@pytest.mark.parametrize(
    "body", [b"OK", b"{}", b"[", b"3", b'"x"', b"\xff", {"results": []}, {"status": "SUCCESS"}]
)
def test_a_body_that_is_no_list_answers_nothing(body: Any) -> None:
    assert codes(answers(200, body)) == [None, None, None]


def test_an_escaped_nul_does_not_reach_the_database() -> None:
    part = answers(200, b'[{"task_id": "%s", "output_ref": "a\\u0000b"}]' % IDS[0].encode()).parts[
        0
    ]

    assert part
    assert part.body
    assert part.body["output_ref"] == "a\ufffdb"


@pytest.mark.parametrize("status", [301, 401, 403, 407, 408, 425, 429, 502, 503, 504])
def test_an_answer_that_defers_defers_all(status: int) -> None:
    answer = answers(status, [{"task_id": IDS[0]}])

    assert all(part is answer.whole for part in answer.parts)


@pytest.mark.parametrize("reply", [Reply.UNREACHABLE, Reply.TIMED_OUT, Reply.CUT])
def test_no_answer_defers_all(reply: Reply) -> None:
    answer = answers(None, reply=reply)

    assert all(part is answer.whole for part in answer.parts)


@pytest.mark.parametrize("status", [400, 409, 410, 413, 422, 500, 501, 505, 599, *NO_BATCHES])
def test_any_other_answer_has_each_pushed_alone(status: int) -> None:
    assert codes(answers(status)) == [None, None, None]


# What is sent


class Recorder:
    """Answers 202, and keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return httpx.Response(202)

    async def push(self, to: ExternalSystem, tasks: list[ClaimedTask]) -> BatchAnswer:
        client = ExternalSystemClient(
            httpx.MockTransport(self), "https://pgsched.example", [b"for callbacks" * 2]
        )
        return await client.push_batch(to, tasks)


async def test_a_batch_is_a_list_of_what_single_pushes_would_be() -> None:
    recorder = Recorder()

    answer = await recorder.push(system(), TASKS)

    (request,) = recorder.requests
    assert str(request.url) == "https://crm.example/in/api/tasks/status/batch"
    assert codes(answer) == [202, 202, 202]
    single = orjson.loads(Messages(None).single(TASKS[0]).body)
    sent = orjson.loads(request.content)
    assert [one["task_id"] for one in sent] == IDS
    assert [one["idempotency_key"] for one in sent] == [f"{task_id}:1" for task_id in IDS]
    assert all(one["callback_token"] and one["callback_url"] for one in sent)
    assert sent[0].keys() == single.keys()


async def test_a_batch_has_no_key_of_its_own_but_a_signature() -> None:
    recorder = Recorder()
    to = system(secrets=(SECRET,))

    await recorder.push(to, TASKS)
    await recorder.push(to, TASKS)

    first, second = recorder.requests
    assert "Idempotency-Key" not in first.headers
    assert first.headers["Authorization"] == "Bearer s3cret"
    assert first.headers["webhook-id"] != second.headers["webhook-id"]
    for request in recorder.requests:
        Webhook(SECRET).verify(request.content, dict(request.headers))


async def test_a_batch_carries_no_more_than_a_megabyte() -> None:
    big = orjson.Fragment(b'{"x": "%s"}' % (b"x" * 240_000))
    tasks = [claimed(n, input_params=big) for n in range(1, 8)]
    recorder = Recorder()

    answer = await recorder.push(system(), tasks)

    assert len(answer.parts) == 4
    assert len(recorder.requests[0].content) <= MAX_BATCH_BYTES


async def test_a_task_that_is_too_large_goes_by_itself() -> None:
    huge = orjson.Fragment(b'{"x": "%s"}' % (b"x" * MAX_BATCH_BYTES))
    recorder = Recorder()

    answer = await recorder.push(system(), [claimed(1, input_params=huge), claimed(2)])

    assert len(answer.parts) == 1


async def test_a_long_list_of_results_is_read_to_its_end() -> None:
    tasks = [claimed(n) for n in range(1, 1001)]
    results = [{"task_id": task.id, "code": 422, "error_msg": "x" * 100} for task in tasks]
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=results))

    answer = await ExternalSystemClient(transport, None).push_batch(system(), tasks)

    assert codes(answer) == [422] * 1000
