"""Push a task to an external system over HTTP, and tell what came back."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from importlib import metadata
from time import perf_counter, time
from typing import Any, NamedTuple, cast

import httpx
import orjson

from pgsched.answers import Answer, Reply, excerpt, read_body, read_retry_after
from pgsched.models import ClaimedTask, ExternalSystem
from pgsched.signing import callback_token, webhook_headers
from pgsched.transport import Http1Transport

PUSH_PATH = "/api/tasks/status"
# More of an answer is not read; the connection is closed instead.
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


def make_transport(slots: int, proxy: str | None = None) -> httpx.AsyncBaseTransport:
    """A transport for *slots* pushes at a time; through *proxy* if one is named, never else."""
    if proxy is None:
        return Http1Transport()
    limits = httpx.Limits(max_connections=slots, max_keepalive_connections=slots)
    return httpx.AsyncHTTPTransport(proxy=proxy, limits=limits, trust_env=False)


class ExternalSystemClient:
    """
    Knows HTTP and nothing of Postgres; what an answer means is `answers.py`'s to say.

    It calls the transport directly: `httpx.AsyncClient` adds redirects, cookies
    and proxies from the environment, which a push must not have, at a price in
    CPU that is more than all the rest of a worker.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        public_url: str | None,
        callback_secrets: Sequence[bytes] = (),
    ) -> None:
        """
        Args:
            public_url: Where the receiver reports to; None: pushes carry no callback_url.
            callback_secrets: The first makes the callback_token; without one it is null.
        """
        self._transport = transport
        self._callback_secrets = callback_secrets
        self._public_url = public_url.rstrip("/") if public_url else None
        self._targets: dict[str, _Target] = {}
        # Ours bounds the whole exchange by itself, which is cheaper.
        self._bound: Callable[[float], AbstractAsyncContextManager[object]] = (
            nullcontext if isinstance(transport, Http1Transport) else asyncio.timeout
        )

    async def push_task_status(self, system: ExternalSystem, task: ClaimedTask) -> Answer:
        """
        Tell *system* that *task* is ready for execution, at least once.

        The idempotency key names the attempt: the receiver can drop the second
        delivery of one attempt, and sees the next attempt as new.
        """
        started = perf_counter()
        key = f"{task.id}:{task.attempt}"
        payload = _Payload(self._body(task, key))
        response: httpx.Response | None = None
        failure: Exception | None = None
        raw = bytearray()
        try:
            target = self._target(system)
            async with self._bound(target.seconds):
                response = await self._transport.handle_async_request(
                    _request(target, key, task.trace_id, payload)
                )
                await _read(response, raw)
        except (httpx.TransportError, httpx.InvalidURL, TimeoutError) as exc:
            failure = exc
        elapsed = timedelta(seconds=perf_counter() - started)
        # Of a refusal the status says enough, of a 2xx the body may settle the task.
        if failure and (response is None or response.is_success):
            status = None if response is None else response.status_code
            return _unanswered(failure, payload.was_sent, status, elapsed)
        return _answered(cast("httpx.Response", response), bytes(raw), elapsed)

    def _target(self, system: ExternalSystem) -> _Target:
        target = self._targets.get(system.name)
        if target is None or target.system != system:
            target = self._targets[system.name] = _Target.of(system)
        return target

    def _body(self, task: ClaimedTask, key: str) -> bytes:
        callback_url = token = None
        if self._callback_secrets:
            token = callback_token(self._callback_secrets[0], task.id, task.attempt)
        if self._public_url:
            path = f"/api/tasks/{task.id}/status?attempt={task.attempt}"
            callback_url = self._public_url + path
        return orjson.dumps(
            {
                "task_id": task.id,
                "status": "READY_FOR_EXECUTION",
                "timestamp": datetime.now(UTC),
                "scheduled_time": task.scheduled_time,
                "attempt": task.attempt,
                "sequence": task.sequence,
                "idempotency_key": key,
                "metadata": {
                    "definition_id": task.definition_id,
                    "definition_name": task.definition_name,
                    "content": task.content,
                    "trace_id": task.trace_id,
                    "input_params": task.input_params,
                    "schedule_config": task.schedule_config,
                    "round_index": task.round_index,
                    "retry_count": task.retry_count,
                    "priority": task.priority,
                    "queue": task.queue,
                    "schedule_id": task.schedule_id,
                },
                "callback_url": callback_url,
                "callback_token": token,
            },
            option=orjson.OPT_UTC_Z,
        )


class _Target(NamedTuple):
    """What all pushes to one system have in common."""

    system: ExternalSystem
    url: httpx.URL
    headers: list[tuple[bytes, bytes]]
    seconds: float
    extensions: dict[str, Any]

    @classmethod
    def of(cls, system: ExternalSystem) -> _Target:
        url = httpx.URL(system.base_url.rstrip("/") + PUSH_PATH)
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


def _request(target: _Target, key: str, trace_id: str, payload: _Payload) -> httpx.Request:
    span = random.getrandbits(64) or 1
    headers = [
        *target.headers,
        (b"Content-Length", b"%d" % len(payload.data)),
        (b"Idempotency-Key", key.encode()),
        (b"traceparent", f"00-{trace_id.replace('-', '')}-{span:016x}-01".encode()),
    ]
    if secrets := target.system.secrets:
        headers += webhook_headers(secrets, key, int(time()), payload.data)
    return httpx.Request(
        "POST", target.url, headers=headers, stream=payload, extensions=target.extensions
    )


async def _read(response: httpx.Response, raw: bytearray) -> None:
    stream = cast("httpx.AsyncByteStream", response.stream)
    try:
        async for piece in stream:
            raw += piece
            if len(raw) >= MAX_ANSWER:
                break
    finally:
        await stream.aclose()
    del raw[MAX_ANSWER:]


def _answered(response: httpx.Response, raw: bytes, elapsed: timedelta) -> Answer:
    status = response.status_code
    if response.is_success:
        return Answer(Reply.ANSWERED, status, read_body(raw) if raw else None, elapsed=elapsed)
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
