"""
Notice a pooler that hands the sessions of Postgres around, and say what to do.

Behind one, as PgBouncer in transaction mode, a session keeps nothing from one
transaction to the next: neither LISTEN nor what it has prepared.
"""

from __future__ import annotations

import asyncio

import psycopg

from pgsched.db import SESSION_OPTIONS, Connection
from pgsched.errors import ConfigError

ADVICE = "set PGSCHED_POLL_ONLY=true, or let PGSCHED_DATABASE_URL lead to Postgres itself"
# How often it is tried to get the same session twice: others may take it in between.
TRIES = 5
# Seconds to connect, and to be given a session.
PATIENCE = 5
_PID = "select pg_backend_pid()"


def refuses_options(reason: str) -> bool:
    """Whether a pooler said *reason*: one that cannot promise to keep what we set."""
    return "unsupported startup parameter" in reason


async def refuse(dsn: str) -> None:
    """
    Make sure that sessions are our own; a pooler in session mode gives us such.

    Raises:
        ConfigError: A pooler hands them around, and nobody has said so.
        OperationalError: The database cannot be reached.
    """
    try:
        async with await _connect(dsn) as first:
            if await _is_direct(first):
                return
            async with await _connect(dsn) as second:
                if not await _is_shared(first, second):
                    return
                does = "hands sessions around"
    except psycopg.OperationalError as exc:
        if not refuses_options(str(exc)):
            raise
        does = "takes no options"
    raise ConfigError(
        f"PGSCHED_DATABASE_URL leads through a pooler that {does}, as PgBouncer in transaction"
        f" mode: {ADVICE}"
    )


async def _connect(dsn: str) -> Connection:
    return await psycopg.AsyncConnection.connect(
        dsn,
        autocommit=True,
        prepare_threshold=None,
        options=SESSION_OPTIONS,
        application_name="pgsched",
        connect_timeout=PATIENCE,
    )


async def _is_direct(connection: Connection) -> bool:
    """A pooler tells its clients numbers that are no processes of the server."""
    return await _process_of(connection) == connection.info.backend_pid


async def _is_shared(first: Connection, second: Connection) -> bool:
    """Whether both are served by one session, or one of them by two."""
    seen: set[int] = set()
    for _ in range(TRIES):
        seen.add(await _process_of(first))
        try:
            async with asyncio.timeout(PATIENCE):
                other = await _process_of(second)
        except TimeoutError:  # no session is free while the first has one: it keeps it
            return False
        if other in seen or len(seen) > 1:
            return True
    return False


async def _process_of(connection: Connection) -> int:
    cursor = await connection.execute(_PID)
    return int((await cursor.fetchall())[0][0])
