"""
A TCP proxy that lets through, cuts, refuses, or swallows.

It runs in a thread with a loop of its own, so that a test can turn it while
processes talk through it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Self

from psycopg.conninfo import conninfo_to_dict

from tests.delivery.hostile import RESET

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]


async def connect_to_server(dsn: str) -> Streams:
    """A connection to the server of *dsn* on which nothing is said yet."""
    given = conninfo_to_dict(dsn)
    host, port = str(given["host"]), int(given["port"] or 5432)
    if host.startswith("/"):
        return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
    return await asyncio.open_connection(host, port)


class Door:
    """Listens on a port of 127.0.0.1, and leads to one address."""

    def __init__(self, connect: Connect) -> None:
        """
        Args:
            connect: Opens a connection to what is behind it.
        """
        self._connect = connect
        self._loop = asyncio.new_event_loop()
        self._is_open, self._holds_hangups = True, False
        self._swallows: set[asyncio.StreamWriter] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.passed = self.cuts = self._left = 0  # connections

    def __enter__(self) -> Self:
        self._thread.start()
        starting = asyncio.start_server(self._pass, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # What a test may do

    def cut(self) -> None:
        """Reset all connections."""
        self._do(self._reset_all)

    def close(self) -> None:
        """Reset all connections, and each new one, until it is opened."""
        self._is_open = False
        self.cut()

    def open(self) -> None:
        self._is_open = True

    def half_open(self) -> None:
        """Swallow what comes on the connections there are: neither side is told anything."""
        self._do(lambda: self._swallows.update(self._writers))

    def hold_hangups(self) -> None:
        """Hand on what is said from behind, and not that somebody there has hung up."""
        self._holds_hangups = True

    @property
    def all_have_hung_up(self) -> bool:
        """Whether behind each connection somebody has said all and hung up."""
        return self.passed > 0 and 2 * self._left == len(self._writers)

    def _do(self, act: Callable[[], None]) -> None:
        done = threading.Event()

        def run() -> None:
            act()
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(10)

    # What it does

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not self._is_open:
                raise ConnectionError
            back_reader, back_writer = await self._connect()
        except OSError:
            _reset(writer)
            return
        if not self._is_open:  # by now
            _reset(writer)
            _reset(back_writer)
            return
        self.passed += 1
        pair = {writer, back_writer}
        self._writers |= pair
        try:
            await asyncio.gather(
                self._copy(reader, back_writer),
                self._copy(back_reader, writer, is_from_behind=True),
            )
        finally:
            self._left -= 1
            self._writers -= pair
            self._swallows -= pair
            for one in pair:
                one.close()

    async def _copy(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        is_from_behind: bool = False,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if writer not in self._swallows:
                    writer.write(data)
                    await writer.drain()
        self._left += is_from_behind
        if writer not in self._swallows and not (is_from_behind and self._holds_hangups):
            writer.close()

    async def _end(self) -> None:
        self._server.close()
        while left := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(left, timeout=5)

    def _reset_all(self) -> None:
        self.cuts += len(self._writers) // 2
        for writer in self._writers:
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    own = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        if own.family != socket.AF_UNIX:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
