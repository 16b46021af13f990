"""
A receiver that answers at random, and writes down what it was sent and what it answered.

    python -m tests.delivery.hostile '{"api": "http://127.0.0.1:8321", ...}'

The argument is `Habits` as JSON.  The first line it prints is its port.  It
takes POSTs to /api/tasks/status and /api/tasks/status/batch; what it answers to
the nth delivery of a task depends on the seed, the task's input_params and n
alone.  GET /ledger answers what it has written down so far.  It ends when its
stdin closes: it does not outlive the process that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, NamedTuple, cast

import orjson

from benchmarks.receiver import LENGTH
from tests.delivery.evidence import Delivery, Reply
from tests.delivery.executor import Executor

# How often it answers how, in percent.  Good answers are far more than half,
# or a system that fails so often would be left alone for a while.
MIX = {
    Reply.ACCEPTED: 42,
    Reply.EMPTY: 14,
    Reply.SUCCESS: 13,
    Reply.FAILED: 3,
    Reply.KNOWN: 5,
    Reply.BUSY: 4,
    Reply.REFUSED: 0.5,
    Reply.ERROR: 4,
    Reply.DOWN: 4,
    Reply.RESET: 3,
    Reply.HALF: 2,
    Reply.HANG: 3,
    Reply.LATE: 2.5,
}
# What the result of one task in a batch can be.
SINGLE = {reply: share for reply, share in MIX.items() if reply.value[0].isdigit()}
BATCH_MIX = {
    "results": 60,  # one for each task, or for nearly each
    Reply.ACCEPTED: 22,
    Reply.ERROR: 3,
    Reply.DOWN: 3,
    Reply.BUSY: 2,
    Reply.RESET: 3,
    Reply.HANG: 3,
    "garbage": 4,
}
# Of the tasks in a batch, so many are not mentioned in the answer.
FORGOTTEN = 0.05
# Of the tasks whose push seemed to fail, so many are worked on all the same.
TAKEN_ALL_THE_SAME = 0.4

FAILURES = {Reply.ERROR, Reply.DOWN, Reply.RESET, Reply.HALF, Reply.HANG, Reply.LATE}
BODIES = {
    Reply.SUCCESS: b'{"status": "SUCCESS", "output_ref": "out"}',
    Reply.LATE: b'{"status": "SUCCESS", "output_ref": "out"}',
    Reply.HALF: b'{"status": "SUCCESS", "output_ref": "out"}',
    Reply.FAILED: b'{"status": "FAILED"}',
    Reply.REFUSED: b'{"error": "no such thing"}',
}
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close by a reset


class Habits(NamedTuple):
    """How it behaves, and towards whom."""

    api: str  # where it reports to
    seed: int
    completion: str
    request_timeout: float
    silence: float  # the timeout of the definition


Answer = tuple[Reply, bytes]  # what it is, and as bytes of HTTP


def respond(reply: Reply, rng: random.Random) -> bytes:
    """The bytes of an answer to a single push."""
    status = {Reply.HALF: 200, Reply.LATE: 200}.get(reply) or int(reply.value[:3])
    head = [f"HTTP/1.1 {status} X", "Content-Type: application/json"]
    if reply is Reply.BUSY:
        now = datetime.now(UTC).replace(microsecond=0)
        wait = rng.choice(("", "1", format_datetime(now + timedelta(seconds=2), usegmt=True)))
        head += [f"Date: {format_datetime(now, usegmt=True)}"]
        head += [f"Retry-After: {wait}"] if wait else []
    return with_body(head, BODIES.get(reply, b""))


def with_body(head: list[str], body: bytes) -> bytes:
    head = [*head, f"Content-Length: {len(body)}"]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class Receiver:
    """Decides what is answered, and keeps the ledger."""

    def __init__(self, habits: Habits) -> None:
        self.habits = habits
        self.deliveries: list[Delivery] = []
        self.news: list[dict[str, Any]] = []  # what is pushed and not to be run
        self.executor = Executor(habits.api, habits.silence)
        self._seen: Counter[str] = Counter()  # deliveries of each task
        self._batches = 0
        self._unanswered = 0

    def ledger(self) -> bytes:
        return json.dumps(
            {
                "deliveries": self.deliveries,
                "reports": self.executor.reports,
                "outstanding": self.executor.outstanding + self._unanswered,
                "news": self.news,
            }
        ).encode()

    def receive(self, path: str, body: bytes, connection: Connection) -> None:
        """Answer a POST, sooner or later or never."""
        given = json.loads(body)
        if path.endswith("/batch"):
            self._receive_batch(given, connection)
        elif given["status"] != "READY_FOR_EXECUTION":
            self.news.append(given)
            connection.write(respond(Reply.ACCEPTED, random.Random(0)))
        else:
            rng = self._rng(given)
            reply = rng.choices(list(MIX), list(MIX.values()))[0]
            self._answer(reply, [(given, reply, rng)], connection, in_batch=False)

    def _rng(self, given: dict[str, Any]) -> random.Random:
        number = given["metadata"]["input_params"]["number"]
        self._seen[given["task_id"]] += 1
        return random.Random(f"{self.habits.seed} {number} {self._seen[given['task_id']]}")

    def _receive_batch(self, given: list[dict[str, Any]], connection: Connection) -> None:
        self._batches += 1
        rng = random.Random(f"{self.habits.seed} batch {self._batches}")
        kind = rng.choices(list(BATCH_MIX), list(BATCH_MIX.values()))[0]
        rngs = [self._rng(one) for one in given]
        if kind == "results":
            replies = [self._result(rng) for rng in rngs]
            results = [
                result_of(one["task_id"], reply)
                for one, reply in zip(given, replies, strict=True)
                if reply is not Reply.UNSAID
            ]
            data = with_body(["HTTP/1.1 200 X"], orjson.dumps(results))
            told = list(zip(given, replies, rngs, strict=True))
            self._answer(Reply.EMPTY, told, connection, in_batch=True, data=data)
        elif kind == "garbage":
            data = with_body(["HTTP/1.1 200 X"], b'[{"task_id": "')
            told = [(one, Reply.UNSAID, rng) for one, rng in zip(given, rngs, strict=True)]
            self._answer(Reply.EMPTY, told, connection, in_batch=True, data=data)
        else:
            reply = Reply(kind)
            of_each = Reply.UNSAID if reply is Reply.ERROR else reply
            told = [(one, of_each, rng) for one, rng in zip(given, rngs, strict=True)]
            self._answer(reply, told, connection, in_batch=True)

    def _result(self, rng: random.Random) -> Reply:
        if rng.random() < FORGOTTEN:
            return Reply.UNSAID
        return rng.choices(list(SINGLE), list(SINGLE.values()))[0]

    def _answer(
        self,
        reply: Reply,
        told: list[tuple[dict[str, Any], Reply, random.Random]],
        connection: Connection,
        *,
        in_batch: bool,
        data: bytes | None = None,
    ) -> None:
        arrived = time.time()
        self._unanswered += 1
        for given, its_reply, rng in told:
            if self._takes(its_reply, rng):
                self.executor.take(rng, given["task_id"], given["attempt"])

        def note(written: float | None) -> None:
            self._unanswered -= 1
            self.deliveries += [
                Delivery(
                    given["task_id"],
                    given["attempt"],
                    given["idempotency_key"],
                    given["sequence"],
                    given["metadata"]["input_params"]["number"],
                    arrived,
                    its_reply,
                    written,
                    in_batch,
                )
                for given, its_reply, _ in told
            ]

        if data is None and reply not in (Reply.RESET, Reply.HANG):
            data = respond(reply, told[0][2])
        connection.answer(reply, data or b"", note, self.habits.request_timeout)

    def _takes(self, reply: Reply, rng: random.Random) -> bool:
        """Whether it works on a task that it answered so."""
        if reply in FAILURES:
            return rng.random() < TAKEN_ALL_THE_SAME
        is_accepted = reply in (Reply.EMPTY, Reply.KNOWN) and self.habits.completion == "callback"
        return reply is Reply.ACCEPTED or is_accepted


def result_of(task_id: str, reply: Reply) -> dict[str, Any]:
    """The result of one task, as the answer to a batch has it."""
    code, _, status = reply.value.partition(" ")
    return {"task_id": task_id, "code": int(code)} | ({"status": status} if status else {})


class Connection(asyncio.Protocol):
    """One keep-alive connection, on which the client waits for each answer."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end]
        length = LENGTH.search(head)
        whole = end + 4 + (int(length[1]) if length else 0)
        if len(self._buffer) < whole:
            return
        body, self._buffer = self._buffer[end + 4 : whole], self._buffer[whole:]
        method, path, _ = head.partition(b"\r\n")[0].decode().split(" ")
        if method == "GET":
            self.write(with_body(["HTTP/1.1 200 X"], self._receiver.ledger()))
        else:
            self._receiver.receive(path, body, self)

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def answer(
        self, reply: Reply, data: bytes, note: Callable[[float | None], None], timeout: float
    ) -> None:
        """Answer, or not, and have it written down when that is done."""
        match reply:
            case Reply.RESET:
                self._reset()
                note(None)
            case Reply.HALF:
                self._transport.write(data[:-8])
                asyncio.get_running_loop().call_later(0.02, self._reset)
                note(None)
            case Reply.HANG:
                note(None)
            case Reply.LATE:
                later = timeout * 1.5
                asyncio.get_running_loop().call_later(later, self._answer_late, data, note)
            case _:
                note(self._write_if_open(data))

    def _answer_late(self, data: bytes, note: Callable[[float | None], None]) -> None:
        note(self._write_if_open(data))

    def _write_if_open(self, data: bytes) -> float | None:
        if self._transport.is_closing():
            return None
        before = time.time()
        self._transport.write(data)
        return before

    def _reset(self) -> None:
        if self._transport.is_closing():
            return
        own = self._transport.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._transport.abort()


async def serve(habits: Habits) -> None:
    """Answer on the loopback until stdin closes."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), _end_at_eof, ended)
    receiver = Receiver(habits)
    server = await loop.create_server(lambda: Connection(receiver), "127.0.0.1", 0, backlog=1024)
    reporting = asyncio.create_task(receiver.executor.run())
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()
    reporting.cancel()


def _end_at_eof(ended: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 1024):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        ended.set()


def main() -> None:
    habits = Habits(**json.loads(sys.argv[1]))
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(serve(habits))


if __name__ == "__main__":
    main()
