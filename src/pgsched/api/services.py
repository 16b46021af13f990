"""What the endpoints work with: the services, and connections to the database."""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import AsyncIterator
from typing import Annotated, cast

import psycopg
from fastapi import Depends, Request

from pgsched import db, migrator, reading
from pgsched.api.gatherer import Gatherer
from pgsched.api.metrics import ApiMetrics
from pgsched.control import ScheduleControl
from pgsched.database import Database
from pgsched.db import Connection
from pgsched.errors import ReadOnly, Unavailable
from pgsched.lifecycle import LifecycleService
from pgsched.loops import Trouble
from pgsched.models import Json, ReportAnswer
from pgsched.scheduler import SchedulerService
from pgsched.settings import Settings

CONNECTIONS = 10
# How long a request waits for a connection, in seconds: callers do not wait long either.
CONNECTION_WAIT = 3.0


class Services:
    """One for each app."""

    def __init__(self, settings: Settings) -> None:
        self.database = Database(
            settings.database_url,
            size=CONNECTIONS,
            is_pooled=settings.poll_only,
            reconnect=CONNECTION_WAIT / 2,
        )
        self.scheduler = SchedulerService(settings)
        self.lifecycle = LifecycleService(settings)
        self.control = ScheduleControl()
        self.gatherer = Gatherer(self.report)
        self.metrics = ApiMetrics(self.transaction)
        self.trouble = Trouble("database")

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """In autocommit, for what reads or is one statement."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(CONNECTION_WAIT):
                    connection = await self._living_connection(stack)
            except TimeoutError:
                raise Unavailable("the database cannot be reached, or all is busy") from None
            yield connection

    async def _living_connection(self, stack: contextlib.AsyncExitStack) -> Connection:
        """The pool hands out what a restart of the database has cut; that goes back closed."""
        while True:
            connection = await stack.enter_async_context(self.database.connection())
            if _is_alive(connection):
                return connection
            await connection.close()
            await stack.aclose()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """For what writes."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def report(self, reports: list[dict[str, Json]]) -> list[ReportAnswer]:
        """Apply reports in a transaction of their own, which keeps the events of those refused."""
        async with self.connection() as connection:
            answers = await db.report_statuses(connection, reports)
        self.metrics.count_reports(reports, answers)
        return answers

    async def unready_because(self) -> str | None:
        """Why nothing would work just now; None when it would."""
        try:
            async with self.connection() as connection, asyncio.timeout(CONNECTION_WAIT):
                ledger = await reading.list_rows(connection, "schema_migrations")
                await db.require_primary(connection)
        except ReadOnly:
            return "the database is read-only"
        except (Unavailable, TimeoutError):
            return "the database cannot be reached"
        except psycopg.ProgrammingError:
            return "the schema is missing: run `pgsched migrate`"
        return _schema_problem({row["version"]: row for row in ledger})


def _is_alive(connection: Connection) -> bool:
    """
    Whether the server has said nothing unasked: it does to say goodbye, and then hangs up.

    A look at the socket, not a round trip: as connCheck() of Go's MySQL driver does.
    """
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)


def _schema_problem(ledger: dict[int, dict[str, object]]) -> str | None:
    known = {migration.version: migration.name for migration in migrator.migrations()}
    if missing := [f"{version:03d} {known[version]}" for version in known.keys() - ledger.keys()]:
        return f"the schema lacks {', '.join(sorted(missing))}: run `pgsched migrate`"
    if any(ledger[version]["breaking"] for version in ledger.keys() - known.keys()):
        return "the schema is too new: upgrade pgsched"
    return None


def wired(request: Request) -> Services:
    """The services of the app that the request came to."""
    return cast("Services", request.app.state.services)


async def _wired(request: Request) -> Services:  # FastAPI would run the other in a thread
    return wired(request)


Wired = Annotated[Services, Depends(_wired)]
