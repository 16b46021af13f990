"""Names for the completion of a shell, which waits: on a thread that it may leave behind."""

from __future__ import annotations

import threading
from typing import Any

import psycopg

# Seconds a shell waits, with the connection and all.
PATIENCE = 1.0
MOST = 200

_QUERIES = {
    "definition": "select d.name from pgsched.task_definitions as d where not d.is_temporary",
    "queue": "select q.name from pgsched.queues as q where true",
    "schedule": "select s.name from pgsched.schedules as s where not s.is_own",
    "system": "select e.name from pgsched.external_systems as e where true",
}


def list_names(dsn: str, kind: str, prefix: str) -> list[str]:
    """
    The names of that kind that begin with *prefix*, up to 200; none when the database is slow.

    *kind* is definition, queue, schedule or system.  Names with blanks or
    control characters are left out: no shell completes them.
    """
    found: list[str] = []
    # A daemon: neither a lookup of a host nor a connection can be cut short.
    asking = threading.Thread(target=_ask, args=(dsn, kind, prefix, found), daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return [name for name in list(found) if name.isprintable() and " " not in name]


def _ask(dsn: str, kind: str, prefix: str, found: list[str]) -> None:
    query = f"{_QUERIES[kind]} and starts_with(name, %s) order by name limit %s"
    kwargs: dict[str, Any] = {"application_name": "pgsched", "connect_timeout": 2}
    try:
        with psycopg.connect(dsn, autocommit=True, prepare_threshold=None, **kwargs) as connection:
            rows = connection.execute(query.encode(), [prefix, MOST]).fetchall()
    except psycopg.Error:
        return
    found.extend(row[0] for row in rows)
