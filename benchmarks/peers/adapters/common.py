"""
What the adapters of peers in Python share: commands in, figures out.

    python with_NAME.py COMMAND '{"dsn": ..., ...}'

Each runs in the environment of its peer, so this needs no more than Python,
and aiohttp for the POST.  What it has to say it prints as lines of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

Payload = dict[str, Any]
Handler = Callable[[Payload], Awaitable[None]]
Enqueue = Callable[[Payload], Awaitable[object]]

CHUNK = 1000
IN_FLIGHT = 64
REPORTED = 0.05


class Job(NamedTuple):
    """What a worker is to do."""

    kind: str
    handler: Handler
    slots: int
    url: str | None
    batch: int


class Peer(Protocol):
    """What an adapter is to bring."""

    async def install(self) -> None:
        """Make the schema, in an empty database."""

    async def clients(self, count: int) -> Enqueue:
        """What *count* coroutines may call at the same time, each call a transaction."""

    async def bulk(self, payloads: list[Payload], delay: float | None) -> None:
        """Enqueue these at once, the way the documentation advises for many."""

    async def work(self, job: Job) -> None:
        """Run one worker for ever."""


class Tally:
    """Jobs handled, told every 50 ms; and how long each had waited."""

    def __init__(self) -> None:
        self.count = 0
        self.waited: list[float] = []

    def report(self) -> None:
        told = 0
        while True:
            time.sleep(REPORTED)
            if self.count != told:
                told = self.count
                tell(count=told, at=time.time())

    def end_with_stdin(self) -> None:
        sys.stdin.read()
        tell(waited=self.waited)
        os._exit(0)


def tell(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


async def handler_of(kind: str, tally: Tally, url: str | None) -> Handler:
    """A job that does nothing, or looks at the clock, or POSTs."""

    async def noop(_: Payload) -> None:
        tally.count += 1

    async def stamp(payload: Payload) -> None:
        tally.waited.append(time.time() - payload["at"])
        tally.count += 1

    if kind != "post":
        return {"noop": noop, "stamp": stamp}[kind]

    import aiohttp

    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=IN_FLIGHT))

    async def post(payload: Payload) -> None:
        async with session.post(f"{url}/jobs", json=payload) as answer:
            answer.raise_for_status()
            await answer.read()
        tally.count += 1

    return post


async def work(
    peer: Peer, kind: str, url: str | None = None, slots: int = IN_FLIGHT, batch: int = 1
) -> None:
    tally = Tally()
    for target in (tally.report, tally.end_with_stdin):
        threading.Thread(target=target, daemon=True).start()
    await peer.work(Job(kind, await handler_of(kind, tally, url), slots, url, batch))


async def enqueue(peer: Peer, clients: int, seconds: float) -> None:
    """Many clients, each one job after the other."""
    call = await peer.clients(clients)
    await asyncio.gather(*(call({"at": 0}) for _ in range(clients)))
    started = time.perf_counter()
    counts = [0] * clients

    async def client(number: int) -> None:
        while time.perf_counter() - started < seconds:
            await call({"number": counts[number]})
            counts[number] += 1

    await asyncio.gather(*(client(number) for number in range(clients)))
    tell(count=sum(counts), seconds=time.perf_counter() - started)


async def bulk(peer: Peer, count: int, delay: float | None = None) -> None:
    await peer.clients(1)
    payloads = [{"number": number} for number in range(count)]
    started = time.perf_counter()
    await peer.bulk(payloads, delay)
    tell(count=count, seconds=time.perf_counter() - started)


async def trickle(peer: Peer, rate: float, seconds: float) -> None:
    """*rate* jobs a second from one client, in no rhythm that a poll could fall in with."""
    call = await peer.clients(8)
    started, number, calls = time.perf_counter(), 0, set()
    while (at := time.perf_counter() - started) < seconds:
        due = (number + (number * 0.618) % 1) / rate
        if due > at:
            await asyncio.sleep(due - at)
        calls.add(task := asyncio.create_task(call({"at": time.time()})))
        task.add_done_callback(calls.discard)
        number += 1
    await asyncio.gather(*calls)
    tell(count=number, seconds=time.perf_counter() - started)


COMMANDS: dict[str, Callable[..., Awaitable[None]]] = {
    "work": work,
    "enqueue": enqueue,
    "bulk": bulk,
    "trickle": trickle,
}


def parts_of(dsn: str) -> dict[str, Any]:
    """host=… port=… as keywords for asyncpg."""
    parts = dict(part.split("=", 1) for part in dsn.split())
    parts["database"] = parts.pop("dbname")
    return parts


def uri_of(dsn: str) -> str:
    """The same, where only a URL is taken."""
    parts = parts_of(dsn)
    user, database = parts["user"], parts["database"]
    return f"postgresql://{user}@localhost:{parts['port']}/{database}?host={quote(parts['host'])}"


def main(make: Callable[[str], Peer]) -> None:
    command, options = sys.argv[1], json.loads(sys.argv[2])
    peer = make(options.pop("dsn"))

    async def run() -> None:
        if command == "install":
            await peer.install()
        else:
            await COMMANDS[command](peer, **options)
        sys.stdout.flush()
        os._exit(0)  # whatever the pools and threads of the peer have to say

    import uvloop

    uvloop.run(run())
