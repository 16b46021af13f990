"""
Reports through the HTTP API in a process of its own: in lists, and one by one.

Each is the SUCCESS of another task, which ends with it: it leaves the hot table
and enters the record.  The client is little more than sockets.
"""

from __future__ import annotations

import asyncio
import functools
import re
import statistics
import time
from collections.abc import Iterator
from typing import Any, cast

import orjson
import psycopg

from benchmarks import bench
from pgsched.devdb import DevServer

LIST = 200
IN_LISTS, SINGLE = 20_000, 8_000
LISTERS, REPORTERS = 4, 32
ROUNDS = 3
KEY = "bench-key"
DISPATCH = """
    select pgsched.settle_tasks(jsonb_agg(jsonb_build_object(
      'task_id', c.id, 'attempt', c.attempt, 'delivery_count', c.delivery_count,
      'outcome', 'ACCEPTED'
    )))
    from pgsched.claim_due_tasks(%s, 10000) as c
"""
FINISHED = """
    select count(*), (select count(*) from pgsched.scheduled_tasks)
    from pgsched.task_instances
    where status = 'SUCCESS'
"""
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Client(asyncio.Protocol):
    """One keep-alive connection that sends a request when the last one is answered."""

    def __init__(self, requests: Iterator[bytes], done: asyncio.Future[None], each: int) -> None:
        self._requests = requests
        self._done = done
        self._each = each  # reports in a request
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionResetError("the API hung up"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        length = LENGTH.search(head + b"\r\n")
        if not end or length is None or len(body) < int(length[1]):
            return
        succeeded = body.count(b'"status":"SUCCESS"')
        if not head.startswith(b"HTTP/1.1 200") or succeeded != self._each:
            self._done.set_exception(AssertionError(body[:300]))
            self._transport.abort()
            return
        self._buffer = b""
        self._next()

    def _next(self) -> None:
        if request := next(self._requests, None):
            self._transport.write(request)
        else:
            self._done.set_result(None)
            self._transport.close()


async def _send(port: int, requests: list[bytes], connections: int, each: int) -> float:
    """Reports per second."""
    loop = asyncio.get_running_loop()
    waiting = iter(requests)
    dones = [loop.create_future() for _ in range(connections)]
    started = time.perf_counter()
    for done in dones:
        client = functools.partial(Client, waiting, done, each)
        await loop.create_connection(client, "127.0.0.1", port)
    await asyncio.gather(*dones)
    return len(requests) * each / (time.perf_counter() - started)


def _post(path: str, body: object) -> bytes:
    content = orjson.dumps(body)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def _dispatched(connection: psycopg.Connection[Any], count: int) -> list[str]:
    """The ids of so many new tasks, all DISPATCHED."""
    bench.fill(connection, count)
    worker = connection.execute("select pgsched.register_worker('bench', 1, '0')").fetchone()
    assert worker
    for _ in range(0, count, 10_000):
        connection.execute(DISPATCH, [worker[0]])
    rows = connection.execute(
        "select id::text from pgsched.scheduled_tasks where status = 'DISPATCHED'"
    ).fetchall()
    assert len(rows) == count
    connection.execute("vacuum analyze pgsched.scheduled_tasks")
    return [row[0] for row in rows]


def _in_lists(ids: list[str]) -> list[bytes]:
    reports = [{"task_id": task_id, "attempt": 1, "status": "SUCCESS"} for task_id in ids]
    return [
        _post("/api/tasks/status", reports[first : first + LIST])
        for first in range(0, len(reports), LIST)
    ]


def _single(ids: list[str]) -> list[bytes]:
    report = {"status": "SUCCESS", "output_ref": "s3://bucket/4711.pdf"}
    return [_post(f"/api/tasks/{task_id}/status?attempt=1", report) for task_id in ids]


def run(own: DevServer) -> None:
    dsn = bench.new_database(own, "reports")
    lists: list[float] = []
    singles: list[float] = []
    with (
        psycopg.connect(dsn, autocommit=True) as connection,
        bench.api(dsn, PGSCHED_API_KEY=KEY) as port,
    ):
        for _ in range(ROUNDS):
            requests = _in_lists(_dispatched(connection, IN_LISTS))
            lists.append(asyncio.run(_send(port, requests, LISTERS, LIST)))
            requests = _single(_dispatched(connection, SINGLE))
            singles.append(asyncio.run(_send(port, requests, REPORTERS, 1)))
        ended = connection.execute(FINISHED).fetchone()
    assert ended == (ROUNDS * (IN_LISTS + SINGLE), 0), ended
    bench.row(
        f"reports through the API in lists of {LIST}, {LISTERS} connections",
        f"{statistics.median(lists):,.0f} reports/s",
        ">= 5,000",
    )
    bench.row(
        f"reports through the API one by one, {REPORTERS} connections",
        f"{statistics.median(singles):,.0f} reports/s",
        ">= 1,500",
    )
