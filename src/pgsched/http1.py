"""
One HTTP/1.1 connection, as a client sees it: bytes in, heads and bodies out.

Strict where a mistake would make one answer look like another, and lenient
where it would only make an answer unreadable.
"""

from __future__ import annotations

import asyncio
import math
import re
import sys
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple, cast

import httpx

# No head of an answer, and no line of a chunked body, is longer.
MAX_HEAD = 65536

_HEAD_END = re.compile(rb"\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: [^\n]*)?\r?\n")
_FIELD = re.compile(rb"^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*)\r?$", re.MULTILINE)
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?")
_TO_THE_END = sys.maxsize


class Head(NamedTuple):
    """What an answer says before its body."""

    status: int
    fields: list[tuple[bytes, bytes]]
    length: int  # of the body, unless it comes in chunks
    is_chunked: bool
    is_last: bool  # the server keeps the connection no longer


class Connection(asyncio.Protocol):
    """What has arrived on one connection, and who waits for more."""

    def __init__(self) -> None:
        self.deadline = math.inf  # in the time of the loop
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._waiter: asyncio.Future[None] | None = None
        self._error: httpx.TransportError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else bytes(data)
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self._error = httpx.RemoteProtocolError("the server closed the connection")
        else:
            self._error = httpx.ReadError(str(exc) or type(exc).__name__)
        self._wake()

    def expire(self) -> None:
        """Wait no longer for what should have come."""
        self._error = httpx.ReadTimeout("no answer in time")
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _more(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        await self._waiter

    @property
    def is_quiet(self) -> bool:
        """Whether it is open, and nothing is under way in either direction."""
        return not (
            self._error
            or self._buffer
            or self._transport.is_closing()
            or self._transport.get_write_buffer_size()
        )

    def send(self, data: bytes) -> None:
        self._transport.write(data)

    def close(self) -> None:
        self._transport.abort()

    async def take(self, most: int) -> bytes:
        """What has arrived: at least one byte, at most *most*."""
        while not self._buffer:
            await self._more()
        taken, self._buffer = self._buffer[:most], self._buffer[most:]
        return taken

    async def line(self) -> bytes:
        """The next line, without its end."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > MAX_HEAD:
                raise httpx.RemoteProtocolError("a line of the answer is too long")
            await self._more()
        return (await self.take(end + 1))[:-1].removesuffix(b"\r")

    async def head(self) -> Head:
        """The head of the answer; interim ones (1xx) are passed over."""
        while True:
            while (end := _HEAD_END.search(self._buffer)) is None:
                if len(self._buffer) > MAX_HEAD or not _may_be_http(self._buffer):
                    raise httpx.RemoteProtocolError("the answer is not HTTP/1.1")
                await self._more()
            head = read_head(await self.take(end.end()))
            if head.status >= 200:
                return head


def _may_be_http(start: bytes) -> bool:
    return start[:7] == b"HTTP/1."[: len(start)]


def read_head(raw: bytes) -> Head:
    """Read the bytes up to and including the empty line."""
    line = _STATUS_LINE.match(raw)
    if line is None or line[2] == b"101":
        raise httpx.RemoteProtocolError("the answer is not HTTP/1.1")
    status = int(line[2])
    fields = [(name, value.rstrip(b" \t")) for name, value in _FIELD.findall(raw, line.end())]
    named = {name.lower(): value.lower() for name, value in fields}

    has_body = status >= 200 and status not in (204, 304)
    is_chunked = has_body and named.get(b"transfer-encoding", b"").endswith(b"chunked")
    length = _length(fields, named) if has_body and not is_chunked else 0
    is_last = length == _TO_THE_END or line[1] == b"0" or b"close" in named.get(b"connection", b"")
    return Head(status, fields, length, is_chunked, is_last)


def _length(fields: list[tuple[bytes, bytes]], named: dict[bytes, bytes]) -> int:
    value = named.get(b"content-length")
    if value is None or b"transfer-encoding" in named:
        return _TO_THE_END
    is_single = len(named) == len(fields) or all(
        other == value for name, other in fields if name.lower() == b"content-length"
    )
    if not is_single or not value.isdigit() or len(value) > 18:
        raise httpx.RemoteProtocolError("the answer has no clear length")
    return int(value)


class Body(httpx.AsyncByteStream):
    """The body of an answer as it arrives; *release* is told if the connection can be kept."""

    def __init__(self, connection: Connection, head: Head, release: Callable[[bool], None]) -> None:
        self._connection = connection
        self._head = head
        self._release = release
        self._left = head.length
        self._is_chunked = head.is_chunked
        self._is_first_chunk = True
        self._is_done = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._is_chunked and not self._left:
            await self._next_chunk()
        if not self._left:
            self._finish(is_whole=True)
            raise StopAsyncIteration
        try:
            piece = await self._connection.take(self._left)
        except httpx.RemoteProtocolError:
            if self._head.length == _TO_THE_END:
                raise StopAsyncIteration from None
            raise
        self._left -= len(piece)
        return piece

    async def _next_chunk(self) -> None:
        if not self._is_first_chunk and await self._connection.line():
            raise httpx.RemoteProtocolError("a chunk of the answer is longer than it says")
        size = _CHUNK_SIZE.fullmatch(await self._connection.line())
        if size is None:
            raise httpx.RemoteProtocolError("a chunk of the answer has no size")
        self._is_first_chunk = False
        self._left = int(size[1], 16)
        if not self._left:
            self._is_chunked = False
            while await self._connection.line():
                pass  # trailers

    def _finish(self, is_whole: bool) -> None:
        if not self._is_done:
            self._is_done = True
            self._release(is_whole and not self._head.is_last and self._connection.is_quiet)

    async def aclose(self) -> None:
        self._finish(is_whole=False)
