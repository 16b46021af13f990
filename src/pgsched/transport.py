"""
Connections to external systems, as an httpx transport: little, and fast.

With fifty requests in flight httpx's own transport spends milliseconds of CPU
on each; this one spends tens of microseconds (`benchmarks/http_transports.py`).
It does what a push needs: keep-alive, TLS, and bodies by length, in chunks, or
to the end.  No proxy, redirect, HTTP/2 or decompression, and no limit on
connections: the caller bounds how many requests are in flight.

Of httpx's timeouts it knows two.  `connect` covers name, connection and TLS
together; `read` bounds the whole exchange, from its start to the last byte of
the answer, and is kept within a tick.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
from functools import partial
from typing import Any, NamedTuple, cast

import httpx

from pgsched.http1 import Body, Connection

# Shorter than servers commonly keep (gunicorn 2 s, uvicorn and Node 5 s): a
# connection that the server closes just as we send looks like a lost push.
KEEPALIVE = 1.5
# One timer looks after all connections; one for each request would cost more
# than the sending.
TICK = 0.05
# Of a name with many addresses only the first are tried.
MAX_ADDRESSES = 4


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int


class Http1Transport(httpx.AsyncBaseTransport):
    """Sends requests over connections that it keeps for a moment."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._busy: set[Connection] = set()
        self._idle: dict[_Origin, list[Connection]] = {}
        self._lookups: dict[_Origin, asyncio.Task[list[Any]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        timeouts = request.extensions.get("timeout", {})
        deadline = asyncio.get_running_loop().time() + (timeouts.get("read") or math.inf)
        origin = _origin(request.url)
        head = _head(request)
        connection = self._take(origin)
        if connection is None:
            connection = await self._connect(origin, timeouts.get("connect"))
        connection.deadline = deadline
        self._busy.add(connection)
        self._keep_time()
        try:
            parts = [part async for part in cast("httpx.AsyncByteStream", request.stream)]
            connection.send(b"".join((head, *parts)))
            answer = await connection.head()
        except BaseException:
            self._release(origin, connection, False)
            raise
        body = Body(connection, answer, partial(self._release, origin, connection))
        return httpx.Response(answer.status, headers=answer.fields, stream=body)

    async def aclose(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for lookup in self._lookups.values():
            lookup.cancel()
        for connection in self._busy.union(*self._idle.values()):
            connection.close()
        self._idle.clear()

    # Kept connections: the latest used is the first to be used again.

    def _take(self, origin: _Origin) -> Connection | None:
        kept = self._idle.get(origin)
        while kept:
            connection = kept.pop()
            if connection.is_quiet:
                return connection
            connection.close()
        return None

    def _release(self, origin: _Origin, connection: Connection, is_reusable: bool, /) -> None:
        self._busy.discard(connection)
        if is_reusable:
            connection.deadline = asyncio.get_running_loop().time() + KEEPALIVE
            self._idle.setdefault(origin, []).append(connection)
        else:
            connection.close()

    def _keep_time(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for connection in self._busy:
            if connection.deadline <= now:
                connection.expire()
        for origin, kept in list(self._idle.items()):
            for connection in kept:
                if connection.deadline <= now:
                    connection.close()
            self._idle[origin] = [one for one in kept if one.deadline > now]
            if not self._idle[origin]:
                del self._idle[origin]
        if self._busy or self._idle:
            self._keep_time()

    # New connections.

    async def _connect(self, origin: _Origin, seconds: float | None) -> Connection:
        where = f"{origin.host}:{origin.port}"
        try:
            async with asyncio.timeout(seconds):
                return await self._connect_to_one_of(await self._addresses(origin), origin, seconds)
        except TimeoutError as exc:
            raise httpx.ConnectTimeout(f"no connection to {where} in time") from exc
        except (OSError, UnicodeError) as exc:
            raise httpx.ConnectError(f"{where}: {str(exc) or type(exc).__name__}") from exc

    async def _connect_to_one_of(
        self, addresses: list[Any], origin: _Origin, seconds: float | None
    ) -> Connection:
        # One that does not answer must not use up the time of the others.
        share = None if seconds is None else seconds / len(addresses)
        for nth, (*_, address) in enumerate(addresses, start=1):
            try:
                async with asyncio.timeout(share):
                    return await self._connect_to(address, origin)
            except OSError:
                if nth == len(addresses):
                    raise
        raise OSError("the name has no address")

    async def _connect_to(self, address: tuple[Any, ...], origin: _Origin) -> Connection:
        is_tls = origin.scheme == "https"
        if is_tls and self._tls is None:
            self._tls = httpx.create_ssl_context()
        _, connection = await asyncio.get_running_loop().create_connection(
            Connection,
            address[0],
            address[1],
            ssl=self._tls if is_tls else None,
            server_hostname=origin.host if is_tls else None,
        )
        return connection

    async def _addresses(self, origin: _Origin) -> list[Any]:
        # Names are looked up in a small pool of threads: however many slots wait
        # for one dead name, it holds one thread.
        lookup = self._lookups.get(origin)
        if lookup is None:
            lookup = self._lookups[origin] = asyncio.create_task(_look_up(origin))
            lookup.add_done_callback(lambda _: self._lookups.pop(origin))
        return await asyncio.shield(lookup)


async def _look_up(origin: _Origin) -> list[Any]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    return found[:MAX_ADDRESSES]


def _origin(url: httpx.URL) -> _Origin:
    if url.scheme not in ("http", "https") or not url.host:
        raise httpx.UnsupportedProtocol(f"the address of an external system is no http URL: {url}")
    port = url.port or (443 if url.scheme == "https" else 80)
    if port > 65535:
        raise httpx.UnsupportedProtocol(f"there is no port {port}: {url}")
    return _Origin(url.scheme, url.raw_host.decode("ascii"), port)


def _head(request: httpx.Request) -> bytes:
    fields = request.headers.raw
    line = b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)
    head = b"\r\n".join((line, *map(b": ".join, fields), b"", b""))
    if head.count(b"\n") != len(fields) + 2 or head.count(b"\r") != len(fields) + 2:
        raise httpx.LocalProtocolError("a header may not contain a line break")
    if b"\r\nTransfer-Encoding:" in head:  # as httpx writes it
        raise httpx.LocalProtocolError("a body is sent by its length, not in chunks")
    return head
