"""
A fast HTTP receiver for benchmarks and tests: it takes POSTs and counts them.

    python -m benchmarks.receiver --port 0

The first line it prints is its port.  GET /count answers how many POSTs came,
GET /times (with --record) when each came: [[idempotency key, time], ...].  It
ends on SIGTERM, or when a pipe at its stdin closes: it does not outlive the
process that started it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import stat
import sys
import time
from typing import cast

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
KEY = re.compile(rb"\r\nidempotency-key: *([^\r]*)", re.IGNORECASE)


def response(status: int, body: bytes, content_type: str = "application/json") -> bytes:
    """A whole HTTP/1.1 response; the connection is kept."""
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


class Ledger:
    """What has arrived so far, and what is answered."""

    def __init__(self, answer: bytes, record: bool) -> None:
        self.answer = answer
        self.record = record
        self.count = 0
        self.times: list[tuple[str, float]] = []

    def reply(self, head: bytes) -> bytes:
        """The response to the request with this head."""
        if head.startswith(b"GET /count"):
            return response(200, str(self.count).encode())
        if head.startswith(b"GET /times"):
            return response(200, json.dumps(self.times).encode())
        self.count += 1
        if self.record:
            key = KEY.search(head)
            self.times.append((key[1].decode() if key else "", time.time()))
        return self.answer


class Connection(asyncio.Protocol):
    """One keep-alive connection; pipelined requests are answered in order."""

    transport: asyncio.Transport

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            length = LENGTH.search(head)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < whole:
                return
            self._buffer = self._buffer[whole:]
            self.transport.write(self._ledger.reply(head))


async def serve(port: int, ledger: Ledger) -> None:
    """Answer on the loopback until told to end."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        loop.add_reader(sys.stdin.fileno(), _end_at_eof, ended)

    server = await loop.create_server(lambda: Connection(ledger), "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()


def _end_at_eof(ended: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 1024):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        ended.set()


def main() -> None:
    parser = argparse.ArgumentParser(description="A fast HTTP receiver.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--status", type=int, default=202, help="the status of every answer")
    parser.add_argument("--body", default="", help="the body of every answer")
    parser.add_argument("--record", action="store_true", help="keep the arrival times")
    args = parser.parse_args()

    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(serve(args.port, Ledger(response(args.status, args.body.encode()), args.record)))


if __name__ == "__main__":
    main()
