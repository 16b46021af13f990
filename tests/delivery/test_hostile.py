"""The hostile receiver does what it writes down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.delivery.evidence import Delivery, Reply
from tests.delivery.hostile import BATCH_MIX, MIX, Connection, Habits, Receiver
from tests.waiting import until

HABITS = Habits("http://127.0.0.1:9", 1, "callback", request_timeout=0.6, silence=60)
STATUSES = {reply: int(reply[:3]) for reply in Reply if reply[:3].isdigit()}
SILENT = {Reply.RESET, Reply.HALF, Reply.HANG, Reply.LATE}
PATH = "/api/tasks/status"


@asynccontextmanager
async def receiving() -> AsyncIterator[tuple[Receiver, httpx.AsyncClient]]:
    """A receiver in this process, and a client that waits no longer than a worker would."""
    receiver = Receiver(HABITS)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(receiver), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        # Only for the answer: what is never sent the receiver cannot write down.
        timeout = httpx.Timeout(30, read=HABITS.request_timeout)
        async with httpx.AsyncClient(base_url=url, timeout=timeout) as client:
            yield receiver, client
        await asyncio.sleep(HABITS.request_timeout)  # for the last late answer
    finally:
        server.close()


def push(number: int, attempt: int = 1) -> dict[str, Any]:
    return {
        "task_id": f"t{number}",
        "status": "READY_FOR_EXECUTION",
        "attempt": attempt,
        "sequence": number,
        "idempotency_key": f"t{number}:{attempt}",
        "metadata": {"input_params": {"number": number}},
    }


async def post(client: httpx.AsyncClient, path: str, body: Any) -> httpx.Response | None:
    try:
        return await client.post(path, json=body)
    except httpx.TransportError:
        return None


async def single_answers(count: int) -> tuple[dict[str, Delivery], list[httpx.Response | None]]:
    async with receiving() as (receiver, client):
        responses: list[httpx.Response | None] = []
        for first in range(0, count, 50):  # a client that is too busy would hear less
            numbers = range(first, min(first + 50, count))
            responses += await asyncio.gather(*(post(client, PATH, push(n)) for n in numbers))
        await asyncio.sleep(2 * HABITS.request_timeout)
        await until(lambda: len(receiver.deliveries) >= count)
        assert len(receiver.deliveries) == count
    return {delivery.task_id: delivery for delivery in receiver.deliveries}, responses


async def test_what_is_written_down_of_a_push_is_what_was_answered() -> None:
    deliveries, responses = await single_answers(250)

    for number, response in enumerate(responses):
        delivery = deliveries[f"t{number}"]
        assert (response is None) == (delivery.reply in SILENT), delivery
        if delivery.reply == Reply.LATE and delivery.written:  # the client was as late to hang up
            assert delivery.written - delivery.arrived > HABITS.request_timeout
        else:
            assert (response is None) == (delivery.written is None), delivery
        assert delivery.key == f"t{number}:1"
        if response is not None:
            assert response.status_code == STATUSES[Reply(delivery.reply)]
            said = response.json()["status"] if response.content and response.is_success else ""
            assert f"{response.status_code} {said}".strip() == delivery.reply
    assert {delivery.reply for delivery in deliveries.values()} >= MIX.keys() - {Reply.REFUSED}


async def test_the_same_seed_answers_the_same() -> None:
    one, _ = await single_answers(60)
    two, _ = await single_answers(60)

    assert {n: d.reply for n, d in one.items()} == {n: d.reply for n, d in two.items()}


async def test_what_is_written_down_of_a_batch_is_what_was_answered() -> None:
    async with receiving() as (receiver, client):
        kinds = set()
        for first in range(0, 2000, 10):
            batch = [push(number) for number in range(first, first + 10)]
            before = len(receiver.deliveries)
            response = await post(client, f"{PATH}/batch", batch)
            told = receiver.deliveries[before:]
            assert [d.task_id for d in told] == [one["task_id"] for one in batch]
            assert all(d.in_batch for d in told)
            kinds.add(check_batch(response, told))
    assert kinds == {str(kind) for kind in BATCH_MIX} - {Reply.HANG, Reply.RESET} | {"silence"}


def check_batch(response: httpx.Response | None, told: list[Delivery]) -> str:
    """What kind of answer it was, of which this was written down."""
    replies = {d.reply for d in told}
    if response is None:
        assert replies <= {Reply.HANG, Reply.RESET}
        assert {d.written for d in told} == {None}
        return "silence"
    if response.status_code != 200:
        of_each = Reply.UNSAID if response.status_code == 500 else str(response.status_code)
        assert replies == {of_each}
        return str(response.status_code)
    try:
        results = {result["task_id"]: result for result in response.json()}
    except json.JSONDecodeError:
        assert replies == {Reply.UNSAID}
        return "garbage"
    for delivery in told:
        result = results.get(delivery.task_id)
        said = f"{result['code']} {result.get('status', '')}".strip() if result else Reply.UNSAID
        assert said == delivery.reply
    return "results"


async def test_news_are_kept_apart_and_accepted() -> None:
    async with receiving() as (receiver, client):
        news = push(1) | {"status": "CANCELLED"}
        response = await client.post(PATH, json=news)

        assert response.status_code == 202
        assert receiver.news == [news]
        assert receiver.deliveries == []


async def test_an_execution_is_worked_on_once_however_often_it_comes() -> None:
    async with receiving() as (receiver, client):
        for _ in range(40):
            await post(client, PATH, push(1))
        once = receiver.executor.outstanding
        for _ in range(40):
            await post(client, PATH, push(1))
        assert receiver.executor.outstanding == once
        assert {delivery.task_id for delivery in receiver.deliveries} == {"t1"}
