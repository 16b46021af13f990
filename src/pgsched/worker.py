"""A worker process: its parts, their order of start and stop, and its signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
from collections.abc import Coroutine
from importlib import metadata
from typing import Any

import psycopg

from pgsched import migrator, zones
from pgsched.backfiller import Backfiller
from pgsched.database import Database
from pgsched.dispatcher import ScheduleDispatcher
from pgsched.errors import ConfigError, PgschedError
from pgsched.external import ExternalSystemClient, make_transport
from pgsched.lease import Lease
from pgsched.listener import Listener
from pgsched.loops import end, forever, jittered
from pgsched.scanner import ScheduleScanner
from pgsched.settings import Settings, masked_dsn, secrets_of
from pgsched.settler import Settler
from pgsched.targets import Targets
from pgsched.ticker import Ticker

log = logging.getLogger(__name__)

# Claim, sweep, settle, tick, backfill, duties: none waits for another.
CONNECTIONS = 7
DUTY_INTERVAL = 1.0
# As many as `expire_deadlines()` takes at once: there may be more.
FULL = 1000
MAINTENANCE_INTERVAL = 60.0
# The last settles, after the last push.
SETTLE_GRACE = 5.0


class Worker:
    """Claims, pushes and settles until it is told to stop; one of many, none special."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(
            settings.database_url, size=CONNECTIONS, is_pooled=settings.poll_only
        )
        # Renewing the lease must not wait for a connection.
        self._heart = Database(settings.database_url, size=1, is_pooled=settings.poll_only)
        self._transport = make_transport(settings.push_slots)
        self._listener = Listener(settings.database_url)
        self.lease = Lease(self._heart, version(), settings.queues)
        self._targets = Targets(self._database, settings)
        self._settler = Settler(self._database)
        self._dispatcher = ScheduleDispatcher(
            ExternalSystemClient(
                self._transport, settings.public_url, secrets_of(settings.callback_secret)
            ),
            self._targets,
            self.lease,
            self._settler,
            slots=settings.push_slots,
        )
        self._scanner = ScheduleScanner(
            self._database,
            self.lease,
            self._targets,
            self._dispatcher,
            self._listener.subscribe(),
            batch=settings.max_pending_tasks_per_scan,
            interval=settings.schedule_scan_interval,
        )
        self._ticker = Ticker(
            self._database, self._listener.subscribe(), settings.schedule_scan_interval
        )
        self._backfiller = Backfiller(
            self._database, self._listener.subscribe(), settings.schedule_scan_interval
        )
        self._loops: list[asyncio.Task[None]] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Work until *stop* is set, then finish what is under way."""
        stopped = asyncio.create_task(stop.wait())
        try:
            await self.start()
            await asyncio.wait({stopped, *self._loops}, return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                raise PgschedError("a part of the worker has ended by itself; see the log")
            log.info("stopping: no more claims, pushes under way may end")
            await self.stop()
        finally:
            stopped.cancel()
            await self._abandon()

    async def start(self) -> None:
        if self._settings.public_url is None:
            log.warning(
                "PGSCHED_PUBLIC_URL is not set: pushes carry no callback_url, and what is accepted"
                " must be reported by its task_id"
            )
        await self._heart.open()
        await self._database.open()
        await self.lease.register()
        log.info("worker %s is ready", self.lease.worker_id)
        self._spawn(self.lease.run())
        if not self._settings.poll_only:
            self._spawn(self._listener.run())
        self._spawn(self._dispatcher.run())
        self._settling = self._spawn(forever(self._settler.step))
        self._spawn(forever(self._ticker.step))
        self._spawn(forever(self._backfiller.step))
        self._spawn(forever(self._recompute_schedules))
        self._spawn(forever(self._resolve_dependencies))
        self._spawn(forever(self._expire_deadlines))
        self._spawn(forever(self._release_dead_workers))
        self._spawn(forever(self._maintain))
        await self._scanner.start()

    async def stop(self) -> None:
        """Drain: every task is settled or given back, if the database is there."""
        self._dispatcher.close()
        await self._scanner.stop()
        await self._dispatcher.drain(self._settings.shutdown_grace_seconds)
        try:
            async with asyncio.timeout(SETTLE_GRACE):
                # What it was writing is written again, which is harmless.
                await end([self._settling])
                await self._settler.drain()
                released = await self.lease.release()
                log.info("stopped; %d tasks were given back", released)
        except (PgschedError, TimeoutError) as exc:
            log.warning("could not say goodbye, the lease will end: %s", str(exc) or "timeout")

    async def _abandon(self) -> None:
        await self._scanner.stop()
        await end(self._loops)
        await self._transport.aclose()
        await self._database.close()
        await self._heart.close()

    def _spawn(self, loop: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self._loops.append(asyncio.create_task(loop))
        return self._loops[-1]

    async def _expire_deadlines(self) -> float:
        expired = await self._database.expire_deadlines()
        return 0 if expired >= FULL else jittered(DUTY_INTERVAL)

    async def _release_dead_workers(self) -> float:
        await self._database.release_dead_workers(self.lease.worker_id)
        return jittered(DUTY_INTERVAL)

    async def _recompute_schedules(self) -> float:
        """Another worker may have computed with older zone data, or we have newer ones now."""
        stale = await self._database.recompute_schedules(zones.VERSION)
        return 0 if stale >= FULL else jittered(MAINTENANCE_INTERVAL)

    async def _resolve_dependencies(self) -> float:
        await self._database.resolve_dependencies()
        return jittered(DUTY_INTERVAL)

    async def _maintain(self) -> float:
        await self._database.maintain()
        return jittered(MAINTENANCE_INTERVAL)


def version() -> str:
    """The version of this installation."""
    try:
        return metadata.version("pgsched")
    except metadata.PackageNotFoundError:  # a checkout on the path
        return "checkout"


def is_refusal(reason: str) -> bool:
    """Whether a server is there and does not want us: waiting would not help."""
    return bool(re.search(r"FATAL:.*(authentication|password|does not exist|pg_hba)", reason))


async def wait_for_database(dsn: str) -> None:
    """
    Wait until the database answers and has the schema of this version.

    Raises:
        ConfigError: It answers, and refuses the user, the password or the database.
        MigrationError: It answers, and the schema is missing, behind, or too new.
    """
    delay = 0.5
    while True:
        try:
            await asyncio.to_thread(migrator.require_current, dsn)
        except psycopg.OperationalError as exc:
            reason = str(exc).strip().partition("\n")[0]
            if is_refusal(reason):
                raise ConfigError(f"PGSCHED_DATABASE_URL: {reason}") from exc
            log.warning("no database at %s yet: %s", masked_dsn(dsn), reason)
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
    waiting = asyncio.create_task(wait_for_database(settings.database_url))
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
