"""Http1Transport: connections made, kept, and given up."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from pgsched import transport as module
from pgsched.transport import Http1Transport

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Peer:
    """Answers every request the same way, and knows who is connected."""

    def __init__(self, answer: bytes) -> None:
        self.port = 0
        self.requests: list[bytes] = []
        self.connections = 0
        self._answer = answer
        self._open = 0
        self._changed = asyncio.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/a?b=c"

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open += 1
        try:
            while True:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(self._answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            async with self._changed:
                self._open -= 1
                self._changed.notify_all()

    async def is_alone(self) -> None:
        """Wait until nobody is connected."""
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(lambda: self._open == 0)


@asynccontextmanager
async def listening(answer: bytes = OK) -> AsyncIterator[Peer]:
    peer = Peer(answer)
    async with await asyncio.start_server(peer, "127.0.0.1", 0) as server:
        peer.port = server.sockets[0].getsockname()[1]
        yield peer
        server.close()
        await peer.is_alone()


def get(url: str, headers: dict[str, str] | None = None, **timeouts: float) -> httpx.Request:
    return httpx.Request("GET", url, headers=headers, extensions={"timeout": timeouts})


async def read(transport: Http1Transport, request: httpx.Request) -> bytes:
    response = await transport.handle_async_request(request)
    return await response.aread()


async def test_it_serves_a_plain_httpx_client() -> None:
    async with listening() as peer, httpx.AsyncClient(transport=Http1Transport()) as client:
        response = await client.get(peer.url, headers={"X-A": "b"})
        assert response.text == "ok"
        [request] = peer.requests
        assert request.startswith(b"GET /a?b=c HTTP/1.1\r\n")
        assert b"\r\nX-A: b\r\n" in request


async def test_many_at_once_have_a_connection_each_and_share_them_afterwards() -> None:
    async with listening() as peer, Http1Transport() as transport:
        for _ in range(3):
            bodies = await asyncio.gather(*(read(transport, get(peer.url)) for _ in range(8)))
            assert bodies == [b"ok"] * 8
        assert peer.connections == 8


async def test_a_connection_nobody_uses_is_closed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEPALIVE", 0.01)
    async with listening() as peer, Http1Transport() as transport:
        await read(transport, get(peer.url))
        await peer.is_alone()


async def test_closing_the_transport_closes_its_connections() -> None:
    async with listening() as peer:
        async with Http1Transport() as transport:
            await read(transport, get(peer.url))
            busy = await transport.handle_async_request(get(peer.url))  # not read to its end
            await read(transport, get(peer.url))
        await peer.is_alone()
        await busy.aclose()


async def test_an_answer_nobody_asked_for_is_taken_for_no_answer() -> None:
    async with listening(OK + OK) as peer, Http1Transport() as transport:
        for _ in range(3):
            assert await read(transport, get(peer.url)) == b"ok"
        assert peer.connections == 3


async def test_the_whole_exchange_is_bounded() -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    async with listening(half) as peer, Http1Transport() as transport:
        response = await transport.handle_async_request(get(peer.url, read=0.1))
        with pytest.raises(httpx.ReadTimeout):
            await response.aread()


async def test_a_connection_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: Any) -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(module, "_look_up", never)
    async with Http1Transport() as transport:
        with pytest.raises(httpx.ConnectTimeout, match=r"crm\.example:80"):
            await read(transport, get("http://crm.example", connect=0.05))


async def test_one_name_is_looked_up_once_however_many_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = 0

    async def look_up(_: Any) -> list[Any]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return [(socket.AF_INET, 0, 0, "", ("127.0.0.1", peer.port))]

    monkeypatch.setattr(module, "_look_up", look_up)
    async with listening() as peer, Http1Transport() as transport:
        await asyncio.gather(*(read(transport, get("http://crm.example")) for _ in range(8)))
    assert asked == 1


async def test_an_address_that_refuses_is_followed_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))

        async def look_up(_: Any) -> list[Any]:
            return [(0, 0, 0, "", closed.getsockname()), (0, 0, 0, "", ("127.0.0.1", peer.port))]

        monkeypatch.setattr(module, "_look_up", look_up)
        async with listening() as peer, Http1Transport() as transport:
            assert await read(transport, get("http://crm.example")) == b"ok"


@pytest.mark.parametrize("headers", [{"X": "a\r\nY: b"}, {"X": "a\nb"}, {"X\r\nY": "b"}])
async def test_a_header_cannot_smuggle_another(headers: dict[str, str]) -> None:
    async with listening() as peer, Http1Transport() as transport:
        with pytest.raises(httpx.LocalProtocolError):
            await read(transport, get(peer.url, headers))
        assert peer.connections == 0


async def test_a_body_without_length_is_refused_before_it_is_sent() -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"x"

    async with listening() as peer, Http1Transport() as transport:
        with pytest.raises(httpx.LocalProtocolError):
            await read(transport, httpx.Request("POST", peer.url, content=parts()))


def test_it_runs_on_uvloop_as_well() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def run() -> None:
        async with listening() as peer, Http1Transport() as transport:
            for _ in range(3):
                assert await read(transport, get(peer.url)) == b"ok"
            assert peer.connections == 1
        async with listening(b"") as peer, Http1Transport() as transport:
            with pytest.raises(httpx.ReadTimeout):
                await read(transport, get(peer.url, read=0.1))
        with pytest.raises(httpx.ConnectError):
            await read(transport, get(peer.url))

    uvloop.run(run())
