"""
SQL in the caller's session: functions called by name.

Everything that changes state is a function of the schema `pgsched`; this module
and `database.py` carry arguments in and rows out, and translate errors, and
`reading.py` reads for people.  No other one speaks SQL.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast
from uuid import UUID

import orjson
import psycopg
from psycopg.rows import AsyncRowFactory, TupleRow, tuple_row
from psycopg.types.json import Jsonb
from psycopg_pool import PoolTimeout

from pgsched.errors import BY_SQLSTATE, Invalid, ReadOnly, Unavailable
from pgsched.models import Json, ReportAnswer

Row = TypeVar("Row")
# The application_name of a worker's session that listens, by which others know it.
LISTENER = "pgsched listen"
# Views look costly to the planner, and compiling them takes a hundred times their run.
SESSION_OPTIONS = "-c timezone=UTC -c datestyle=ISO -c intervalstyle=postgres -c jit=off"
Connection = psycopg.AsyncConnection[TupleRow]
# What comes of a statement that was prepared in a session which a pooler gave to others.
_NOT_PREPARED = (
    psycopg.errors.InvalidSqlStatementName,
    psycopg.errors.DuplicatePreparedStatement,
)
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
        raise ReadOnly(f"the database is read-only: {exc.diag.message_primary}") from exc
    except _NOT_PREPARED as exc:
        raise Unavailable(
            f"the session is another one than before ({exc.diag.message_primary}), as behind"
            " PgBouncer in transaction mode: set PGSCHED_POLL_ONLY=true, or prepare_threshold=None"
            " of a connection of your own"
        ) from exc
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
    given, named = _named(arguments)
    rows = await fetch(session, f"select pgsched.{function}({named})", given, tuple_row)
    return rows[0][0] if rows else None


async def call_row(session: Session, function: str, **arguments: object) -> TupleRow:
    """The same of a function that returns one row of several columns."""
    given, named = _named(arguments)
    query = f"select found.* from pgsched.{function}({named}) as found"  # noqa: S608
    (row,) = await fetch(session, query, given, tuple_row)
    return row


def _named(arguments: Mapping[str, object]) -> tuple[dict[str, object], str]:
    given = {name: _adapt(value) for name, value in arguments.items() if value is not None}
    return given, ", ".join(f"{name} => %({name})s" for name in given)


async def fetch(
    session: Session,
    query: str,
    given: Sequence[object] | Mapping[str, object],
    row_factory: AsyncRowFactory[Row],
) -> list[Row]:
    """The rows of a query in the caller's transaction."""
    connection = await connection_of(session)
    with translated():
        # Whatever kind of cursor and row the caller's connection makes.
        cursor = psycopg.AsyncCursor(connection, row_factory=row_factory)
        await cursor.execute(cast("Any", query), given)
        return await cursor.fetchall()


def _adapt(value: object) -> object:
    if isinstance(value, list) and all(isinstance(item, UUID | str) for item in value):
        return value  # an array, and no JSON
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


async def require_primary(session: Session) -> None:
    """
    Make sure that the database takes writes.

    Raises:
        ReadOnly: It does not.
    """
    query = "select current_setting('transaction_read_only')::boolean"
    if (await fetch(session, query, (), tuple_row))[0][0]:
        raise ReadOnly("the database is read-only")


async def schedule_many(session: Session, tasks: bytes) -> list[str]:
    """The ids of the tasks of a JSON array, in its order."""
    # As one text, which costs less to read than so many UUIDs.
    query = "select array_to_string(pgsched.schedule_many(%s), ' ')"
    rows = await fetch(session, query, [Jsonb(tasks, dumps=bytes)], tuple_row)
    return str(rows[0][0]).split()


@contextlib.asynccontextmanager
async def together(session: Session) -> AsyncIterator[None]:
    """Have several calls committed together also where each would be a transaction of its own."""
    connection = await connection_of(session)
    status = connection.info.transaction_status
    if connection.autocommit and status == psycopg.pq.TransactionStatus.IDLE:
        with translated():
            async with connection.transaction():
                yield
    else:
        yield


async def report_statuses(session: Session, reports: list[dict[str, Json]]) -> list[ReportAnswer]:
    """One answer for each report, in their order."""
    query = "select a.* from pgsched.report_statuses(%s) as a order by a.report_index"
    rows = await fetch(session, query, [Jsonb(reports, dumps=dumps)], tuple_row)
    return [ReportAnswer(row[0], str(row[1]), *row[2:]) for row in rows]
