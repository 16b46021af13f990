"""The stand-in for an external system that users test with: what it keeps, checks and answers."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import httpx
import orjson
import pytest

from pgsched.answers import Answer, Reply
from pgsched.batches import BatchAnswer
from pgsched.external import ExternalSystemClient, make_transport
from pgsched.models import Completion, ExternalSystem
from pgsched.signing import read_secrets
from pgsched.testing import RESET, FakeExternalSystem, Push
from pgsched.testing import Reply as Said
from tests.claimed import claimed

OLD, NEW = (f"whsec_{base64.b64encode(word * 12).decode()}" for word in (b"old", b"new"))
TASKS = [claimed(n) for n in range(1, 4)]


@pytest.fixture
def fake() -> Iterator[FakeExternalSystem]:
    with FakeExternalSystem() as it:
        yield it


class Pusher:
    """The client that workers use."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self.client = ExternalSystemClient(transport, None)

    def to(self, fake: FakeExternalSystem, **given: Any) -> ExternalSystem:
        system = ExternalSystem("s", fake.url, None, Completion.CALLBACK, timedelta(seconds=2))
        return system._replace(**given)

    async def push(self, fake: FakeExternalSystem, n: int = 1, **given: Any) -> Answer:
        return await self.client.push_task_status(self.to(fake, **given), claimed(n))

    async def push_all(self, fake: FakeExternalSystem) -> BatchAnswer:
        return await self.client.push_batch(self.to(fake), TASKS)


@pytest.fixture
async def pusher() -> AsyncIterator[Pusher]:
    async with make_transport(4) as transport:
        yield Pusher(transport)


async def test_it_keeps_what_arrives(fake: FakeExternalSystem, pusher: Pusher) -> None:
    await pusher.push(fake)
    await pusher.push(fake)

    first, second = fake.wait_for(2)
    assert first.task_id == claimed(1).id
    assert first.key == second.key == first.headers["idempotency-key"]
    assert first.body["metadata"]["content"] == {"kind": "mail"}
    assert fake.executions == {first.key}
    assert fake.of(claimed(1).id) == [first, second]
    assert fake.of(claimed(2).id) == fake.news == []
    assert fake.requests == 2


async def test_it_answers_what_the_test_says(fake: FakeExternalSystem, pusher: Pusher) -> None:
    fake.answer = Said(429, {"message": "later"}, {"Retry-After": "7"})
    busy = await pusher.push(fake)
    fake.answer = lambda push: 200 if push.attempt > 1 else 503
    down = await pusher.push(fake)
    fake.answer = RESET
    cut = await pusher.push(fake)
    fake.answer = Said(202, delay=5)
    late = await pusher.push(fake, request_timeout=timedelta(seconds=0.1))

    assert (busy.status_code, busy.retry_after) == (429, timedelta(seconds=7))
    assert down.status_code == 503
    assert cut.reply is Reply.CUT
    assert late.reply is Reply.TIMED_OUT


async def test_it_takes_batches_with_an_answer_for_each(
    fake: FakeExternalSystem, pusher: Pusher
) -> None:
    def answer(push: Push) -> int | Said:
        return Said(200, {"status": "SUCCESS"}) if push.task_id == claimed(2).id else 422

    fake.answer = answer

    parts = (await pusher.push_all(fake)).parts

    assert [part and part.status_code for part in parts] == [422, 200, 422]
    assert fake.requests == 1
    assert [push.task_id for push in fake.wait_for(3)] == [task.id for task in TASKS]
    assert all(push.is_batched for push in fake.pushes)


async def test_it_resets_a_batch_as_a_whole(fake: FakeExternalSystem, pusher: Pusher) -> None:
    fake.answer = lambda push: RESET if push.task_id == claimed(2).id else 202

    assert (await pusher.push_all(fake)).whole.reply is Reply.CUT


async def test_it_may_take_no_batches(pusher: Pusher) -> None:
    with FakeExternalSystem(takes_batches=False) as fake:
        answer = await pusher.push_all(fake)

    assert answer.whole.status_code == 404
    assert fake.pushes == []


async def test_it_checks_the_key(pusher: Pusher) -> None:
    with FakeExternalSystem(api_key="right") as fake:
        assert (await pusher.push(fake, api_key="wrong")).status_code == 401
        assert (await pusher.push(fake)).status_code == 401
        assert (await pusher.push(fake, api_key="right")).status_code == 202
    assert len(fake.pushes) == 1


async def test_it_checks_signatures_by_any_of_its_secrets(pusher: Pusher) -> None:
    with FakeExternalSystem(secrets=f"{NEW} {OLD}") as fake:
        for secret in (OLD, NEW):
            answer = await pusher.push(fake, secrets=read_secrets(secret))
            assert answer.status_code == 202
        stranger = base64.b64encode(b"stranger" * 4).decode()
        refused = await pusher.push(fake, secrets=read_secrets(stranger))
        unsigned = await pusher.push(fake)
    assert refused.body == {"message": "no signature is by one of the secrets"}
    assert unsigned.body == {"message": "the header webhook-id is missing"}
    assert len(fake.pushes) == 2


async def test_news_is_kept_apart_and_always_taken(fake: FakeExternalSystem) -> None:
    fake.answer = 500
    news = {"task_id": "t", "status": "CANCELLED", "attempt": 1, "idempotency_key": "t:status:9"}
    async with httpx.AsyncClient() as http:
        answer = await http.post(f"{fake.url}/api/tasks/status", json=news)

    assert answer.status_code == 202
    assert [one.body["status"] for one in fake.wait_for_news(1)] == ["CANCELLED"]
    assert fake.pushes == []


async def test_it_reports_to_the_callback_url(pusher: Pusher) -> None:
    """Another stand-in takes the place of the API: what matters here is what it is sent."""
    heard: list[tuple[str, str | None, Any]] = []

    def api(request: httpx.Request) -> httpx.Response:
        sent = orjson.loads(request.content)
        heard.append((request.url.path, request.headers.get("Authorization"), sent["status"]))
        return httpx.Response(200, json={"status": sent["status"]})

    with FakeExternalSystem() as fake:
        fake._http = httpx.Client(transport=httpx.MockTransport(api))
        body = {"callback_url": "http://api/api/tasks/t/status", "callback_token": "1.abc"}
        push = Push(body, {}, b"", is_batched=False)
        answer = await asyncio.to_thread(fake.report, push, "RUNNING", progress=1)

    assert answer == (200, {"status": "RUNNING"})
    assert heard == [("/api/tasks/t/status", "Bearer 1.abc", "RUNNING")]


def test_what_does_not_come_is_an_error_that_counts(fake: FakeExternalSystem) -> None:
    with pytest.raises(TimeoutError, match=r"0 of 1 came within 0\.01 s"):
        fake.wait_for(1, timeout=0.01)


def test_secrets_that_are_none_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="whsec_"):
        FakeExternalSystem(secrets="swordfish")
