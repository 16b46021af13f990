"""What a worker answers over HTTP: GET /metrics and GET /health/live."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from pgsched.errors import ConfigError

log = logging.getLogger(__name__)

# A request is some hundred bytes, and comes at once.
MOST_BYTES = 16 * 1024
PATIENCE = 5.0
# Those who ask at the same time; a worker has better things to do.
MOST_CONNECTIONS = 8

# The text for an Accept header, and its content type.
Render = Callable[[str], tuple[bytes, str]]
_TEXT = "text/plain; charset=utf-8"


class Endpoint:
    """
    One request a connection, answered by the worker's own event loop.

    So an answer to /health/live says that the loop turns, and what is counted
    there is read without locks.
    """

    def __init__(self, host: str, port: int, render: Render) -> None:
        self._host = host
        self._port = port
        self._render = render
        self._connections = 0
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        """
        Listen.

        Raises:
            ConfigError: The address cannot be had.
        """
        try:
            self._server = await asyncio.start_server(
                self._serve, self._host, self._port, limit=MOST_BYTES
            )
        except (OSError, OverflowError) as exc:
            raise ConfigError(
                "PGSCHED_METRICS_HOST and PGSCHED_METRICS_PORT: cannot listen on"
                f" {self._host} port {self._port}: {exc}"
            ) from exc
        self.port = self._server.sockets[0].getsockname()[1]
        log.info("metrics listening", extra={"url": f"http://{self._host}:{self.port}/metrics"})

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            # A peer that is gone, slow or says too much is simply left.
            with contextlib.suppress(OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
                async with asyncio.timeout(PATIENCE):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._answer(head.decode("latin-1")))
                    await writer.drain()
        finally:
            self._connections -= 1
            writer.close()

    def _answer(self, head: str) -> bytes:
        request, *lines = head.split("\r\n")
        method, _, target = request.partition(" ")
        if self._connections > MOST_CONNECTIONS:
            return _response("503 Service Unavailable", b"too many at once\n")
        if method not in ("GET", "HEAD"):
            return _response("405 Method Not Allowed", b"GET only\n")
        is_head = method == "HEAD"
        match target.partition(" ")[0].partition("?")[0]:
            case "/health/live":
                return _response("200 OK", b"live\n", is_head=is_head)
            case "/metrics":
                return self._metrics(_accept_of(lines), is_head=is_head)
            case _:
                return _response("404 Not Found", b"there are /metrics and /health/live\n")

    def _metrics(self, accept: str, *, is_head: bool) -> bytes:
        try:
            body, content_type = self._render(accept)
        except Exception:
            log.exception("metrics could not be rendered")
            return _response("500 Internal Server Error", b"the log tells more\n")
        return _response("200 OK", body, content_type, is_head=is_head)


def _accept_of(lines: list[str]) -> str:
    fields = (line.partition(":") for line in lines)
    return ",".join(value.strip() for name, _, value in fields if name.lower() == "accept")


def _response(
    status: str, body: bytes, content_type: str = _TEXT, *, is_head: bool = False
) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (b"" if is_head else body)
