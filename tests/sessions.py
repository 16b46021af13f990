"""Sessions of the database of a test; other tests have theirs on the same server."""

from __future__ import annotations

from typing import Any

import psycopg

OWN = "from pg_stat_activity where datname = current_database() and application_name like %s"


def cut_sessions(conn: psycopg.Connection[Any], application: str = "pgsched%") -> None:
    """Have the server cut those of an application, in the midst of whatever they do."""
    conn.execute(f"select pg_terminate_backend(pid) {OWN}".encode(), [application])


def count_sessions(conn: psycopg.Connection[Any], application: str = "pgsched%") -> int:
    return conn.execute(f"select {OWN}".encode(), [application]).rowcount
