"""LISTEN on a connection of its own, and pass each wake-up on."""

from __future__ import annotations

import asyncio

import psycopg

from pgsched.database import CHANNEL
from pgsched.db import LISTENER
from pgsched.loops import Trouble

# A half-open connection gives no error: it is asked this often whether it still listens.
CHECK_INTERVAL = 10.0
RECONNECT_DELAY = 1.0


class Listener:
    """
    Sets an event when somebody calls `pgsched.wake()`.

    A wake-up is a hint.  After a lost connection there may have been one, so
    reconnecting counts as one.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._events: list[asyncio.Event] = []
        self._trouble = Trouble("listen")
        self.is_connected = False
        self.wake_count = 0

    def subscribe(self) -> asyncio.Event:
        """An event of one's own, set by each wake-up and cleared by whoever waits for it."""
        event = asyncio.Event()
        self._events.append(event)
        return event

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            try:
                await self._listen()
            except Exception as exc:  # the poll goes on without it
                self._trouble.tell(exc)
            finally:
                self.is_connected = False
            await asyncio.sleep(RECONNECT_DELAY)

    async def _listen(self) -> None:
        connection = await psycopg.AsyncConnection.connect(
            self._dsn, autocommit=True, application_name=LISTENER, connect_timeout=5
        )
        async with connection:
            await connection.execute(f"listen {CHANNEL}")
            self._trouble.over()
            self.is_connected = True
            self._wake()
            while True:
                heard = False
                async for _ in connection.notifies(timeout=CHECK_INTERVAL, stop_after=1):
                    heard = True
                    self._wake()
                if not heard:
                    async with asyncio.timeout(CHECK_INTERVAL):
                        await self._check(connection)

    async def _check(self, connection: psycopg.AsyncConnection) -> None:
        cursor = await connection.execute(
            "select pg_listening_channels(), current_setting('transaction_read_only')"
        )
        if (CHANNEL, "off") not in await cursor.fetchall():
            raise psycopg.OperationalError("the server does not listen, or is no primary, any more")

    def _wake(self) -> None:
        self.wake_count += 1
        for event in self._events:
            event.set()
