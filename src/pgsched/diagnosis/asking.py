"""How the doctor asks: rows of one query, errors as ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import psycopg
from psycopg.rows import TupleRow, tuple_row

from pgsched.db import Session, connection_of, translated


async def value(session: Session, query: str, given: Sequence[object] = ()) -> Any:
    """The first column of the first row."""
    return (await rows(session, query, given))[0][0]


async def rows(session: Session, query: str, given: Sequence[object] = ()) -> list[TupleRow]:
    """All rows, as tuples."""
    connection = await connection_of(session)
    with translated():
        cursor = psycopg.AsyncCursor(connection, row_factory=tuple_row)
        await cursor.execute(cast("Any", query), given)
        return await cursor.fetchall()
