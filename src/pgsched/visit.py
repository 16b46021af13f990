"""One connection of our own, for a command that comes and goes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import psycopg

from pgsched import pooler
from pgsched.db import SESSION_OPTIONS, Connection
from pgsched.errors import Unavailable

# Seconds to connect: somebody waits at a terminal.
CONNECT_TIMEOUT = 10


@contextlib.asynccontextmanager
async def visit(
    dsn: str, *, is_pooled: bool = False, autocommit: bool = False
) -> AsyncIterator[Connection]:
    """
    Connect; without *autocommit* all is one transaction, which what is raised rolls back.

    Times are in UTC, in the texts of the database too, unless *is_pooled*: a
    pooler in transaction mode takes no options, and has no prepared statements.

    Raises:
        Unavailable: The database cannot be reached; in one line.
    """
    kwargs: dict[str, Any] = {
        "application_name": "pgsched",
        "client_encoding": "utf8",
        "connect_timeout": CONNECT_TIMEOUT,
    }
    if is_pooled:
        kwargs["prepare_threshold"] = None
    else:
        kwargs["options"] = SESSION_OPTIONS
    try:
        connection = await psycopg.AsyncConnection.connect(dsn, autocommit=autocommit, **kwargs)
    except psycopg.OperationalError as exc:
        reason = " ".join(str(exc).split())
        if pooler.refuses_options(reason):
            reason = f"{reason}. Behind PgBouncer in transaction mode: {pooler.ADVICE}"
        raise Unavailable(f"no connection to the database: {reason}") from exc
    async with connection:
        yield connection
