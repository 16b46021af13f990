"""Requests that are wrong in their bytes, over sockets, to the server of `pgsched serve`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import psycopg
import pytest

from pgsched import api
from pgsched.api import guard, protocol
from pgsched.api.guard import MAX_BODY, MAX_LIST
from pgsched.settings import Settings
from tests.executing import dispatched_task
from tests.restoring import TABLES
from tests.roles import as_role

TASKS, REPORTS, BULK = "/api/tasks", "/api/tasks/status", "/api/tasks/bulk"
JSON = {"Content-Type": "application/json"}


class Answer(NamedTuple):
    status: int
    headers: str
    body: Any


class Server(NamedTuple):
    port: int

    async def exchange(self, *pieces: bytes, pause: float = 0) -> Answer:
        """Send raw bytes, and read what is answered, also while they are being sent."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            sending = asyncio.create_task(self._send(writer, pieces, pause))
            answer = await asyncio.wait_for(read_answer(reader), 30)
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await sending
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        return answer

    async def _send(
        self, writer: asyncio.StreamWriter, pieces: tuple[bytes, ...], pause: float
    ) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    async def post(self, path: str, body: bytes, headers: dict[str, str] = JSON) -> Answer:
        return await self.exchange(
            head_of(path, {**headers, "Content-Length": str(len(body))}) + body
        )

    async def lives(self) -> bool:
        return (await self.exchange(head_of("/health/ready", {}, "GET"))).status == 200


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(head.lower().partition("content-length:")[2].split("\r\n")[0])
    body = await reader.readexactly(length)
    return Answer(int(head.split()[1]), head.lower(), json.loads(body) if body else None)


def head_of(path: str, headers: dict[str, str], method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: api", *(f"{n}: {v}" for n, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


Serve = Callable[[], Awaitable[Server]]


@pytest.fixture
async def server(dsn: str, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Server]:
    caplog.set_level(logging.INFO)
    stop = asyncio.Event()
    settings = Settings(database_url=as_role(dsn, "operator"), api_port=0)
    serving = asyncio.create_task(api.serve(settings, stop))
    while not (urls := [r.url for r in caplog.records if r.message == "API listening"]):  # type: ignore[attr-defined]
        await asyncio.sleep(0.01)
        assert not serving.done()
    server = Server(int(urls[0].rpartition(":")[2]))
    try:
        yield server
        assert await server.lives()
        assert "Traceback" not in caplog.text
        assert [r.message for r in caplog.records if r.levelno >= logging.ERROR] == []
    finally:
        stop.set()
        await serving


def everything(dsn: str) -> dict[str, list[Any]]:
    with psycopg.connect(dsn) as conn:
        names = [row[0] for row in conn.execute(TABLES).fetchall()]
        return {
            name: sorted(
                conn.execute(f"select t::text from pgsched.{name} as t".encode()).fetchall()
            )
            for name in names
        }


def task(value: str) -> bytes:
    return b'{"definition": "job", "input_params": {"a": %s}}' % value.encode()


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


# What is sent where, and what the message names.
WRONG = {
    "nested in a task": (TASKS, task(nested(10_000)), "JSON"),
    "nested as objects": (TASKS, b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "JSON"),
    "nested in a report": (
        REPORTS[:-6] + "{task}/status",
        b'{"status": "RUNNING", "progress": %s}' % nested(10_000).encode(),
        "JSON",
    ),
    "nested in a list": (REPORTS, nested(10_000).encode(), "JSON"),
    "nested in bulk": (BULK, b'{"tasks": %s}' % nested(10_000).encode(), "JSON"),
    "Infinity": (TASKS, task("Infinity"), "inf"),
    "-Infinity": (TASKS, task("-Infinity"), "inf"),
    "1e999": (TASKS, task("1e999"), "inf"),
    "1e999 in bulk": (BULK, b'{"tasks": [{"definition": "job", "delay_seconds": 1e999}]}', "delay"),
    "1e999 in a report": (
        REPORTS[:-6] + "{task}/status",
        b'{"status": "RUNNING", "progress": 1e999}',
        "progress",
    ),
    "a number of 5,000 digits": (TASKS, task("9" * 5000), "JSON"),
    "a priority of 30 digits": (
        TASKS,
        b'{"definition": "job", "priority": 1%s}' % (b"0" * 30),
        "prio",
    ),
    "an exponent as a priority": (TASKS, b'{"definition": "job", "priority": 1e2}', "priority"),
    "NUL in a key of JSON": (
        TASKS,
        rb'{"definition": "job", "input_params": {"\u0000": 1}}',
        "NUL",
    ),
    "NUL deep in JSON": (TASKS, task(r'[{"b": ["\u0000"]}]'), "NUL"),
    "NUL in a name": ("/api/definitions", rb'{"name": "a\u0000b"}', "name"),
    "NUL in a key": (
        TASKS,
        rb'{"definition": "job", "idempotency_key": "\u0000"}',
        "idempotency_key",
    ),
    "NUL in bulk": (BULK, rb'{"tasks": [{"definition": "\u0000"}]}', "definition"),
    "NUL in a path": ("/api/tasks/%00/cancel", b"{}", "task_id"),
    "NUL in a name in a path": ("/api/queues/a%00b/pause", b"{}", "NUL"),
    "a lone surrogate in a name": ("/api/definitions", rb'{"name": "\ud800"}', "name"),
    "a lone surrogate in bulk": (BULK, rb'{"tasks": [{"definition": "\udfff"}]}', "definition"),
    "invalid UTF-8 in a list": (REPORTS, b'[{"task_id": "\xff"}]', "JSON"),
    "a truncated body": (TASKS, b'{"definition": "job', "JSON"),
    "two documents": (TASKS, b'{"definition": "job"}{"definition": "job"}', "JSON"),
    "a form": (TASKS, b"definition=job", "body"),
}
TYPES = [
    *(
        "text/plain",
        "text/html",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ),
    *("application/octet-stream", "application/xml", "nonsense", ""),
]


@pytest.mark.parametrize("about", WRONG)
async def test_a_wrong_body_is_refused_by_name(dsn: str, server: Server, about: str) -> None:
    path, body, named = WRONG[about]
    path = path.replace("{task}", dispatched_task(dsn))
    before = everything(dsn)

    answer = await server.post(path, body)

    assert answer.status == 422, answer
    assert answer.body["code"] == "PS422"
    assert named in answer.body["message"]
    assert len(answer.body["message"]) < 1000
    assert everything(dsn) == before


@pytest.mark.parametrize("given", TYPES)
async def test_another_content_type_is_refused(dsn: str, server: Server, given: str) -> None:
    answer = await server.post(TASKS, b'{"definition": "job"}', {"Content-Type": given})

    assert (answer.status, answer.body["code"]) == (422, "PS422")
    assert "application/json" in answer.body["message"]


async def test_of_a_name_that_stands_twice_the_last_counts(dsn: str, server: Server) -> None:
    """As in Postgres and in Python; nothing of the first is looked at, or kept."""
    dispatched_task(dsn)
    body = b'{"definition": "nothing", "definition": "job", "input_params": {"a": 1, "a": 2}}'

    made = await server.post(TASKS, body)

    found = await server.exchange(head_of(f"{TASKS}/{made.body['task_id']}", {}, "GET"))
    assert found.body["input_params"] == {"a": 2}


# Too much


@pytest.mark.parametrize(("path", "limit"), [(TASKS, MAX_BODY), (REPORTS, MAX_LIST)])
async def test_an_announced_body_is_refused_before_it_comes(
    dsn: str, server: Server, path: str, limit: int
) -> None:
    answer = await server.exchange(head_of(path, {**JSON, "Content-Length": str(limit + 1)}))

    assert (answer.status, answer.body["code"]) == (413, "TOO_LARGE")
    assert str(limit) in answer.body["message"]


@pytest.mark.parametrize(("path", "limit"), [(TASKS, MAX_BODY), (REPORTS, MAX_LIST)])
async def test_a_chunked_body_is_cut_at_the_limit(
    dsn: str, server: Server, path: str, limit: int
) -> None:
    chunk = b"10000\r\n" + b" " * 2**16 + b"\r\n"

    answer = await server.exchange(
        head_of(path, {**JSON, "Transfer-Encoding": "chunked"}), *[chunk] * (limit // 2**16 + 2)
    )

    assert (answer.status, answer.body["code"]) == (413, "TOO_LARGE")
    assert str(limit) in answer.body["message"]


@pytest.mark.parametrize(
    "head",
    [
        f"GET / HTTP/1.1\r\nHost: api\r\nX: {'x' * 2**20}\r\n\r\n".encode(),
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200_000,
        b"GET /" + b"x" * 2**20 + b" HTTP/1.1\r\nHost: api\r\n\r\n",
    ],
    ids=["one header", "many headers", "a long path"],
)
async def test_a_flood_of_headers_is_cut_off(server: Server, head: bytes) -> None:
    pieces = [head[at : at + 2**14] for at in range(0, len(head), 2**14)]

    answer = await server.exchange(*pieces, pause=0.001)

    assert (answer.status, answer.body["code"]) == (431, "TOO_LARGE")
    assert str(protocol.MAX_HEAD) in answer.body["message"]
    assert "connection: close" in answer.headers


@pytest.mark.parametrize(
    "given",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nX: a\x00b\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_not_http_is_refused(server: Server, given: bytes) -> None:
    answer = await server.exchange(given)

    assert (answer.status, answer.body["code"]) in [(400, "BAD_REQUEST"), (404, "NOT_FOUND")]


# Too slow


async def test_a_slow_body_is_given_up(
    dsn: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "BODY_WAIT", 0.2)
    before = everything(dsn)
    head = head_of(TASKS, {**JSON, "Content-Length": "1000"})

    answer = await server.exchange(head, *[b" "] * 1000, pause=0.02)

    assert (answer.status, answer.body["code"]) == (408, "TOO_SLOW")
    assert "0.2 s" in answer.body["message"]
    assert everything(dsn) == before


@pytest.mark.parametrize("begun", [[], [b"GET / HTTP/1.1\r\n", *[b"X: y\r\n"] * 1000]])
async def test_slow_headers_are_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch, begun: list[bytes]
) -> None:
    monkeypatch.setattr(protocol, "HEAD_WAIT", 0.2)

    answer = await server.exchange(*begun, pause=0.02)

    assert (answer.status, answer.body["code"]) == (408, "TOO_SLOW")


async def test_those_who_are_slow_keep_nobody_waiting(dsn: str, server: Server) -> None:
    """More of them than there are connections to the database."""
    opened = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(40)]
    for _, writer in opened:
        writer.write(head_of(TASKS, {**JSON, "Content-Length": "1000"}) + b"{")
    dispatched_task(dsn)

    made = await server.post(TASKS, b'{"definition": "job"}')

    assert made.status == 201
    for _, writer in opened:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
