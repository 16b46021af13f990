"""Reading HTTP/1.1 answers: whatever the bytes, and however they arrive in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple, cast

import h11
import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgsched.http1 import MAX_HEAD, Body, Connection


class Wire(asyncio.Transport):
    """The network's side of a connection, in memory."""

    is_closed = False

    def abort(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def get_write_buffer_size(self) -> int:
        return 0


class Heard(NamedTuple):
    """An answer as it was understood."""

    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes
    is_kept: bool


async def hear(pieces: Iterable[bytes], *, limit: int | None = None) -> Heard:
    """Read one answer that arrives in *pieces*, after which the server closes."""
    connection, wire, kept = Connection(), Wire(), list[bool]()
    connection.connection_made(wire)

    async def arrive() -> None:
        for piece in pieces:
            connection.data_received(piece)
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        connection.connection_lost(None)

    arriving = asyncio.create_task(arrive())
    try:
        head = await connection.head()
        stream = Body(connection, head, kept.append)
        body = b""
        async for piece in stream:
            body += piece
            if limit is not None and len(body) >= limit:
                break
        await stream.aclose()
    finally:
        await arriving
    [is_kept] = kept
    return Heard(head.status, head.fields, body, is_kept)


def understand(raw: bytes) -> Heard:
    return asyncio.run(hear([raw]))


def by_h11(raw: bytes) -> Heard:
    """The same by another implementation."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="POST", target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    connection.receive_data(b"")
    body = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            body += event.data
    # h11 leaves it to the next request to find that the end of the body was the end of all.
    names = {name for name, _ in response.headers}
    has_end = response.status_code in (204, 304) or names & {
        b"content-length",
        b"transfer-encoding",
    }
    is_kept = connection.their_state is h11.DONE and bool(has_end)
    return Heard(response.status_code, list(response.headers.raw_items()), body, is_kept)


# Answers of all kinds.

tokens = st.from_regex(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+", fullmatch=True).filter(
    lambda name: name.lower() not in (b"content-length", b"transfer-encoding", b"connection")
)
values = st.from_regex(rb"([\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?)?", fullmatch=True)
fields = st.lists(st.tuples(tokens, values), max_size=5)
interims = st.sampled_from(
    [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 X\r\nLink: a\r\n\r\n"]
)


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    sizes = draw(st.lists(st.integers(1, 40)))
    raw = b""
    while body:
        size = sizes.pop() if sizes else len(body)
        piece, body = body[:size], body[size:]
        extension = draw(st.sampled_from([b"", b";a", b";a=b", b';a="b"', b"  "]))
        raw += b"%x%b\r\n%b\r\n" % (len(piece), extension, piece)
    trailers = draw(st.sampled_from([b"", b"X-Sum: 1\r\n"]))
    return raw + b"0\r\n" + trailers + b"\r\n"


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    status = draw(st.sampled_from([200, 202, 204, 302, 304, 409, 500, 599]))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.0"]))
    reason = draw(st.sampled_from([b"", b" ", b" OK", b" Not  so OK", b" \xc3\x84"]))
    lines = [b"%b: %b\r\n" % field for field in draw(fields)]
    body = b"" if status in (204, 304) else draw(st.binary(max_size=200))
    framing = draw(st.sampled_from(["length", "chunked", "end"]))
    if framing == "length":
        lines.append(b"Content-Length: %d\r\n" % len(body))
    elif framing == "chunked" and version == b"1.1":
        lines.append(b"transfer-encoding: chunked\r\n")
        body = b"" if status in (204, 304) else draw(chunked(body))
    if draw(st.booleans()):
        lines.append(
            draw(st.sampled_from([b"Connection: close\r\n", b"connection: Keep-Alive\r\n"]))
        )
    head = b"HTTP/%b %d%b\r\n" % (version, status, reason)
    return draw(interims) + head + b"".join(draw(st.permutations(lines))) + b"\r\n" + body


@given(answers())
def test_an_answer_is_understood_as_h11_understands_it(raw: bytes) -> None:
    assert understand(raw) == by_h11(raw)


@given(answers(), st.lists(st.integers(0, 600)))
def test_it_does_not_matter_in_which_pieces_an_answer_arrives(raw: bytes, cuts: list[int]) -> None:
    marks = [0, *sorted(cuts), len(raw)]
    pieces = [raw[a:b] for a, b in pairwise(marks) if raw[a:b]]
    assert asyncio.run(hear(pieces)) == understand(raw)


def test_an_answer_may_arrive_byte_by_byte() -> None:
    raw = b"HTTP/1.1 200 OK\r\nTRANSFER-ENCODING: Chunked\r\n\r\n"
    raw += b"3 ; x\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n"
    heard = asyncio.run(hear(bytes([byte]) for byte in raw))
    assert heard.body == b"abcde"
    assert heard.is_kept


@given(st.binary(max_size=300) | st.binary(max_size=300).map(b"HTTP/1.1 200 OK\r\n".__add__))
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nabcde\r\n0\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nabcde")
def test_any_bytes_are_an_answer_or_a_transport_error(raw: bytes) -> None:
    try:
        heard = understand(raw)
    except httpx.TransportError:
        return
    assert 200 <= heard.status <= 999


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"hello\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * (MAX_HEAD + 1),
    ],
)
def test_what_cannot_be_understood_is_an_error(raw: bytes) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        understand(raw)


def test_bare_line_feeds_are_forgiven() -> None:
    heard = understand(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok")
    assert heard.body == b"ok"


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_a_connection_is_not_kept_if_the_next_answer_could_be_another_one(raw: bytes) -> None:
    assert not understand(raw).is_kept


async def test_a_body_that_is_not_read_to_its_end_costs_the_connection() -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"
    heard = await hear([raw, b"def", b"ghi"], limit=4)
    assert heard.body == b"abcdef"
    assert not heard.is_kept


async def test_a_reset_is_told_from_an_end() -> None:
    connection = Connection()
    connection.connection_made(cast("asyncio.BaseTransport", Wire()))
    connection.connection_lost(ConnectionResetError("by peer"))
    with pytest.raises(httpx.ReadError, match="by peer"):
        await connection.head()
