"""`docs/roles.md` is the reviewed list of who may do what; the catalog must say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.roles import ROLES

PAGE = Path(__file__).parents[1] / "docs/roles.md"

EXECUTABLE = """
    select p.proname::text, r.role, 'x'
    from pg_proc as p
    cross join unnest(%s::text[]) as r (role)
    where p.pronamespace = 'pgsched'::regnamespace
      and has_function_privilege('pgsched_' || r.role, p.oid, 'execute')
"""
USABLE = """
    select c.relname::text, r.role, lower(string_agg(w.what, ', ' order by w.n))
    from pg_class as c
    cross join unnest(%s::text[]) as r (role)
    cross join unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE'])
      with ordinality as w (what, n)
    where c.relnamespace = 'pgsched'::regnamespace
      and c.relkind in ('r', 'p', 'v')
      and not c.relispartition
      and has_table_privilege('pgsched_' || r.role, c.oid, w.what)
    group by c.relname, r.role
"""

Rights = dict[tuple[str, str], str]


def rights(conn: psycopg.Connection[Any], query: str) -> Rights:
    rows = conn.execute(query.encode(), [list(ROLES)]).fetchall()
    return {(name, role): what for name, role, what in rows}


def written(heading: str) -> Rights:
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    section = section.partition("\n## ")[0]
    found: Rights = {}
    for name, cells in re.findall(r"^\| `(\w+)` \|(.*)\|$", section, re.MULTILINE):
        for role, cell in zip(ROLES, cells.split("|"), strict=True):
            if cell.strip():
                found[name, role] = cell.strip()
    return found


def as_table(found: Rights) -> str:
    """What the page should say, to be read and copied when it does not."""
    lines = []
    for name in sorted({name for name, _ in found}):
        cells = " | ".join(found.get((name, role), "") for role in ROLES)
        lines.append(f"| `{name}` | {cells} |")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("heading", "query"),
    [("Who may execute what", EXECUTABLE), ("Who may use which table", USABLE)],
)
def test_the_page_lists_every_right(
    postgresql: psycopg.Connection[Any], heading: str, query: str
) -> None:
    there = rights(postgresql, query)

    assert written(heading) == there, f"\n{as_table(there)}\n"
