"""What a caller has in the way to the catalog is not found by a function of ours."""

from __future__ import annotations

import contextlib
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.security.test_names import Function, fresh_ids, functions, needed

Connection = psycopg.Connection[Any]

PINNED = "search_path=pg_catalog, pg_temp"
# Functions that somebody but the owner may call, or has called by writing to a table.
REACHED = """
    select p.oid::regprocedure::text,
      p.prosecdef, coalesce(p.proconfig, '{}'), p.prosqlbody is not null
    from pg_proc as p
    where p.pronamespace = 'pgsched'::regnamespace
      and (
        exists (select from aclexplode(p.proacl) as a where a.grantee <> p.proowner)
        or exists (
          select from pg_trigger as t
          join pg_class as c on c.oid = t.tgrelid
          cross join aclexplode(c.relacl) as a
          where t.tgfoid = p.oid
            and a.grantee <> c.relowner
            and a.privilege_type in ('INSERT', 'UPDATE', 'DELETE')
        )
      )
    order by 1
"""


def test_what_others_reach_looks_in_the_catalog_alone(postgresql: Connection) -> None:
    """Either by its search_path, or since its body was read when it was made."""
    found = postgresql.execute(REACHED).fetchall()

    assert len(found) > 60
    assert [
        name for name, is_definer, config, _ in found if is_definer and PINNED not in config
    ] == []
    assert [
        name for name, _, config, is_read in found if PINNED not in config and not is_read
    ] == []


# Twins of what the catalog has, in a schema that comes before it.

FUNCTIONS = """
    select distinct p.proname::text, pg_get_function_identity_arguments(p.oid),
      pg_get_function_result(p.oid)
    from pg_proc as p
    where p.pronamespace = 'pg_catalog'::regnamespace
      and p.prokind in ('f', 'a')
      and p.proname in (
        select w.word[1]
        from pg_proc as o
        cross join regexp_matches(
          pg_get_functiondef(o.oid), '\\m([a-z_0-9]+)\\s*\\(', 'g'
        ) as w (word)
        where o.pronamespace = 'pgsched'::regnamespace
      )
"""
OPERATORS = """
    select o.oprname::text, format_type(o.oprleft, null), format_type(o.oprright, null),
      format_type(o.oprresult, null)
    from pg_operator as o
    where o.oprnamespace = 'pg_catalog'::regnamespace
      and o.oprkind = 'b'
      and o.oprleft::regtype = any (%(types)s::regtype[])
      and o.oprright::regtype = any (%(types)s::regtype[])
"""
TYPES = (
    *(
        "text",
        "name",
        "jsonb",
        "uuid",
        "integer",
        "bigint",
        "smallint",
        "numeric",
        "boolean",
        "oid",
    ),
    *("double precision", "interval", "timestamptz", "anyarray", "anycompatible", "regclass"),
    *("anycompatiblearray", "record", "json", "bytea"),
)
# Of functions that take anything, which no twin can.
CLOSER = {
    "jsonb_build_object": ["text, uuid", "text, text", "text, text, text, text", "text, jsonb"],
    "format": ["text, text", "text, uuid", "text, text, text", "text, integer"],
    "num_nonnulls": ["text, text", "interval, text"],
    "concat_ws": ["text, text, text"],
    "to_jsonb": ["text", "timestamptz"],
}
SPRING = "language plpgsql as $$ begin raise exception sqlstate 'TRAP1'; end $$"
PATH = "set search_path = trap, pg_catalog, public"
SPRUNG = "TRAP1"


@pytest.fixture
def db(postgresql: Connection) -> Connection:
    """A superuser among twins of whatever our functions call."""
    postgresql.autocommit = True
    postgresql.execute("select pgsched.define_task('job')")
    postgresql.execute("select pgsched.schedule_cron('job', '0 3 * * *', p_name => 'nightly')")
    postgresql.execute("create schema trap")
    postgresql.execute("grant usage on schema trap to public")
    assert set_traps(postgresql) > 400
    return postgresql


def set_traps(db: Connection) -> int:
    given = db.execute(FUNCTIONS).fetchall()
    given += [(name, types, "text") for name, all_types in CLOSER.items() for types in all_types]
    made = sum(make(db, "function trap.{}(%s) returns %s" % row[1:], row[0]) for row in given)  # noqa: UP031
    operators = db.execute(OPERATORS, {"types": list(TYPES)}).fetchall()
    for number, (name, left, right, result) in enumerate(operators):
        twin = f"twin_{number}"
        if make(db, f"function trap.{{}}({left}, {right}) returns {result}", twin):
            with contextlib.suppress(psycopg.Error):
                db.execute(
                    f"create operator trap.{name} (leftarg = {left}, rightarg = {right},"
                    f" function = trap.{twin})".encode()
                )
                made += 1
    return made


def make(db: Connection, head: str, name: str) -> bool:
    """Whether such a twin can be."""
    statement = sql.SQL("create ") + sql.SQL(head).format(sql.Identifier(name))
    try:
        db.execute(statement + sql.SQL(f" {SPRING}"))
    except psycopg.Error:
        return False
    return True


def state_of(db: Connection, statement: str, given: Any = None) -> str | None:
    try:
        with db.transaction(force_rollback=True):
            db.execute(statement.encode(), given)
    except psycopg.Error as exc:
        return exc.sqlstate
    return None


@pytest.mark.own_database
def test_no_function_falls_into_a_trap(db: Connection) -> None:
    """Each documented function, called where its caller's own now(), = and so on come first."""
    ids = fresh_ids(db)
    tried = [
        (function, statement_of(function), needed(function, ids)) for function in functions(db)
    ]
    views = db.execute(
        "select c.oid::regclass::text from pg_class as c"
        " where c.relnamespace = 'pgsched'::regnamespace and c.relkind = 'v'"
    ).fetchall()
    db.execute(PATH)
    for statement in (
        "select now()",
        "select 1 = 1",
        "select jsonb_build_object('a'::text, 'b'::text)",
    ):
        assert state_of(db, statement) == SPRUNG

    went_well = {
        function.name for function, query, given in tried if not state_of(db, query, given)
    }
    sprung = [f.name for f, query, given in tried if state_of(db, query, given) == SPRUNG]
    sprung += [view for (view,) in views if state_of(db, f"select from {view}") == SPRUNG]
    sprung += [change for change in CHANGES if state_of(db, change) == SPRUNG]

    assert sprung == []
    assert len(went_well) > 40


# What an operator may write by hand, which has triggers at work.
CHANGES = (
    "insert into pgsched.queues (name) values ('mail')",
    "update pgsched.queues set is_paused = true",
    "delete from pgsched.queues",
    "insert into pgsched.external_systems (name) values ('mailer')",
    "update pgsched.external_systems set batch_size = 2",
    "insert into pgsched.task_definitions (name) values ('other')",
    "update pgsched.task_definitions set priority = 1",
    "delete from pgsched.task_definitions",
    "update pgsched.schedules set priority = 1",
    "update pgsched.schedules set cron_expr = '0 4 * * *'",
    "delete from pgsched.schedules",
)


def statement_of(function: Function) -> str:
    required = list(function.arguments)[: function.required]
    slots = ", ".join(f"{name} => %({name})s::{function.arguments[name]}" for name in required)
    head = "call" if function.is_procedure else "select * from"
    return f"{head} pgsched.{function.name}({slots})"
