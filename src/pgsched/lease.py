"""The worker's identity, and the lease on which it holds its tasks."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from time import monotonic

from pgsched.database import Database
from pgsched.errors import NotFound
from pgsched.loops import Trouble

log = logging.getLogger(__name__)

# Heartbeats per term.  A worker stops a sixth of the term before its lease ends:
# a push that starts later might outlive it.
BEATS = 6


class Lease:
    """
    Registers the worker and renews its lease.

    The worker's own monotonic clock tells it when the lease is over, counted
    from before the heartbeat was sent: it stops pushing before anybody can
    take its tasks.  `generation` changes whenever the lease was interrupted;
    what was claimed under an earlier one is lost.
    """

    def __init__(self, database: Database, version: str, queues: list[str] | None) -> None:
        self._database = database
        self._version = version
        self._queues = queues
        self._until = 0.0
        self._interval = 5.0
        self._trouble = Trouble("heartbeat")
        self.worker_id = ""
        self.generation = 0

    @property
    def is_live(self) -> bool:
        return monotonic() < self._until

    def holds(self, generation: int) -> bool:
        """Whether what was claimed in *generation* is still this worker's."""
        return generation == self.generation and self.is_live

    async def register(self) -> None:
        asked = monotonic()
        self.worker_id = await self._database.register_worker(
            socket.gethostname(), os.getpid(), self._version, self._queues
        )
        # The first heartbeat tells the term.
        await self._renew(asked)

    async def _renew(self, asked: float) -> None:
        term = (await self._database.heartbeat(self.worker_id)).total_seconds()
        if not self.is_live:
            self.generation += 1
        self._interval = term / BEATS
        self._until = asked + term - self._interval

    async def run(self) -> None:
        """Renew the lease until cancelled; an outage of the database is waited out."""
        while True:
            await asyncio.sleep(self._interval if self.is_live else min(self._interval, 1.0))
            try:
                async with asyncio.timeout(self._interval):
                    await self._renew(monotonic())
            except NotFound:
                fields = {"worker_id": self.worker_id}
                log.warning("worker was forgotten: it registers again", extra=fields)
                self._until = 0.0
                await self._register_again()
            except Exception as exc:  # whatever it is, the worker must go on renewing
                self._trouble.tell(exc)
            else:
                self._trouble.over()

    async def _register_again(self) -> None:
        try:
            await self.register()
        except Exception as exc:
            log.warning("worker cannot register yet", extra={"error": exc})

    async def release(self) -> int:
        """Put back what is still held, and say goodbye; how many tasks that was."""
        self._until = 0.0
        return await self._database.release_worker(self.worker_id)
