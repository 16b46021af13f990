"""HTTP/1.1 of the API: what uvicorn speaks, for those who send more of a head than they may."""

from __future__ import annotations

import asyncio
import http

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Of the request line and the headers, in bytes; what one read has brought beyond it is let pass.
MAX_HEAD = 64 * 2**10
# In seconds: how long a head may take to come, and until a connection says anything.
HEAD_WAIT = 30.0


class BoundedProtocol(HttpToolsProtocol):
    """Hangs up on heads that are too long or too slow; says so in the shape of all errors."""

    _is_in_head = True
    _head_size = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._is_in_head or self.transport.is_closing():
            self._stop_timer()
            return
        self._head_size += len(data)
        if self._head_size > MAX_HEAD:
            self._refuse(
                431, "TOO_LARGE", f"the headers are larger than the {MAX_HEAD} bytes allowed"
            )
        elif self._timer is None:
            self._start_timer()

    def on_message_begin(self) -> None:
        self._is_in_head, self._head_size = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "BAD_REQUEST", msg)

    def _start_timer(self) -> None:
        message = f"the headers took longer than {HEAD_WAIT:g} s"
        self._timer = self.loop.call_later(HEAD_WAIT, self._refuse, 408, "TOO_SLOW", message)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int, code: str, message: str) -> None:
        if self.transport.is_closing():
            return
        body = orjson.dumps({"code": code, "message": message})
        head = (
            f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
