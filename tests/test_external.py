"""Pushing a task: what is sent, and what every way of answering (or not) is taken for."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
import orjson
import pytest
from standardwebhooks import Webhook

from pgsched.answers import Answer, Reply
from pgsched.decoding import EXCERPT_BYTES
from pgsched.external import ExternalSystemClient, make_transport
from pgsched.models import ClaimedTask, Completion, ExternalSystem
from pgsched.posting import MAX_ANSWER
from pgsched.signing import attempt_of
from pgsched.transport import Http1Transport

TASK = ClaimedTask(
    id="01980000-0000-7000-8000-000000000001",
    attempt=3,
    delivery_count=5,
    sequence=8,
    queue="mail",
    hold_seconds=60,
    priority=2,
    execute_after=datetime(2026, 11, 23, 18, 5, tzinfo=UTC),
    scheduled_time=datetime(2026, 11, 23, 18, 0, tzinfo=UTC),
    definition_id="01980000-0000-7000-8000-000000000002",
    definition_name="send_invoice",
    content=orjson.Fragment(b'{"kind": "mail"}'),
    trace_id="01980000-0000-7000-8000-00000000000a",
    schedule_id="01980000-0000-7000-8000-000000000004",
    input_params=orjson.Fragment(b'{"amount": 1.10, "big": 12345678901234567890123}'),
    schedule_config=None,
    round_index=0,
    retry_count=2,
)
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def system(base_url: str, *, seconds: float = 5, api_key: str | None = "s3cret") -> ExternalSystem:
    timeout = timedelta(seconds=seconds)
    return ExternalSystem("crm", base_url, api_key, Completion.CALLBACK, timeout)


# What is sent, seen through httpx's own stand-in for a server.


class Recorder:
    """Answers every request the same way, and keeps them."""

    def __init__(self, answer: httpx.Response | Exception | None = None) -> None:
        self._answer = answer
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer or httpx.Response(202)

    async def push(
        self,
        to: ExternalSystem | None = None,
        task: ClaimedTask = TASK,
        public_url: str | None = "https://pgsched.example/",
    ) -> Answer:
        client = ExternalSystemClient(httpx.MockTransport(self), public_url)
        return await client.push_task_status(to or system("https://crm.example"), task)

    async def body(self, **how: Any) -> dict[str, Any]:
        await self.push(**how)
        parsed: dict[str, Any] = orjson.loads(self.requests[-1].content)
        return parsed


async def test_a_push_is_one_post_below_the_base_url() -> None:
    for base_url in ("https://crm.example/hooks", "https://crm.example/hooks/"):
        recorder = Recorder()
        await recorder.push(system(base_url))
        [request] = recorder.requests
        assert request.method == "POST"
        assert str(request.url) == "https://crm.example/hooks/api/tasks/status"


async def test_the_headers_of_a_push() -> None:
    recorder = Recorder()
    await recorder.push(system("http://crm.example:8080"))
    [request] = recorder.requests
    headers = dict(request.headers)

    trace = headers.pop("traceparent")
    assert headers.pop("user-agent").startswith("pgsched")
    assert headers == {
        "host": "crm.example:8080",
        "accept": "application/json",
        "content-type": "application/json",
        "content-length": str(len(request.content)),
        "authorization": "Bearer s3cret",
        "idempotency-key": f"{TASK.id}:3",
    }
    assert re.fullmatch(r"00-0198000000007000800000000000000a-[0-9a-f]{16}-01", trace)


async def test_the_body_of_a_push() -> None:
    before = datetime.now(UTC)
    body = await Recorder().body()

    assert before <= datetime.fromisoformat(body.pop("timestamp")) <= datetime.now(UTC)
    assert datetime.fromisoformat(body.pop("scheduled_time")) == TASK.scheduled_time
    metadata = body.pop("metadata")
    assert body == {
        "task_id": TASK.id,
        "status": "READY_FOR_EXECUTION",
        "attempt": 3,
        "sequence": 8,
        "idempotency_key": f"{TASK.id}:3",
        "callback_url": f"https://pgsched.example/api/tasks/{TASK.id}/status?attempt=3",
        "callback_token": None,
    }
    assert {**metadata, "input_params": ...} == {
        "definition_id": TASK.definition_id,
        "definition_name": "send_invoice",
        "content": {"kind": "mail"},
        "trace_id": TASK.trace_id,
        "input_params": ...,
        "schedule_config": None,
        "round_index": 0,
        "retry_count": 2,
        "priority": 2,
        "queue": "mail",
        "schedule_id": TASK.schedule_id,
    }


async def test_what_the_caller_wrote_is_passed_on_byte_for_byte() -> None:
    recorder = Recorder()
    await recorder.push()
    assert b'{"amount": 1.10, "big": 12345678901234567890123}' in recorder.requests[0].content


async def test_without_a_public_url_there_is_no_callback_url() -> None:
    assert (await Recorder().body(public_url=None))["callback_url"] is None


async def test_the_callback_token_is_made_by_the_newest_secret() -> None:
    recorder = Recorder()
    client = ExternalSystemClient(httpx.MockTransport(recorder), None, [b"new" * 8, b"old" * 8])
    await client.push_task_status(system("https://crm.example"), TASK)

    token = orjson.loads(recorder.requests[0].content)["callback_token"]
    assert attempt_of(token, [b"new" * 8], TASK.id) == TASK.attempt


async def test_a_push_is_signed_with_each_secret_of_its_system() -> None:
    secrets = (b"new" * 8, b"old" * 8)
    recorder = Recorder()
    await recorder.push(system("https://crm.example")._replace(secrets=secrets))
    [request] = recorder.requests

    assert request.headers["webhook-id"] == request.headers["idempotency-key"]
    for secret in secrets:
        Webhook(secret).verify(request.content, dict(request.headers))


async def test_without_a_key_there_is_no_authorization() -> None:
    recorder = Recorder()
    await recorder.push(system("http://crm.example", api_key=None))
    assert "Authorization" not in recorder.requests[0].headers


async def test_every_push_is_a_span_of_its_own() -> None:
    recorder = Recorder()
    for _ in range(3):
        await recorder.push()
    assert len({request.headers["traceparent"] for request in recorder.requests}) == 3


async def test_a_changed_key_is_used_at_once() -> None:
    recorder = Recorder()
    client = ExternalSystemClient(httpx.MockTransport(recorder), None)
    for key in ("old", "new"):
        await client.push_task_status(system("http://crm.example", api_key=key), TASK)
    sent = [request.headers["Authorization"] for request in recorder.requests]
    assert sent == ["Bearer old", "Bearer new"]


@pytest.mark.parametrize("key", ["", "two\nlines", "a b", "ключ"])
async def test_a_key_that_no_header_can_carry_is_never_sent(key: str) -> None:
    recorder = Recorder()
    answer = await recorder.push(system("http://crm.example", api_key=key))
    assert answer.reply is Reply.UNREACHABLE
    assert "API key" in answer.text
    assert not recorder.requests


# What came back.


async def test_a_json_object_is_the_body_of_the_answer() -> None:
    answer = await Recorder(httpx.Response(200, json={"status": "SUCCESS"})).push()
    assert answer.reply is Reply.ANSWERED
    assert answer.status_code == 200
    assert answer.body == {"status": "SUCCESS"}


async def test_a_refusal_comes_with_its_text_and_its_retry_after() -> None:
    headers = {
        "Retry-After": "Mon, 23 Nov 2026 18:01:00 GMT",
        "Date": "Mon, 23 Nov 2026 18:00:00 GMT",
    }
    answer = await Recorder(httpx.Response(503, headers=headers, text="later,\nplease")).push()
    assert answer.status_code == 503
    assert answer.retry_after == timedelta(minutes=1)
    assert answer.text == "later, please"


@pytest.mark.parametrize(
    ("failure", "reply"),
    [
        (httpx.ConnectError("refused"), Reply.UNREACHABLE),
        (httpx.ConnectTimeout("slow"), Reply.UNREACHABLE),
        (httpx.PoolTimeout("full"), Reply.UNREACHABLE),
        (httpx.ProxyError("403"), Reply.UNREACHABLE),
        (httpx.ReadTimeout("slow"), Reply.TIMED_OUT),
        (httpx.WriteTimeout("slow"), Reply.TIMED_OUT),
        (httpx.ReadError("reset"), Reply.CUT),
        (httpx.WriteError("reset"), Reply.CUT),
        (httpx.RemoteProtocolError("nonsense"), Reply.CUT),
    ],
)
async def test_every_failure_of_httpx_has_its_place(failure: Exception, reply: Reply) -> None:
    answer = await Recorder(failure).push()
    assert answer.reply is reply
    assert answer.text == str(failure)


@pytest.mark.parametrize(
    "base_url", ["", "crm.example", "ftp://crm.example", "http://", "http://a:b", "http://[::1"]
)
async def test_an_address_that_is_none_cannot_be_reached(base_url: str) -> None:
    answer = await push(Http1Transport(), system(base_url))
    assert answer.reply is Reply.UNREACHABLE
    assert answer.text


async def test_a_failure_before_anything_was_sent_is_told_apart_by_what_was_sent() -> None:
    class Broken(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raise httpx.ReadError("in the TLS handshake")

    assert (await push(Broken(), system("http://crm.example"))).reply is Reply.UNREACHABLE


# Real sockets on the loopback, with either transport.


@pytest.fixture(params=[Http1Transport, httpx.AsyncHTTPTransport])
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncBaseTransport]:
    is_httpx = request.param is httpx.AsyncHTTPTransport
    async with request.param(**({"trust_env": False} if is_httpx else {})) as opened:
        yield opened


async def push(
    transport: httpx.AsyncBaseTransport, to: ExternalSystem, public_url: str | None = None
) -> Answer:
    return await ExternalSystemClient(transport, public_url).push_task_status(to, TASK)


class Server:
    """A server on the loopback that treats each connection as it is told to."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._tasks: set[asyncio.Task[Any]] = set()
        self.connections = 0
        self.ended = asyncio.Event()  # some connection is over

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self.ended.set()

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def gone(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def serving(
    handler: Handler, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[str, Server]]:
    treat = Server(handler)
    server = await asyncio.start_server(treat, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}", treat
    finally:
        server.close()
        treat.cancel()
        await treat.gone()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return head + await reader.readexactly(int(length[1]) if length else 0)


def answering(raw: bytes, *, then: str = "wait") -> Handler:
    """Answer every request with *raw*; `then` go on, `close`, or `reset`."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(raw)
            if then == "reset":
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )
            if then != "wait":
                return

    return handle


def dripping(start: bytes, drip: bytes = b"x") -> Handler:
    """Answer with *start*, and then a little every now and then, for ever."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(start)
        while True:
            writer.write(drip)
            await writer.drain()
            await asyncio.sleep(0.02)

    return handle


async def test_an_answer_over_a_real_connection(transport: httpx.AsyncBaseTransport) -> None:
    raw = b'HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{"status":"SUCCESS"}'
    async with serving(answering(raw)) as (url, _):
        answer = await push(transport, system(url))
    assert answer.status_code == 200
    assert answer.body == {"status": "SUCCESS"}
    assert timedelta() < answer.elapsed < timedelta(seconds=5)


async def test_a_connection_is_used_again(transport: httpx.AsyncBaseTransport) -> None:
    async with serving(answering(ACCEPTED)) as (url, server):
        for _ in range(5):
            assert (await push(transport, system(url))).status_code == 202
    assert server.connections == 1


async def test_a_connection_that_was_closed_meanwhile_is_not_used_again(
    transport: httpx.AsyncBaseTransport,
) -> None:
    async with serving(answering(ACCEPTED, then="close")) as (url, server):
        for _ in range(3):
            assert (await push(transport, system(url))).status_code == 202
            await server.ended.wait()
            for _ in range(5):  # let the loop see it
                await asyncio.sleep(0)
    assert server.connections == 3


async def test_a_refused_connection_is_unreachable(transport: httpx.AsyncBaseTransport) -> None:
    answer = await push(transport, system("http://127.0.0.1:1"))
    assert answer.reply is Reply.UNREACHABLE
    assert answer.text


async def test_an_unknown_name_is_unreachable(transport: httpx.AsyncBaseTransport) -> None:
    answer = await push(transport, system("http://nowhere.invalid"))
    assert answer.reply is Reply.UNREACHABLE
    assert answer.text


async def test_a_server_without_tls_is_unreachable_by_tls(
    transport: httpx.AsyncBaseTransport,
) -> None:
    async def speak_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serving(speak_plainly) as (url, _):
        answer = await push(transport, system(url.replace("http:", "https:")))
    assert answer.reply is Reply.UNREACHABLE


async def test_a_handshake_that_never_ends_is_unreachable() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(say_nothing) as (url, _), Http1Transport() as transport:
        answer = await push(transport, system(url.replace("http:", "https:"), seconds=0.2))
    assert answer.reply is Reply.UNREACHABLE


async def test_silence_after_the_request_is_a_timeout(transport: httpx.AsyncBaseTransport) -> None:
    async with serving(answering(b"")) as (url, server):
        answer = await push(transport, system(url, seconds=0.2))
        assert answer.reply is Reply.TIMED_OUT
        assert timedelta(seconds=0.2) <= answer.elapsed < timedelta(seconds=2)
        await server.ended.wait()  # and the connection is not kept


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 20",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
    ],
)
async def test_an_answer_that_breaks_off_is_no_answer(
    transport: httpx.AsyncBaseTransport, raw: bytes, then: str
) -> None:
    async with serving(answering(raw, then=then)) as (url, _):
        assert (await push(transport, system(url))).reply is Reply.CUT


@pytest.mark.parametrize("raw", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/9\r\n\r\n", b"\r\n\r\n\r\n"])
async def test_what_is_not_http_is_no_answer(
    transport: httpx.AsyncBaseTransport, raw: bytes
) -> None:
    async with serving(answering(raw, then="close")) as (url, _):
        assert (await push(transport, system(url))).reply is Reply.CUT


@pytest.mark.parametrize("then", ["close", "reset", "wait"])
async def test_a_refusal_is_an_answer_even_if_its_body_breaks_off(
    transport: httpx.AsyncBaseTransport, then: str
) -> None:
    raw = b"HTTP/1.1 503 Busy\r\nRetry-After: 9\r\nContent-Length: 100\r\n\r\nbus"
    async with serving(answering(raw, then=then)) as (url, _):
        answer = await push(transport, system(url, seconds=0.2))
    assert answer.reply is Reply.ANSWERED
    assert answer.status_code == 503
    assert answer.retry_after == timedelta(seconds=9)


@pytest.mark.parametrize(
    ("start", "reply"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", Reply.TIMED_OUT),
        (b"HTTP/1.1 200 OK\r\n\r\n", Reply.TIMED_OUT),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", Reply.TIMED_OUT),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 99999\r\n\r\n", Reply.ANSWERED),
    ],
)
async def test_a_slow_drip_takes_no_longer_than_the_request_may(start: bytes, reply: Reply) -> None:
    for transport in (Http1Transport(), httpx.AsyncHTTPTransport(trust_env=False)):
        began = perf_counter()
        async with serving(dripping(start)) as (url, _), transport:
            answer = await push(transport, system(url, seconds=0.3))
        assert perf_counter() - began < 2
        assert answer.reply is reply


async def test_of_a_long_answer_only_the_start_is_read(transport: httpx.AsyncBaseTransport) -> None:
    size = 64 * 1024 * 1024
    written = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await read_request(reader)
        writer.write(b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n" % size)
        while written < size:
            writer.write(b"x" * MAX_ANSWER)
            await writer.drain()
            written += MAX_ANSWER

    async with serving(flood) as (url, server):
        answer = await push(transport, system(url))
        await server.ended.wait()
    assert answer.status_code == 400
    assert answer.text == "x" * EXCERPT_BYTES
    assert written < size / 2


@pytest.mark.parametrize("framing", [b"", b"Content-Length: 1048591\r\n"])
async def test_a_long_json_body_is_accepted_but_settles_nothing(
    transport: httpx.AsyncBaseTransport, framing: bytes
) -> None:
    body = b'{"status":"SUCCESS","filler":"' + b"x" * (1048591 - 32) + b'"}'
    raw = b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n" + body
    async with serving(answering(raw, then="close")) as (url, _):
        answer = await push(transport, system(url))
    assert answer.status_code == 200
    assert answer.body is None


async def test_a_redirect_is_an_answer_and_is_not_followed(
    transport: httpx.AsyncBaseTransport,
) -> None:
    async with serving(answering(ACCEPTED)) as (elsewhere, other):
        raw = f"HTTP/1.1 307 There\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\n\r\n"
        async with serving(answering(raw.encode())) as (url, _):
            answer = await push(transport, system(url))
    assert answer.status_code == 307
    assert other.connections == 0


async def test_a_push_that_is_cancelled_leaves_no_connection(
    transport: httpx.AsyncBaseTransport,
) -> None:
    arrived = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        arrived.set()
        await reader.read()

    async with serving(hang) as (url, server):
        pushing = asyncio.create_task(push(transport, system(url)))
        await arrived.wait()
        pushing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pushing
        await asyncio.wait_for(server.ended.wait(), 5)


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with serving(answering(ACCEPTED)) as (url, _), make_transport(4) as transport:
        assert (await push(transport, system(url))).status_code == 202


async def test_a_proxy_that_was_asked_for_is_used() -> None:
    asked = asyncio.Queue[bytes]()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.put_nowait(await read_request(reader))
        writer.write(ACCEPTED)

    async with serving(proxy) as (url, _), make_transport(4, proxy=url) as transport:
        assert (await push(transport, system("http://crm.example"))).status_code == 202
    assert (await asked.get()).startswith(b"POST http://crm.example/api/tasks/status HTTP/1.1")


# TLS.


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1, with its key, that nobody trusts."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl here to make a certificate")
    pem = tmp_path_factory.mktemp("tls") / "server.pem"
    name = "-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    command = f"req -x509 -newkey rsa:2048 -nodes -days 2 {name} -keyout server.key -out {pem.name}"
    subprocess.run([openssl, *command.split()], cwd=pem.parent, check=True, capture_output=True)
    return pem


def tls_server(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    return context


async def test_a_certificate_that_nobody_vouches_for_is_unreachable(
    transport: httpx.AsyncBaseTransport, certificate: Path
) -> None:
    async with serving(answering(ACCEPTED), tls_server(certificate)) as (url, _):
        answer = await push(transport, system(url))
    assert answer.reply is Reply.UNREACHABLE
    assert "CERTIFICATE_VERIFY_FAILED" in answer.text


async def test_a_certificate_for_another_name_is_unreachable(certificate: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    served = serving(answering(ACCEPTED), tls_server(certificate))
    async with served as (url, _), Http1Transport(trusting) as transport:
        answer = await push(transport, system(url.replace("127.0.0.1", "localhost")))
    assert answer.reply is Reply.UNREACHABLE


async def test_a_push_over_tls(certificate: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    served = serving(answering(ACCEPTED), tls_server(certificate))
    async with served as (url, server), Http1Transport(trusting) as transport:
        for _ in range(3):
            assert (await push(transport, system(url))).status_code == 202
    assert server.connections == 1
