"""A worker process: its parts, their order of start and stop, and its signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
from collections.abc import Coroutine
from typing import Any

import psycopg

from pgsched import migrator, pooler
from pgsched.backfiller import Backfiller
from pgsched.build import version
from pgsched.clients import Handler, HandlerClient
from pgsched.dispatcher import ScheduleDispatcher
from pgsched.duties import Duties
from pgsched.errors import ConfigError, PgschedError
from pgsched.external import ExternalSystemClient, make_transport
from pgsched.lease import Lease
from pgsched.listener import Listener
from pgsched.loops import end, forever
from pgsched.observation import Observation
from pgsched.scanner import ScheduleScanner
from pgsched.settings import Settings, masked_dsn, secrets_of
from pgsched.targets import Targets
from pgsched.teller import StatusPusher
from pgsched.ticker import Ticker

log = logging.getLogger(__name__)

# Claim, sweep, settle, tick, backfill, breakers, news, duties: none waits for another.
CONNECTIONS = 8
# The last settles, after the last push.
SETTLE_GRACE = 5.0


class Worker:
    """Claims, pushes and settles until it is told to stop; one of many, none special."""

    def __init__(self, settings: Settings, handler: Handler | None = None) -> None:
        """*handler*, if given, is called with each task; see `HandlerClient`."""
        self._settings = settings
        url, is_pooled = settings.database_url, settings.poll_only
        self.observation = Observation(settings)
        self._database = self.observation.database(url, size=CONNECTIONS, is_pooled=is_pooled)
        # Renewing the lease must not wait for a connection.
        self._heart = self.observation.database(url, size=1, is_pooled=is_pooled)
        self._transport = make_transport(settings.push_slots)
        self._listener = Listener(url)
        self.lease = Lease(self._heart, version(), settings.queues)
        self._targets = Targets(self._database, settings, is_local=handler is not None)
        self._settler = self.observation.settler(self._database, self._targets)
        external = self._client()
        client = self.observation.client(HandlerClient(handler) if handler else external)
        wake, interval = self._listener.subscribe(), settings.schedule_scan_interval
        self._dispatcher = ScheduleDispatcher(
            self._database,
            self._targets,
            self.lease,
            self._settler,
            client=client,
            slots=settings.push_slots,
            wake=wake,
        )
        self._scanner = ScheduleScanner(
            self._database,
            self.lease,
            self._targets,
            self._dispatcher,
            wake,
            batch=settings.max_pending_tasks_per_scan,
            interval=interval,
        )
        self._ticker = Ticker(self._database, self._listener.subscribe(), interval)
        self._backfiller = Backfiller(self._database, self._listener.subscribe(), interval)
        self._pusher = None if handler else self._make_pusher(external)
        self._loops: list[asyncio.Task[None]] = []

    def _client(self) -> ExternalSystemClient:
        secrets = secrets_of(self._settings.callback_secret)
        now = self.observation.clock.now
        return ExternalSystemClient(self._transport, self._settings.public_url, secrets, now)

    def _make_pusher(self, client: ExternalSystemClient) -> StatusPusher:
        """A handler in this process has none: its news wait for a worker that pushes."""
        wake = self._listener.subscribe()
        return StatusPusher(self._database, client, self._targets, self.lease, wake)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until *stop* is set, then finish what is under way."""
        stopped = asyncio.create_task(stop.wait())
        try:
            await self.start()
            await asyncio.wait({stopped, *self._loops}, return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                raise PgschedError("a part of the worker has ended by itself; see the log")
            log.info("worker stopping: no more claims, pushes under way may end")
            await self.stop()
        finally:
            stopped.cancel()
            await self._abandon()

    async def start(self) -> None:
        if self._settings.public_url is None and self._pusher:
            log.warning(
                "PGSCHED_PUBLIC_URL is not set: pushes carry no callback_url, and what is accepted"
                " must be reported by its task_id"
            )
        parts = self._dispatcher, self._targets, self.lease, self._listener
        await self.observation.start(version(), *parts)
        await self._heart.open()
        await self._database.open()
        await self.lease.register()
        log.info(
            "worker ready",
            extra={"worker_id": self.lease.worker_id, "queues": self._settings.queues or "all"},
        )
        self._spawn(self.lease.run())
        if not self._settings.poll_only:
            self._spawn(self._listener.run())
        self._settling = self._spawn(forever(self._settler.step))
        self._spawn(forever(self._ticker.step))
        self._spawn(forever(self._backfiller.step))
        self._spawn(forever(self.observation.summary.step))
        for duty in Duties(self._database, self.lease).steps:
            self._spawn(forever(duty))
        if self._pusher:
            self._spawn(forever(self._pusher.step))
        await self._scanner.start()

    async def stop(self) -> None:
        """Drain: every task is settled or given back, if the database is there."""
        self._dispatcher.close()
        if self._pusher:
            self._pusher.close()
        await self._scanner.stop()
        await self._dispatcher.drain(self._settings.shutdown_grace_seconds)
        if self._pusher:  # it had as long as the dispatcher, too
            await self._pusher.drain(SETTLE_GRACE)
        try:
            async with asyncio.timeout(SETTLE_GRACE):
                # What it was writing is written again, which is harmless.
                await end([self._settling])
                await self._settler.drain()
                released = await self.lease.release()
                self.observation.summary.tell()
                log.info("worker stopped", extra={"given_back": released})
        except (PgschedError, TimeoutError) as exc:
            log.warning("worker could not say goodbye: its lease will end", extra={"error": exc})

    async def _abandon(self) -> None:
        self.observation.stop()
        await self._scanner.stop()
        await self._dispatcher.abandon()
        if self._pusher:
            await self._pusher.abandon()
        await end(self._loops)
        await self._transport.aclose()
        await self._database.close()
        await self._heart.close()

    def _spawn(self, loop: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self._loops.append(asyncio.create_task(loop))
        return self._loops[-1]


def is_refusal(reason: str) -> bool:
    """Whether a server is there and does not want us: waiting would not help."""
    return bool(re.search(r"FATAL:.*(authentication|password|does not exist|pg_hba)", reason))


async def wait_for_database(dsn: str, is_pooled: bool = False) -> None:
    """
    Wait until the database answers and has the schema of this version.

    Raises:
        ConfigError: It answers, and refuses the user, the password or the database; or
            sessions are not our own, unless *is_pooled* says so.
        MigrationError: It answers, and the schema is missing, behind, or too new.
    """
    delay = 0.5
    while True:
        try:
            await asyncio.to_thread(migrator.require_current, dsn)
            if not is_pooled:
                await pooler.refuse(dsn)
        except psycopg.OperationalError as exc:
            reason = str(exc).strip().partition("\n")[0]
            if is_refusal(reason):
                raise ConfigError(f"PGSCHED_DATABASE_URL: {reason}") from exc
            fields = {"database": masked_dsn(dsn), "error": reason}
            log.warning("database cannot be reached yet", extra=fields)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 10.0)
        else:
            return


async def serve(settings: Settings) -> None:
    """Run a worker until SIGTERM or SIGINT; a second one abandons what is under way."""
    stop, task = asyncio.Event(), asyncio.current_task()
    assert task is not None  # noqa: S101

    def on_signal() -> None:
        if stop.is_set():
            task.cancel()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    waiting = asyncio.create_task(wait_for_database(settings.database_url, settings.poll_only))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((waiting, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if stop.is_set():
        waiting.cancel()
        return
    await waiting
    with contextlib.suppress(asyncio.CancelledError):
        await Worker(settings).run(stop)


def main(settings: Settings) -> None:
    """Run `serve()` on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(settings))
    else:
        uvloop.run(serve(settings))
