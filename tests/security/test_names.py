"""Texts made to do harm, through every public function: stored as they are, or refused."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.security.names import NAMES
from tests.test_docs import DOCUMENTED

Connection = psycopg.Connection[Any]

SIGNATURES = """
    select p.proname::text, p.proargnames[1:p.pronargs], p.proargtypes::regtype[]::text[],
      p.pronargs - p.pronargdefaults, p.prokind = 'p'
    from pg_proc as p
    where p.pronamespace = 'pgsched'::regnamespace
      and p.proname = any (%s)
    order by 1
"""
TEXTS = ("text", "text[]", "jsonb", "regclass")
# A value for what a call needs besides, by the argument's name, else by its type.
GIVEN: dict[str, Any] = {
    "p_definition": "job",
    "p_name": "some-name",
    "p_queue": "default",
    "p_external_system": "default",
    "p_schedule": "nightly",
    "p_cron_expression": "0 3 * * *",
    "p_every": "1 hour",
    "p_table_name": "task_events",
    "p_base_url": "http://127.0.0.1:1",
    "p_status": "CANCELLED",
    "p_from": "2026-01-01T00:00Z",
    "p_to": "2026-01-02T00:00Z",
    "integer": 1,
    "bigint": 1,
    "boolean": True,
    "double precision": 1.0,
    "interval": "1 hour",
    "timestamp with time zone": "2026-01-01T00:00Z",
    "text": "x",
    "text[]": ["x"],
    "uuid[]": [],
    "jsonb": Jsonb({}),
}
# What some want beside what they require.
BESIDES: dict[str, dict[str, Any]] = {
    "cancel_tasks": {"p_queue": "default"},
    "retry_tasks": {"p_queue": "default"},
}
# What the objects have that functions take in lists.
KEYS = (
    *("definition", "queue", "input_params", "trace_id", "idempotency_key", "schedule_config"),
    *("task_id", "status", "outcome", "attempt", "delivery_count", "error_msg", "output_ref"),
    *("schedule_id", "expected", "fires", "next_run_at", "sequence", "push_count", "gap_id"),
)
# What keeps a text as it was given, by its argument.
KEPT = {
    ("cancel_task", "p_reason"),
    ("cancel_tasks", "p_reason"),
    ("define_external_system", "p_name"),
    ("define_task", "p_name"),
    ("define_task", "p_content"),
    ("define_task", "p_input_params"),
    ("open_breaker", "p_reason"),
    ("pause_queue", "p_note"),
    ("pause_schedule", "p_note"),
    ("register_worker", "p_hostname"),
    ("register_worker", "p_version"),
    ("report_status", "p_output_ref"),
    ("report_status", "p_error_msg"),
    ("schedule_cron", "p_name"),
    ("schedule_every", "p_name"),
    ("schedule_immediate", "p_input_params"),
    ("schedule_immediate", "p_idempotency_key"),
    ("trigger_schedule", "p_input_params"),
}
# What a worker sends of its own making is read as it is used; nothing of it is applied.
OTHERS: dict[str, set[str | None]] = {"fire_schedules": {"22P02"}}
OURS: set[str | None] = {None, "PS404", "PS409", "PS422", "42501"}


class Function(NamedTuple):
    name: str
    arguments: dict[str, str]
    required: int
    is_procedure: bool


@pytest.fixture
def db(postgresql: Connection) -> Iterator[Connection]:
    """A superuser: what is injected may do all."""
    postgresql.autocommit = True
    postgresql.execute("create table public.canary as select 'alive' as song")
    postgresql.execute("select pgsched.define_task('job')")
    postgresql.execute("select pgsched.schedule_cron('job', '0 3 * * *', p_name => 'nightly')")
    yield postgresql
    assert postgresql.execute("select song from public.canary").fetchall() == [("alive",)]


def functions(db: Connection) -> list[Function]:
    rows = db.execute(SIGNATURES, [sorted(DOCUMENTED)]).fetchall()
    return [
        Function(name, dict(zip(names or [], types, strict=True)), required, is_procedure)
        for name, names, types, required, is_procedure in rows
    ]


def of_type(kind: str, name: str) -> list[Any]:
    """Values of a type that hold the name."""
    match kind:
        case "text[]":
            return [[name]]
        case "jsonb":
            item = dict.fromkeys(KEYS, name)
            known = {"definition": "job", "queue": "default", "schedule_config": {name: name}}
            return [Jsonb({name: name, "nested": [name]}), Jsonb([item]), Jsonb([known])]
        case _:
            return [name]


def call(db: Connection, function: Function, given: dict[str, Any]) -> None:
    slots = ", ".join(f"{name} => %({name})s::{function.arguments[name]}" for name in given)
    head = "call" if function.is_procedure else "select * from"
    db.execute(f"{head} pgsched.{function.name}({slots})".encode(), given)


def attempt(db: Connection, function: Function, given: dict[str, Any]) -> str | None:
    """The SQLSTATE of a call, None when it went well."""
    try:
        with db.transaction():
            call(db, function, given)
    except psycopg.Error as exc:
        return exc.sqlstate
    return None


def needed(function: Function, ids: dict[str, Any]) -> dict[str, Any]:
    """What a call cannot go without."""
    found = dict(BESIDES.get(function.name, {}))
    for name, kind in list(function.arguments.items())[: function.required]:
        value = ids.get(name, GIVEN.get(name, GIVEN.get(kind)))
        found[name] = uuid.uuid4() if value is None else value
    return found


def fresh_ids(db: Connection) -> dict[str, Any]:
    """A task that an executor has accepted, and a worker with a lease."""
    row = db.execute(
        "select pgsched.schedule_immediate('job'), pgsched.register_worker('h', 1, 'v')"
    ).fetchone()
    assert row is not None
    db.execute("select * from pgsched.claim_due_tasks(%s, 100)", [row[1]])
    return {"p_task_id": row[0], "p_worker_id": row[1]}


HOLDERS = """
    select format('select to_jsonb(t) from %s as t', c.oid::regclass)
    from pg_class as c
    where c.relnamespace = 'pgsched'::regnamespace and c.relkind in ('r', 'p')
      and not c.relispartition
"""


def is_kept(db: Connection, name: str) -> bool:
    """Whether any row has exactly this text, as a value or as a key in JSON."""
    tables = " union all ".join(row[0] for row in db.execute(HOLDERS).fetchall())
    query = (
        f"select exists (select from ({tables}) as r (row)"
        " where jsonb_path_exists(r.row, 'strict $.** ? (@ == $name)', %s, true))"
    )
    found = db.execute(query.encode(), [Jsonb({"name": name})]).fetchone()
    assert found is not None
    return bool(found[0])


def objects(db: Connection) -> list[Any]:
    """Tables, functions and roles; partitions come and go by themselves."""
    return db.execute(
        "select c.oid::regclass::text, c.relacl::text from pg_class as c"
        " where not c.relispartition and c.relkind in ('r', 'p', 'v')"
        " and c.relnamespace::regnamespace::text in ('pgsched', 'public')"
        " union all select p.oid::regprocedure::text, p.proacl::text from pg_proc as p"
        " where p.pronamespace = 'pgsched'::regnamespace"
        " union all select r.rolname, r.rolsuper::text from pg_roles as r order by 1, 2"
    ).fetchall()


@pytest.mark.own_database
@pytest.mark.timeout(300)
def test_no_function_takes_a_text_for_sql(db: Connection) -> None:
    """Each text argument of each documented function, with each of the names."""
    strange, kept, tried = [], set(), 0
    # What it does is looked at before it is undone, and what other sessions do is not seen.
    db.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    for function in functions(db):
        ids = fresh_ids(db)
        for argument, kind in function.arguments.items():
            if kind not in TEXTS:
                continue
            for about, name in NAMES.items():
                for value in of_type(kind, name):
                    tried += 1
                    place = (function.name, argument)
                    with db.transaction(force_rollback=True):
                        before = objects(db)
                        given = needed(function, ids) | {argument: value}
                        state = attempt(db, function, given)
                        assert objects(db) == before, (*place, about)
                        if state not in OURS | OTHERS.get(function.name, set()):
                            strange.append((*place, about, state))
                        if state is None and place in KEPT and 0 < len(name.strip()) <= 200:
                            assert is_kept(db, name), (*place, about)
                            kept.add(place)
    assert strange == [], sorted({(*x[:2], x[3]) for x in strange})
    assert kept == KEPT
    assert tried > 2000
