"""SQL of the workers: one method for each function they call, over a pool of connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast

import orjson
from psycopg.adapt import Buffer, Loader
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb
from psycopg.types.string import TextLoader
from psycopg_pool import AsyncConnectionPool

from pgsched.db import SESSION_OPTIONS, Connection, dumps, translated
from pgsched.due import DueBackfill, DueGap, DueSchedule, NewFailure
from pgsched.errors import ReadOnly, Unavailable
from pgsched.models import ClaimedTask, Json, ReportAnswer, Target
from pgsched.news import StatusPush

CHANNEL = "pgsched"
# No call takes so long, in seconds, unless nobody answers.
CALL_TIMEOUT = 30.0
# So long before a claim lies the time that comes with it.
HORIZON = timedelta(milliseconds=100)


def _columns(model: type[NamedTuple], alias: str) -> str:
    """The columns by name: a newer schema may have more."""
    return ", ".join(f"{alias}.{name}" for name in model._fields)


_CLAIM = f"""
    select h.horizon, {_columns(ClaimedTask, "c")}
    from (select pgsched.now() - interval '{HORIZON.total_seconds()} seconds' as horizon) as h
    left join lateral pgsched.claim_due_tasks(%s, %s, %s, %s) as c on true
"""  # noqa: S608
_TARGETS = f"select {_columns(Target, 't')} from pgsched.dispatch_targets() as t"  # noqa: S608
_REPORT = f"""
    select {_columns(ReportAnswer, "a")}
    from pgsched.report_statuses(%s) as a where a.code is not null
"""  # noqa: S608
_NEWS = f"select {_columns(StatusPush, 'p')} from pgsched.claim_status_pushes(%s, %s, %s) as p"  # noqa: S608
_NEW_FAILURES = f"select {_columns(NewFailure, 'f')} from pgsched.new_failures(%s, %s) as f"  # noqa: S608
_DUE_SCHEDULES = f"select {_columns(DueSchedule, 's')} from pgsched.due_schedules(%s, %s, %s) as s"  # noqa: S608
_DUE_GAPS = f"select {_columns(DueGap, 'g')} from pgsched.due_gaps() as g"  # noqa: S608
_DUE_BACKFILLS = f"select {_columns(DueBackfill, 'b')} from pgsched.due_backfills() as b"  # noqa: S608


class _RawJson(Loader):
    """Hand jsonb on as it is: the worker only copies it into the push."""

    def load(self, data: Buffer) -> orjson.Fragment:
        return orjson.Fragment(bytes(data))


async def _configure(connection: Connection) -> None:
    connection.adapters.register_loader("jsonb", _RawJson)
    connection.adapters.register_loader("uuid", TextLoader)


class Database:
    """
    The functions that workers call, over a pool of autocommit connections.

    Raises:
        Unavailable: From every method, when the database cannot be reached.
    """

    def __init__(
        self, dsn: str, *, size: int = 4, is_pooled: bool = False, reconnect: float = 30
    ) -> None:
        """
        Args:
            dsn: Conninfo or URL.
            size: Connections at most.
            is_pooled: True behind a pooler in transaction mode: no prepared statements.
            reconnect: Seconds of ever rarer attempts, after which the next caller makes the next.
        """
        kwargs: dict[str, Any] = {
            "autocommit": True,
            "application_name": "pgsched",
            "options": SESSION_OPTIONS,
            "client_encoding": "utf8",
            "connect_timeout": 5,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20000,
        }
        if is_pooled:
            del kwargs["options"]
            kwargs["prepare_threshold"] = None
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            dsn,
            open=False,
            min_size=1,
            max_size=size,
            timeout=10,
            kwargs=kwargs,
            configure=_configure,
            reconnect_timeout=reconnect,
        )

    async def open(self) -> None:
        """Start connecting; does not wait for the database to be there."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        await self._pool.close()

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        try:
            with translated():
                async with self._pool.connection() as connection:
                    yield connection
        except ReadOnly:
            await self._pool.drain()  # it would keep them; the primary is another one now
            raise

    async def _rows(self, query: str, given: Sequence[object] = ()) -> list[TupleRow]:
        try:
            async with asyncio.timeout(CALL_TIMEOUT), self.connection() as connection:
                cursor = await connection.execute(cast("Any", query), given)
                return await cursor.fetchall()
        except TimeoutError as exc:
            raise Unavailable(f"the database did not answer within {CALL_TIMEOUT:g} s") from exc

    async def _value(self, query: str, given: Sequence[object] = ()) -> Any:
        return (await self._rows(query, given))[0][0]

    # A worker and its lease

    async def register_worker(
        self, hostname: str, pid: int, version: str, queues: list[str] | None
    ) -> str:
        query = "select pgsched.register_worker(%s, %s, %s, %s)"
        return cast("str", await self._value(query, [hostname, pid, version, queues]))

    async def heartbeat(self, worker_id: str) -> timedelta:
        return cast("timedelta", await self._value("select pgsched.heartbeat(%s)", [worker_id]))

    async def release_worker(self, worker_id: str) -> int:
        return cast("int", await self._value("select pgsched.release_worker(%s)", [worker_id]))

    # The way of a task

    async def claim(
        self, worker_id: str, limit: int, queues: list[str], cursors: Json
    ) -> tuple[datetime, list[ClaimedTask]]:
        """Claim due tasks; with them a time safely before the claim's own."""
        given = [worker_id, limit, queues, Jsonb(cursors, dumps=orjson.dumps)]
        rows = await self._rows(_CLAIM, given)
        horizon = rows[0][0]
        if rows[0][1] is None:
            return horizon, []
        return horizon, [ClaimedTask._make(row[1:]) for row in rows]

    async def settle(self, settlements: list[dict[str, Json]]) -> dict[str, str]:
        """What could not be applied: STALE or LOCKED by task id."""
        query = "select task_id, result from pgsched.settle_tasks(%s)"
        rows = await self._rows(query, [Jsonb(settlements, dumps=orjson.dumps)])
        return dict(cast("list[tuple[str, str]]", rows))

    async def report(self, reports: list[dict[str, Json]]) -> list[ReportAnswer]:
        """What was refused, and why."""
        rows = await self._rows(_REPORT, [Jsonb(reports, dumps=dumps)])
        return [ReportAnswer._make(row) for row in rows]

    async def claim_news(self, worker_id: str, limit: int, queues: list[str]) -> list[StatusPush]:
        rows = await self._rows(_NEWS, [worker_id, limit, queues])
        return [StatusPush._make(row) for row in rows]

    async def settle_news(self, results: list[dict[str, Json]]) -> int:
        query = "select pgsched.settle_status_pushes(%s)"
        return cast("int", await self._value(query, [Jsonb(results, dumps=orjson.dumps)]))

    # When to look, and where things go

    async def next_due_in(self, queues: list[str]) -> timedelta | None:
        return cast(
            "timedelta | None", await self._value("select pgsched.next_due_in(%s)", [queues])
        )

    async def dispatch_targets(self) -> list[Target]:
        rows = await self._rows(_TARGETS)
        return [Target._make(row) for row in rows]

    async def open_breaker(self, system: str, reason: str, worker_id: str) -> datetime | None:
        """Until when it is open; None when another session has locked the system."""
        query = "select pgsched.open_breaker(%s, %s, %s)"
        return cast("datetime | None", await self._value(query, [system, reason, worker_id]))

    async def close_breaker(self, system: str, worker_id: str) -> bool:
        query = "select pgsched.close_breaker(%s, %s)"
        return cast("bool", await self._value(query, [system, worker_id]))

    # Schedules

    async def due_schedules(self, limit: int, after: DueSchedule | None) -> list[DueSchedule]:
        """Up to *limit* of them, those behind *after*."""
        behind = (after.next_run_at, after.schedule_id) if after else (None, None)
        rows = await self._rows(_DUE_SCHEDULES, [limit, *behind])
        return [DueSchedule._make(row) for row in rows]

    async def fire_schedules(self, ticks: list[dict[str, Json]]) -> int:
        query = "select pgsched.fire_schedules(%s)"
        return cast("int", await self._value(query, [Jsonb(ticks, dumps=orjson.dumps)]))

    async def recompute_schedules(self, tz_version: str) -> int:
        query = "select pgsched.recompute_schedules(%s)"
        return cast("int", await self._value(query, [tz_version]))

    async def due_gaps(self) -> list[DueGap]:
        rows = await self._rows(_DUE_GAPS)
        return [DueGap._make(row) for row in rows]

    async def close_gap(self, step: dict[str, Json]) -> None:
        await self._rows("select pgsched.close_gap(%s)", [Jsonb(step, dumps=orjson.dumps)])

    async def due_backfills(self) -> list[DueBackfill]:
        rows = await self._rows(_DUE_BACKFILLS)
        return [DueBackfill._make(row) for row in rows]

    async def run_backfill(self, step: dict[str, Json]) -> int:
        query = "select pgsched.run_backfill(%s)"
        return cast("int", await self._value(query, [Jsonb(step, dumps=orjson.dumps)]))

    # Duties that any worker may do

    async def expire_deadlines(self) -> int:
        return cast("int", await self._value("select pgsched.expire_deadlines()"))

    async def release_dead_workers(self, worker_id: str) -> int:
        query = "select pgsched.release_dead_workers(%s)"
        return cast("int", await self._value(query, [worker_id]))

    async def resolve_dependencies(self) -> int:
        return cast("int", await self._value("select pgsched.resolve_dependencies()"))

    async def new_failures(self, worker_id: str, after: datetime | None) -> list[NewFailure]:
        rows = await self._rows(_NEW_FAILURES, [worker_id, after])
        return [NewFailure._make(row) for row in rows]

    async def maintain(self) -> int:
        return cast("int", await self._value("select pgsched.maintain()"))
