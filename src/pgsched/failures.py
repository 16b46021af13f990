"""What a failed call of the database says: whether it is out for all, and why it failed."""

from __future__ import annotations

import psycopg

from pgsched.errors import Unavailable


def is_outage(exc: Exception) -> bool:
    """Whether the database is not there for anybody, or is no primary any more."""
    if not isinstance(exc, Unavailable):
        return False
    state = getattr(exc.__cause__, "sqlstate", None)
    return state is None or state.startswith(("08", "57P", "25006"))


def reason_of(exc: BaseException) -> str:
    """
    What went wrong, in one line.

    What Postgres adds to a message may quote a row or a parameter, so only the
    message itself is told, as is the first line of any other error.
    """
    said = str(exc)
    if isinstance(exc, psycopg.Error) and exc.diag.message_primary:
        said = exc.diag.message_primary
    return " ".join(said.partition("\n")[0].split()) or type(exc).__name__
