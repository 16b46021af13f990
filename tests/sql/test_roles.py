"""Who may do what: each role of pgsched by a login that has it and is no superuser."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.roles import OWNER, ROLES, as_role, login_of
from tests.sql.sched import Sched

Connection = psycopg.Connection[Any]
Open = Callable[[str], Connection]

# Roles are of the server, which the workers of pytest-xdist share.
ANOTHER = f"pgsched_test_another_{os.getpid()}"
DENIED = psycopg.errors.InsufficientPrivilege


@pytest.fixture
def db(dsn: str) -> Iterator[Connection]:
    """A superuser, who defined `job`."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("select pgsched.define_task('job')")
        yield conn


@pytest.fixture
def login(dsn: str, db: Connection) -> Iterator[Open]:
    """Log in with a role of pgsched, or as somebody else with the same one."""
    with contextlib.ExitStack() as stack:

        def open_as(role: str) -> Connection:
            conn = psycopg.connect(as_role(dsn, role), autocommit=True)
            return stack.enter_context(conn)

        yield open_as


@pytest.fixture
def client(login: Open) -> Connection:
    return login("client")


@pytest.fixture
def another_client(db: Connection, dsn: str) -> Iterator[Connection]:
    """A second login with the role pgsched_client, for this test alone."""
    name = ANOTHER
    db.execute(f"create role {name} login in role pgsched_client".encode())
    try:
        with psycopg.connect(dsn, user=name, autocommit=True) as conn:
            yield conn
    finally:
        db.execute(f"drop role {name}".encode())


def value(conn: Connection, query: str, *given: object) -> Any:
    row = conn.execute(query.encode(), given).fetchone()
    return row[0] if row else None


# What the catalog says

EXECUTABLE = """
    select p.proname::text
    from pg_proc as p
    where p.pronamespace = 'pgsched'::regnamespace
      and has_function_privilege(%s, p.oid, 'execute')
"""
RELATIONS = """
    select c.relname::text
    from pg_class as c
    where c.relnamespace = 'pgsched'::regnamespace
      and c.relkind in ('r', 'p', 'v', 'S')
      and not c.relispartition
    order by 1
"""
# Of those that anybody may execute: they read nothing.
WITH_THE_RIGHTS_OF_THE_CALLER = {
    "earliest_end",
    "error_fingerprint",
    "first_line",
    "jitter_of",
    "now",
    "partitions",
    "ramp_term",
    "uuid7",
    "uuid7_at",
}


def test_the_public_may_execute_nothing(db: Connection) -> None:
    query = """
        select p.oid::regprocedure::text
        from pg_proc as p
        where p.pronamespace = 'pgsched'::regnamespace
          and exists (
            select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
            where a.grantee = 0
          )
    """
    assert db.execute(query).fetchall() == []


def test_everything_belongs_to_an_owner_who_is_no_superuser(db: Connection) -> None:
    query = """
        select distinct pg_get_userbyid(o.owner), r.rolsuper
        from (
          select c.relowner from pg_class as c where c.relnamespace = 'pgsched'::regnamespace
          union all
          select p.proowner from pg_proc as p where p.pronamespace = 'pgsched'::regnamespace
          union all
          select n.nspowner from pg_namespace as n where n.nspname = 'pgsched'
        ) as o (owner)
        join pg_roles as r on r.oid = o.owner
    """
    assert db.execute(query).fetchall() == [(OWNER, False)]


def test_what_may_be_executed_has_the_rights_of_the_owner(db: Connection) -> None:
    query = """
        select distinct p.proname::text
        from pg_proc as p
        cross join aclexplode(p.proacl) as a
        where p.pronamespace = 'pgsched'::regnamespace
          and a.grantee <> p.proowner
          and not (p.prosecdef and p.proconfig @> array['search_path=pg_catalog, pg_temp'])
    """
    invokers = {row[0] for row in db.execute(query).fetchall()}

    assert invokers == WITH_THE_RIGHTS_OF_THE_CALLER


def test_the_roles_are_no_logins_and_members_of_nothing(db: Connection) -> None:
    query = """
        select r.rolname::text, r.rolcanlogin, m.roleid
        from pg_roles as r
        left join pg_auth_members as m on m.member = r.oid
        where r.rolname = any (%s)
        order by 1
    """
    names = sorted(f"pgsched_{role}" for role in ROLES)

    found = db.execute(query, [names]).fetchall()
    assert found == [(name, False, None) for name in names]


@pytest.mark.parametrize("role", ["client", "executor", "worker"])
def test_three_roles_have_no_right_on_any_table(db: Connection, role: str) -> None:
    query = """
        select c.relname::text, a.privilege_type
        from pg_class as c
        cross join aclexplode(c.relacl) as a
        where c.relnamespace = 'pgsched'::regnamespace
          and a.grantee = %s::regrole
    """
    found = db.execute(query, [f"pgsched_{role}"]).fetchall()

    assert found == ([("my_tasks", "SELECT")] if role == "client" else [])


@pytest.mark.parametrize("role", ["client", "executor", "worker"])
def test_three_roles_are_refused_by_every_table_and_view(
    db: Connection, login: Open, role: str
) -> None:
    conn = login(role)
    relations = [row[0] for row in db.execute(RELATIONS).fetchall()]

    assert len(relations) > 20
    for relation in {*relations} - {"my_tasks"}:
        with pytest.raises(DENIED):
            conn.execute(f"select from pgsched.{relation}".encode())


@pytest.mark.parametrize("role", ["operator", "reader"])
def test_two_roles_read_everything(db: Connection, login: Open, role: str) -> None:
    conn = login(role)

    for (relation,) in db.execute(RELATIONS).fetchall():
        if relation not in ("my_tasks", "wake_mark", "status_sequence"):
            conn.execute(f"select * from pgsched.{relation} limit 1".encode())


def test_a_role_is_refused_by_every_function_that_it_was_not_given(
    db: Connection, login: Open
) -> None:
    """As it is called, without arguments or not: the right is looked at first."""
    everything = {row[0] for row in db.execute(EXECUTABLE, [OWNER]).fetchall()}
    calls = dict(
        db.execute(
            "select p.proname::text, format('%s %I.%I(%s)',"
            "  case p.prokind when 'p' then 'call' else 'select' end, 'pgsched', p.proname,"
            "  (select string_agg('null::' || format_type(t.oid, null), ', ' order by t.n)"
            "   from unnest(p.proargtypes) with ordinality as t (oid, n)))"
            " from pg_proc as p where p.pronamespace = 'pgsched'::regnamespace"
            " and p.prorettype <> 'trigger'::regtype"
        ).fetchall()
    )
    for role in ROLES:
        given = {row[0] for row in db.execute(EXECUTABLE, [f"pgsched_{role}"]).fetchall()}
        conn = login(role)
        for name in calls.keys() & (everything - given):
            with pytest.raises(DENIED, match=f"for (function|procedure) {name}"):
                conn.execute(calls[name].encode())


# A client and what is its own


def test_a_client_schedules_reads_and_cancels_its_task(client: Connection) -> None:
    task_id = value(client, "select pgsched.schedule_immediate('job', '{\"n\": 1}')")

    for source in ("pgsched.get_task(%s)", "pgsched.my_tasks where id = %s"):
        cursor = client.cursor(row_factory=dict_row)
        task = cursor.execute(f"select * from {source}".encode(), [task_id]).fetchone()
        assert task is not None
        assert (task["status"], task["created_by"]) == ("PENDING", login_of("client"))
        assert task["input_params"] == {"n": 1}
    assert value(client, "select pgsched.cancel_task(%s)", task_id) == "CANCELLED"
    assert value(client, "select status from pgsched.my_tasks where id = %s", task_id) == (
        "CANCELLED"
    )


@pytest.mark.parametrize(
    "call",
    [
        "schedule_immediate('job')",
        "schedule_delayed('job', '1 hour')",
        "schedule_at('job', '2030-01-01T00:00Z')",
        "schedule_loop('job')",
        'schedule_many(\'[{"definition": "job"}]\')',
        "schedule_cron('job', '0 3 * * *')",
        "schedule_every('job', '1 hour', p_name => 'hourly')",
        "trigger_loop_once('job')",
        "define_task('mine', p_cron_expr => '0 4 * * *')",
    ],
)
def test_a_client_can_do_all_that_schedules(client: Connection, call: str) -> None:
    assert value(client, f"select pgsched.{call}") is not None


@pytest.mark.parametrize(
    "act",
    [
        "select pgsched.cancel_task(%(task)s)",
        "select pgsched.stop_loop(%(loop)s)",
        "select * from pgsched.get_task(%(task)s)",
        "select * from pgsched.get_task(%(ended)s)",
        "select pgsched.cancel_task(%(ended)s)",
        "select pgsched.pause_schedule('theirs')",
        "select pgsched.resume_schedule('theirs')",
        "select pgsched.reschedule('theirs', '0 5 * * *')",
        "select pgsched.trigger_schedule('theirs')",
        "select pgsched.delete_schedule('theirs')",
        "select pgsched.backfill_schedule('theirs', '2026-01-01Z', '2026-01-02Z')",
        "select pgsched.schedule_cron('job', '0 6 * * *', p_name => 'theirs')",
        "select pgsched.define_task('theirs', '{\"evil\": true}')",
    ],
)
def test_a_client_is_refused_what_is_anothers(
    db: Connection, another_client: Connection, client: Connection, act: str
) -> None:
    value(another_client, "select pgsched.define_task('theirs')")
    value(another_client, "select pgsched.schedule_cron('theirs', '0 3 * * *')")
    theirs = {
        "task": value(another_client, "select pgsched.schedule_immediate('job')"),
        "loop": value(another_client, "select pgsched.schedule_loop('job')"),
        "ended": value(another_client, "select pgsched.schedule_immediate('job')"),
    }
    another_client.execute("select pgsched.cancel_task(%s)", [theirs["ended"]])
    everything = "select array_agg(t order by t.id) from pgsched.tasks as t"
    before = value(db, everything)

    with pytest.raises(DENIED, match=f"belongs to {ANOTHER}, and pgsched_test_client"):
        client.execute(act.encode(), theirs)

    assert value(db, everything) == before
    assert value(client, "select count(*) from pgsched.my_tasks") == 0


def test_runs_of_a_clients_schedule_are_its_own(client: Connection) -> None:
    value(client, "select pgsched.schedule_cron('job', '0 3 * * *', p_name => 'mine')")
    task_id = value(client, "select pgsched.trigger_schedule('mine')")

    assert value(client, "select created_by from pgsched.get_task(%s)", task_id) == (
        login_of("client")
    )
    assert value(client, "select pgsched.delete_schedule('mine')") >= 0


def test_a_member_of_who_made_it_may_change_it(
    db: Connection, another_client: Connection, client: Connection
) -> None:
    task_id = value(another_client, "select pgsched.schedule_immediate('job')")
    db.execute(f"grant {ANOTHER} to {login_of('client')}".encode())

    assert value(client, "select pgsched.cancel_task(%s)", task_id) == "CANCELLED"


def test_an_operator_cancels_what_is_anothers(client: Connection, login: Open) -> None:
    task_id = value(client, "select pgsched.schedule_immediate('job')")

    assert value(login("operator"), "select pgsched.cancel_task(%s)", task_id) == "CANCELLED"


def test_a_client_without_a_task_hears_that_there_is_none(client: Connection) -> None:
    with pytest.raises(psycopg.Error, match="does not exist") as caught:
        client.execute("select pgsched.cancel_task(gen_random_uuid())")

    assert caught.value.sqlstate == "PS404"


# The others


def test_an_executor_reports_and_can_do_nothing_else(
    db: Connection, client: Connection, login: Open
) -> None:
    executor, worker = login("executor"), login("worker")
    task_id = value(client, "select pgsched.schedule_immediate('job')")
    worker_id = value(worker, "select pgsched.register_worker('h', 1, 'v')")
    assert value(worker, "select id from pgsched.claim_due_tasks(%s, 10)", worker_id) == task_id

    report = "select pgsched.report_status(%s, %s)"
    assert value(executor, report, task_id, "RUNNING") == "RUNNING"
    assert value(executor, report, task_id, "SUCCESS") == "SUCCESS"
    with pytest.raises(DENIED):
        executor.execute("select pgsched.cancel_task(%s)", [task_id])


def test_an_operator_changes_configuration_and_no_task(db: Connection, login: Open) -> None:
    operator = login("operator")
    operator.execute("update pgsched.task_definitions set is_active = false where name = 'job'")
    operator.execute("insert into pgsched.queues (name) values ('direct')")
    operator.execute(
        "insert into pgsched.schedules (definition_id, name, every)"
        " select d.id, 'direct', '1 hour' from pgsched.task_definitions as d"
    )
    operator.execute("update pgsched.schedules set every = '2 hours', queue = 'direct'")
    operator.execute("delete from pgsched.schedules")
    operator.execute("delete from pgsched.queues where name = 'direct'")

    changes = db.execute(
        "select change, changed_by from pgsched.schedule_changes order by at, id"
    ).fetchall()
    assert {by for _, by in changes} == {login_of("operator")}
    for statement in (
        "update pgsched.scheduled_tasks set priority = 9",
        "delete from pgsched.task_instances",
        "insert into pgsched.workers default values",
        "update pgsched.schema_migrations set breaking = true",
    ):
        with pytest.raises(DENIED):
            operator.execute(statement.encode())


# Attacks

SHADOWS = """
    create temp table scheduled_tasks (like pgsched_shape including all);
    create temp table pg_roles (rolname text, oid oid);
    create temp table pg_namespace (nspname text, nspowner oid);
    create temp view pg_class as select 1 as oid;
    insert into pg_namespace values ('pgsched', {login}::regrole);
    insert into pg_roles values ('{another}', {login}::regrole);
    create function pg_temp.format(text, text) returns text
      language sql as $$ select 'shadowed' $$;
    create function pg_temp.pg_has_role(name, name, text) returns boolean
      language sql as $$ select true $$;
    create function pg_temp.pg_has_role(name, oid, text) returns boolean
      language sql as $$ select true $$;
    set search_path = pg_temp, pg_catalog, public
"""


def test_temporary_objects_shadow_nothing(
    db: Connection, another_client: Connection, client: Connection
) -> None:
    task_id = value(another_client, "select pgsched.schedule_immediate('job')")
    client.execute("create temp table pgsched_shape (id uuid, created_by text)")
    client.execute(SHADOWS.format(another=ANOTHER, login=f"'{login_of('client')}'").encode())
    client.execute(
        "insert into pg_temp.scheduled_tasks values (%s, %s)", [task_id, login_of("client")]
    )
    assert value(client, "select count(*) from pg_roles") == 1  # they do shadow for the client

    for act in ("select pgsched.cancel_task(%s)", "select * from pgsched.get_task(%s)"):
        with pytest.raises(DENIED, match=f"task {task_id} belongs to"):
            client.execute(act.encode(), [task_id])
    own = value(client, "select pgsched.schedule_immediate('job')")

    assert value(db, "select status from pgsched.tasks where id = %s", task_id) == "PENDING"
    assert value(db, "select count(*) from pgsched.scheduled_tasks where id = %s", own) == 1
    assert value(client, "select count(*) from pg_temp.scheduled_tasks") == 1


def test_a_name_is_data_and_never_sql(client: Connection) -> None:
    name = "x'; drop schema pgsched cascade; --\"\\"

    with pytest.raises(psycopg.Error) as caught:
        client.execute("select pgsched.schedule_immediate(%s)", [name])

    assert caught.value.sqlstate == "PS404"


def test_a_session_cannot_lend_another_clock(client: Connection, sched: Sched) -> None:
    with pytest.raises(DENIED):
        client.execute(
            "create or replace function pgsched.now() returns timestamptz"
            " language sql return '2100-01-01'::timestamptz"
        )
