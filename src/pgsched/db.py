"""
The only module that speaks SQL: one function here for one function there.

Everything that changes state is a function of the schema `pgsched`; what is
here carries arguments in and rows out, and translates errors.
"""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast
from uuid import UUID

import orjson
import psycopg
from psycopg.adapt import Buffer, Loader
from psycopg.rows import TupleRow, class_row, dict_row, tuple_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from pgsched.errors import BY_SQLSTATE, Invalid, NotFound, Unavailable
from pgsched.models import (
    ClaimedTask,
    DueSchedule,
    Json,
    ReportAnswer,
    ScheduledTask,
    Target,
    TaskDefinition,
)

Row = TypeVar("Row")
Connection = psycopg.AsyncConnection[TupleRow]
# What a caller hands us: a psycopg connection, or a SQLAlchemy AsyncSession on psycopg.
Session = Any

CHANNEL = "pgsched"


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn errors of the database into those of `pgsched.errors`."""
    try:
        yield
    except PoolTimeout as exc:
        raise Unavailable(f"no connection to the database: {exc}") from exc
    except (psycopg.OperationalError, psycopg.InterfaceError) as exc:
        raise Unavailable(f"the database cannot be reached: {exc}".strip()) from exc
    except psycopg.DataError as exc:
        raise Invalid(str(exc).partition("\n")[0]) from exc
    except psycopg.Error as exc:
        ours = BY_SQLSTATE.get(exc.sqlstate or "")
        if ours is None:
            raise
        diag = exc.diag
        raise ours(". ".join(filter(None, (diag.message_primary, diag.message_hint)))) from exc


async def connection_of(session: Session) -> Connection:
    """
    The psycopg connection behind *session*, inside its transaction.

    Raises:
        Invalid: It is neither a psycopg AsyncConnection nor a SQLAlchemy
            AsyncSession (or AsyncConnection) on psycopg.
    """
    if isinstance(session, psycopg.AsyncConnection):
        return session
    if hasattr(session, "get_bind"):  # an AsyncSession; its connection() begins the transaction
        session = session.connection()
        if inspect.isawaitable(session):
            session = await session
    if hasattr(session, "get_raw_connection"):
        driver = (await session.get_raw_connection()).driver_connection
        if isinstance(driver, psycopg.AsyncConnection):
            return driver
    raise Invalid(
        "session must be a psycopg AsyncConnection, or a SQLAlchemy AsyncSession of a "
        f"postgresql+psycopg engine, not {type(session).__name__}"
    )


async def call(session: Session, function: str, **arguments: object) -> Any:
    """Call a SQL function in the caller's transaction; an argument left None has its default."""
    given = {name: _adapt(value) for name, value in arguments.items() if value is not None}
    named = ", ".join(f"{name} => %({name})s" for name in given)
    connection = await connection_of(session)
    with translated():
        # Whatever kind of cursor and row the caller's connection makes.
        cursor = psycopg.AsyncCursor(connection, row_factory=tuple_row)
        await cursor.execute(f"select pgsched.{function}({named})", given)
        row = await cursor.fetchone()
    return row[0] if row else None


def _adapt(value: object) -> object:
    return Jsonb(value, dumps=_dumps) if isinstance(value, dict | list) else value


def _dumps(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:
        pass
    try:  # jsonb holds integers of any size, orjson stops at 64 bits
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as exc:
        raise Invalid(f"not JSON: {exc}") from exc


async def report_statuses(session: Session, reports: list[dict[str, Json]]) -> list[ReportAnswer]:
    """One answer for each report, in their order."""
    query = "select a.* from pgsched.report_statuses(%s) as a order by a.report_index"
    connection = await connection_of(session)
    with translated():
        cursor = psycopg.AsyncCursor(connection, row_factory=tuple_row)
        await cursor.execute(query, [Jsonb(reports, dumps=_dumps)])
        return [ReportAnswer(row[0], str(row[1]), *row[2:]) for row in await cursor.fetchall()]


async def get_task(session: Session, task_id: str) -> ScheduledTask:
    """
    One task, unfinished or finished.

    Raises:
        NotFound: There is no such task.
    """
    tasks = await _select(
        session,
        ScheduledTask,
        "select * from pgsched.tasks where id = %s",
        [_uuid("task_id", task_id)],
    )
    if not tasks:
        raise NotFound(f"task {task_id} does not exist")
    return tasks[0]


async def list_tasks(
    session: Session,
    *,
    status: str | None = None,
    queue: str | None = None,
    trace_id: str | None = None,
    before: str | None = None,
    limit: int = 100,
) -> list[ScheduledTask]:
    """Tasks, the newest first; *before* is the last id of the page before."""
    query = """
        select * from pgsched.tasks as t
        where (%(status)s::text is null or t.status = %(status)s)
          and (%(queue)s::text is null or t.queue = %(queue)s)
          and (%(trace_id)s::uuid is null or t.trace_id = %(trace_id)s)
          and (%(before)s::uuid is null or t.id < %(before)s)
        order by t.id desc
        limit %(limit)s
    """
    given = {
        "status": status,
        "queue": queue,
        "trace_id": _uuid("trace_id", trace_id),
        "before": _uuid("before", before),
        "limit": limit,
    }
    return await _select(session, ScheduledTask, query, given)


async def list_definitions(session: Session) -> list[TaskDefinition]:
    """The definitions that are not temporary, by name."""
    query = "select * from pgsched.task_definitions where not is_temporary order by name"
    return await _select(session, TaskDefinition, query, [])


async def get_definition(session: Session, name_or_id: str) -> TaskDefinition:
    """
    The definition of that name or id.

    Raises:
        NotFound: There is none.
    """
    query = "select (d).* from pgsched.find_definition(%s) as d"
    return (await _select(session, TaskDefinition, query, [name_or_id]))[0]


async def list_rows(session: Session, view: str) -> list[dict[str, Any]]:
    """All rows of one of the small views, as dicts."""
    connection = await connection_of(session)
    with translated():
        cursor = psycopg.AsyncCursor(connection, row_factory=dict_row)
        await cursor.execute(f"select * from pgsched.{view}")  # noqa: S608
        return await cursor.fetchall()


async def _select(session: Session, model: type[Row], query: str, given: Any) -> list[Row]:
    connection = await connection_of(session)
    with translated():
        cursor = psycopg.AsyncCursor(connection, row_factory=class_row(model))
        await cursor.execute(cast("Any", query), given)
        return await cursor.fetchall()


def _uuid(field: str, value: str | None) -> UUID | None:
    try:
        return None if value is None else UUID(value)
    except ValueError as exc:
        raise Invalid(f"{field} must be a UUID, not {value!r}") from exc


class _RawJson(Loader):
    """Hand jsonb on as it is: the worker only copies it into the push."""

    def load(self, data: Buffer) -> orjson.Fragment:
        return orjson.Fragment(bytes(data))


class _Text(Loader):
    def load(self, data: Buffer) -> str:
        return str(data, "utf-8")


async def _configure(connection: Connection) -> None:
    connection.adapters.register_loader("jsonb", _RawJson)
    connection.adapters.register_loader("uuid", _Text)


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
            # Views look costly to the planner, and compiling them takes a hundred times their run.
            "options": "-c timezone=UTC -c jit=off",
            "connect_timeout": 5,
            "keepalives_idle": 10,
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
        with translated():
            async with self._pool.connection() as connection:
                yield connection

    async def _rows(self, query: str, given: Sequence[object] = ()) -> list[TupleRow]:
        async with self.connection() as connection:
            cursor = await connection.execute(cast("Any", query), given)
            return await cursor.fetchall()

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
        query = """
            select h.horizon, c.*
            from (select pgsched.now() - interval '100 milliseconds' as horizon) as h
            left join lateral pgsched.claim_due_tasks(%s, %s, %s, %s) as c on true
        """
        given = [worker_id, limit, queues, Jsonb(cursors, dumps=orjson.dumps)]
        rows = await self._rows(query, given)
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
        """One answer for each report, in their order."""
        async with self.connection() as connection:
            return await report_statuses(connection, reports)

    # When to look, and where things go

    async def next_due_in(self, queues: list[str]) -> timedelta | None:
        return cast(
            "timedelta | None", await self._value("select pgsched.next_due_in(%s)", [queues])
        )

    async def dispatch_targets(self) -> list[Target]:
        rows = await self._rows("select * from pgsched.dispatch_targets()")
        return [Target._make(row) for row in rows]

    # Schedules

    async def due_schedules(self) -> list[DueSchedule]:
        rows = await self._rows("select * from pgsched.due_schedules()")
        return [DueSchedule._make(row) for row in rows]

    async def fire_schedules(self, ticks: list[dict[str, Json]]) -> int:
        query = "select pgsched.fire_schedules(%s)"
        return cast("int", await self._value(query, [Jsonb(ticks, dumps=orjson.dumps)]))

    # Duties that any worker may do

    async def expire_deadlines(self) -> int:
        return cast("int", await self._value("select pgsched.expire_deadlines()"))

    async def release_dead_workers(self, worker_id: str) -> int:
        query = "select pgsched.release_dead_workers(%s)"
        return cast("int", await self._value(query, [worker_id]))

    async def maintain(self) -> int:
        return cast("int", await self._value("select pgsched.maintain()"))
