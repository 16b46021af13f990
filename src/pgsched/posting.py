"""One POST to an external system, and what came back."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import timedelta
from importlib import metadata
from time import perf_counter
from typing import Any, NamedTuple, cast

import httpx

from pgsched.answers import Answer, Reply
from pgsched.clock import Now, here
from pgsched.decoding import excerpt, read_body, read_retry_after
from pgsched.messages import Message
from pgsched.models import ExternalSystem
from pgsched.signing import webhook_headers
from pgsched.tracing import HEADERS
from pgsched.transport import Http1Transport

# More of an answer is not read, unless it is about many tasks; the connection is closed instead.
MAX_ANSWER = 64 * 1024
# A host that swallows packets holds a slot no longer than this.
CONNECT_TIMEOUT = 10.0

# Nothing was sent, whatever else is known.
_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
    httpx.InvalidURL,
)
_TOKEN = re.compile(r"[\x21-\x7e]+")


class Poster:
    """
    Makes requests, and bounds their time and what is read of the answer.

    It calls the transport directly: `httpx.AsyncClient` adds redirects, cookies
    and proxies from the environment, which a push must not have, at a price in
    CPU that is more than all the rest of a worker.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, now: Now = here) -> None:
        """*now* is what signatures are dated by."""
        self._now = now
        self._transport = transport
        self._targets: dict[tuple[str, str], _Target] = {}
        # Ours bounds the whole exchange by itself, which is cheaper.
        self._bound: Callable[[float], AbstractAsyncContextManager[object]] = (
            nullcontext if isinstance(transport, Http1Transport) else asyncio.timeout
        )

    async def post(
        self, system: ExternalSystem, path: str, message: Message, most: int = MAX_ANSWER
    ) -> Answer:
        """POST *message* to *path* of *system*; of the answer *most* bytes are read."""
        started = perf_counter()
        payload = _Payload(message.body)
        response: httpx.Response | None = None
        failure: Exception | None = None
        raw = bytearray()
        try:
            target = self._target(system, path)
            async with self._bound(target.seconds):
                response = await self._transport.handle_async_request(
                    _request(target, message, payload, self._now)
                )
                await _read(response, raw, most)
        except (httpx.TransportError, httpx.InvalidURL, TimeoutError) as exc:
            failure = exc
        elapsed = timedelta(seconds=perf_counter() - started)
        # Of a refusal the status says enough, of a 2xx the body may settle the task.
        if failure and (response is None or response.is_success):
            status = None if response is None else response.status_code
            return _unanswered(failure, payload.was_sent, status, elapsed)
        return _answered(cast("httpx.Response", response), bytes(raw), elapsed)

    def _target(self, system: ExternalSystem, path: str) -> _Target:
        known = self._targets.get((system.name, path))
        if known is None or known.system is not system:
            known = self._targets[system.name, path] = _Target.of(system, path)
        return known


class _Target(NamedTuple):
    """What all pushes to one system have in common."""

    system: ExternalSystem
    url: httpx.URL
    headers: list[tuple[bytes, bytes]]
    seconds: float
    extensions: dict[str, Any]

    @classmethod
    def of(cls, system: ExternalSystem, path: str) -> _Target:
        url = httpx.URL(system.base_url.rstrip("/") + path)
        headers = [
            (b"Host", url.netloc),
            (b"User-Agent", USER_AGENT),
            (b"Accept", b"application/json"),
            (b"Content-Type", b"application/json"),
        ]
        if system.api_key is not None:
            if not _TOKEN.fullmatch(system.api_key):
                raise httpx.LocalProtocolError("the API key is empty or no header can carry it")
            headers.append((b"Authorization", b"Bearer " + system.api_key.encode()))
        seconds = system.request_timeout.total_seconds()
        timeouts = dict.fromkeys(("read", "write", "pool"), seconds)
        timeouts["connect"] = min(seconds, CONNECT_TIMEOUT)
        return cls(system, url, headers, seconds, {"timeout": timeouts})


class _Payload(httpx.AsyncByteStream):
    """A body that knows whether it was sent: a transport asks for it once it is connected."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.was_sent = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.was_sent = True
        yield self.data


def _request(target: _Target, message: Message, payload: _Payload, now: Now) -> httpx.Request:
    headers = [*target.headers, (b"Content-Length", b"%d" % len(payload.data))]
    if message.idempotency_key is not None:
        headers.append((b"Idempotency-Key", message.idempotency_key.encode()))
    if carried := HEADERS.get():
        headers += carried
    elif message.trace_id is not None:
        span = random.getrandbits(64) or 1
        parent = f"00-{message.trace_id.replace('-', '')}-{span:016x}-01"
        headers.append((b"traceparent", parent.encode()))
    if secrets := target.system.secrets:
        headers += webhook_headers(secrets, message.id, int(now().timestamp()), payload.data)
    return httpx.Request(
        "POST", target.url, headers=headers, stream=payload, extensions=target.extensions
    )


async def _read(response: httpx.Response, raw: bytearray, most: int) -> None:
    stream = cast("httpx.AsyncByteStream", response.stream)
    try:
        async for piece in stream:
            raw += piece
            if len(raw) >= most:
                break
    finally:
        await stream.aclose()
    del raw[most:]


def _answered(response: httpx.Response, raw: bytes, elapsed: timedelta) -> Answer:
    status = response.status_code
    if response.is_success:
        body = read_body(raw) if raw else None
        return Answer(Reply.ANSWERED, status, body, elapsed=elapsed, raw=raw)
    headers = response.headers
    return Answer(
        Reply.ANSWERED,
        status,
        read_body(raw),
        read_retry_after(headers.get("Retry-After"), headers.get("Date")),
        excerpt(raw),
        elapsed,
    )


def _unanswered(
    failure: Exception, was_sent: bool, status: int | None, elapsed: timedelta
) -> Answer:
    said = excerpt(str(failure))
    if isinstance(failure, _NEVER_SENT) or not was_sent:
        return Answer(Reply.UNREACHABLE, text=said or "no connection in time", elapsed=elapsed)
    is_late = isinstance(failure, TimeoutError | httpx.TimeoutException)
    reply = Reply.TIMED_OUT if is_late else Reply.CUT
    return Answer(reply, status, text=said, elapsed=elapsed)


def _user_agent() -> bytes:
    try:
        return f"pgsched/{metadata.version('pgsched')}".encode()
    except metadata.PackageNotFoundError:  # a checkout on the path
        return b"pgsched"


USER_AGENT = _user_agent()
