"""
Which way of sending a push costs how much CPU.

    python -m benchmarks.http_transports

Fifty POSTs in flight to a receiver in another process, on the loopback.  Times
on a shared machine are noisy: the ways take turns, and the best turn counts.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import aiohttp
import httpx
import httpx_aiohttp
import orjson
import uvloop

from pgsched.external import ExternalSystemClient
from pgsched.models import ClaimedTask, Completion, ExternalSystem
from pgsched.transport import Http1Transport

IN_FLIGHT = 50
TURNS = 3
SECONDS = 1.2

Push = Callable[[], Awaitable[object]]

TASK = ClaimedTask(
    id="01980000-0000-7000-8000-000000000001",
    attempt=1,
    delivery_count=1,
    sequence=1,
    queue="default",
    hold_seconds=60,
    priority=0,
    execute_after=datetime(2026, 1, 1, tzinfo=UTC),
    scheduled_time=datetime(2026, 1, 1, tzinfo=UTC),
    definition_id="01980000-0000-7000-8000-000000000002",
    definition_name="send_invoice",
    content=orjson.Fragment(b'{"kind": "mail", "template": "invoice"}'),
    trace_id="01980000-0000-7000-8000-000000000003",
    schedule_id=None,
    input_params=orjson.Fragment(b'{"order_id": 4711}'),
    schedule_config=orjson.Fragment(b"{}"),
    round_index=0,
    retry_count=0,
)
BODY = b"x" * 640  # as long as the body of a push
HEADERS = {
    "User-Agent": "pgsched",
    "Content-Type": "application/json",
    "Authorization": "Bearer secret",
    "Idempotency-Key": f"{TASK.id}:1",
    "traceparent": f"00-{TASK.trace_id.replace('-', '')}-00f067aa0ba902b7-01",
}


class Figure(NamedTuple):
    per_second: float
    cpu_us: float


async def measure(push: Push) -> Figure:
    """Keep IN_FLIGHT pushes going for SECONDS."""
    count = 0
    stop = time.perf_counter() + SECONDS

    async def slot() -> None:
        nonlocal count
        while time.perf_counter() < stop:
            await push()
            count += 1

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(slot() for _ in range(IN_FLIGHT)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Figure(count / wall, cpu / count * 1e6)


def through_client(client: httpx.AsyncClient, url: str) -> Push:
    return lambda: client.post(url, content=BODY, headers=HEADERS)


def through_transport(transport: httpx.AsyncBaseTransport, url: str) -> Push:
    target = httpx.URL(url)
    headers = {"Host": target.netloc.decode(), "Content-Length": str(len(BODY)), **HEADERS}

    async def push() -> None:
        stream = httpx.ByteStream(BODY)
        request = httpx.Request("POST", target, headers=headers, stream=stream)
        await (await transport.handle_async_request(request)).aread()

    return push


def through_aiohttp(session: aiohttp.ClientSession, url: str) -> Push:
    async def push() -> None:
        async with session.post(url, data=BODY, headers=HEADERS) as response:
            await response.read()

    return push


async def measure_all(port: int) -> dict[str, Figure]:
    """The best turn of every way."""
    base = f"http://127.0.0.1:{port}"
    url = f"{base}/api/tasks/status"
    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    system = ExternalSystem("s", base, "secret", Completion.CALLBACK, timedelta(seconds=30))
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(limits=limits))
        plain = await stack.enter_async_context(httpx.AsyncHTTPTransport(limits=limits))
        over = await stack.enter_async_context(httpx_aiohttp.HttpxAiohttpClient(limits=limits))
        fast = await stack.enter_async_context(httpx_aiohttp.AiohttpTransport(limits=limits))
        connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        ours = await stack.enter_async_context(Http1Transport())
        pusher = ExternalSystemClient(ours, "https://pgsched.example")
        ways = {
            "httpx.AsyncClient": through_client(client, url),
            "httpx.AsyncHTTPTransport": through_transport(plain, url),
            "httpx-aiohttp, client": through_client(over, url),
            "httpx-aiohttp, transport": through_transport(fast, url),
            "aiohttp": through_aiohttp(session, url),
            "pgsched, transport": through_transport(ours, url),
            "pgsched, a whole push": lambda: pusher.push_task_status(system, TASK),
        }
        turns = [{name: await measure(push) for name, push in ways.items()} for _ in range(TURNS)]
    return {name: min((turn[name] for turn in turns), key=lambda f: f.cpu_us) for name in ways}


def main() -> None:
    receiver = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.receiver"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with receiver:
        assert receiver.stdout is not None
        figures = uvloop.run(measure_all(int(receiver.stdout.readline())))
        receiver.terminate()
    print(f"{'':28}{'POST/s':>8}{'CPU µs':>8}   ({IN_FLIGHT} in flight)")
    for name, figure in figures.items():
        print(f"{name:28}{figure.per_second:8,.0f}{figure.cpu_us:8,.0f}")


if __name__ == "__main__":
    main()
