"""
SQL in the caller's session: functions called by name, and rows read for people.

Everything that changes state is a function of the schema `pgsched`; this module
and `database.py` carry arguments in and rows out, and translate errors.  No
other one speaks SQL.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import re
from collections.abc import Iterator
from typing import Any, TypeVar, cast
from uuid import UUID

import orjson
import psycopg
from psycopg.rows import TupleRow, class_row, dict_row, tuple_row
from psycopg.types.json import Jsonb
from psycopg_pool import PoolTimeout

from pgsched.errors import BY_SQLSTATE, Invalid, NotFound, Unavailable
from pgsched.models import Json, ReportAnswer, ScheduledTask, TaskDefinition

Row = TypeVar("Row")
Connection = psycopg.AsyncConnection[TupleRow]
# What a caller hands us: a psycopg connection, or a SQLAlchemy AsyncSession on psycopg.
Session = Any


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn errors of the database into those of `pgsched.errors`."""
    try:
        yield
    except PoolTimeout as exc:
        raise Unavailable(f"no connection to the database: {exc}") from exc
    except psycopg.errors.ReadOnlySqlTransaction as exc:  # a primary that is one no more
        raise Unavailable(f"the database is read-only: {exc.diag.message_primary}") from exc
    except (psycopg.OperationalError, psycopg.InterfaceError) as exc:
        raise Unavailable(f"the database cannot be reached: {exc}".strip()) from exc
    except psycopg.DataError as exc:
        raise Invalid(str(exc).partition("\n")[0]) from exc
    except psycopg.Error as exc:
        ours = BY_SQLSTATE.get(exc.sqlstate or "")
        if ours is None:
            raise
        diag = exc.diag
        message = ". ".join(filter(None, (diag.message_primary, diag.message_hint)))
        # An argument has the same name here, but for the prefix.
        raise ours(re.sub(r"\bp_([a-z_]+)", r"\1", message)) from exc


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
    return Jsonb(value, dumps=dumps) if isinstance(value, dict | list) else value


def dumps(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:
        pass
    try:  # jsonb holds integers of any size, orjson stops at 64 bits
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise Invalid(f"not JSON: {exc}") from exc


async def report_statuses(session: Session, reports: list[dict[str, Json]]) -> list[ReportAnswer]:
    """One answer for each report, in their order."""
    query = "select a.* from pgsched.report_statuses(%s) as a order by a.report_index"
    connection = await connection_of(session)
    with translated():
        cursor = psycopg.AsyncCursor(connection, row_factory=tuple_row)
        await cursor.execute(query, [Jsonb(reports, dumps=dumps)])
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
