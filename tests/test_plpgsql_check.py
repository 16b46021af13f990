"""Every function in PL/pgSQL, as plpgsql_check sees it, on a server that has the extension."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

AVAILABLE = "select from pg_available_extensions where name = 'plpgsql_check'"
# It leaves its loop by RETURN alone.
ENDLESS = ("hold_key", "control reached end of function without RETURN")
FOUND = r"""
    select p.proname::text, c.level, c.message, c.lineno
    from pg_proc as p
    join pg_language as l
      on l.oid = p.prolang
    cross join lateral plpgsql_check_function_tb(
      p.oid, fatal_errors => false, extra_warnings => true, security_warnings => true
    ) as c
    where p.pronamespace = 'pgsched'::regnamespace
      and l.lanname = 'plpgsql'
      and p.prorettype <> 'trigger'::regtype
      -- An array begins as '{}'.
      and coalesce(c.detail, '') !~ '^cast "text" value to "[a-z]+\[\]" type$'
    order by 1, 4
"""


def test_there_is_nothing_to_say_about_a_function(postgresql: psycopg.Connection[Any]) -> None:
    if postgresql.execute(AVAILABLE).fetchone() is None:
        pytest.skip("this server has no plpgsql_check")
    postgresql.execute("create extension plpgsql_check")

    found = postgresql.execute(FOUND).fetchall()

    lines = [
        f"{name}: {level}: {message} (line {line})"
        for name, level, message, line in found
        if (name, message) != ENDLESS
    ]
    assert not lines, "\n".join(lines)
