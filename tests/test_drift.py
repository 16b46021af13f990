"""Drift: what `pgsched migrate --check` finds in a catalog that somebody has changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgsched import catalog, drift
from pgsched.ledger import State, entries, faults, read
from pgsched.migrations import migrations
from tests.restoring import SharedDatabase

Connection = psycopg.Connection[Any]

HOT = "pgsched.scheduled_tasks"
CLAIM = "claim_due_tasks(uuid, integer, text[], jsonb)"
VIEW = "view upcoming"


@pytest.fixture
def db(shared: SharedDatabase) -> Iterator[Connection]:
    """In a transaction that comes to nothing, so that what is done here is done for one test."""
    with psycopg.connect(shared.dsn) as connection:
        yield connection
        connection.rollback()


def found(conn: Connection) -> list[str]:
    lines, notes = drift.inspect(conn)
    assert notes == []
    return lines


def test_the_catalog_in_the_files_is_fresh(db: Connection) -> None:
    stale = list(drift.differences(drift.expected(), catalog.read(db)))

    assert stale == [], "run `make catalog`"


def test_the_catalog_file_is_as_make_catalog_writes_it() -> None:
    from pgsched.migrations import folder

    text = (folder() / drift.NAME).read_text(encoding="utf-8")

    assert text == drift.written(drift.expected())


def test_a_schema_as_it_was_made_has_no_fault(db: Connection) -> None:
    assert found(db) == []


# What somebody does, and what is then said of it.
SEEDS = {
    "another source": (
        (
            "create or replace function pgsched.wake() returns void language plpgsql"
            " security definer set search_path = pg_catalog, pg_temp as 'begin end'"
        ),
        ["function wake() has changed: another source"],
    ),
    "another expression": (
        (
            "create or replace function pgsched.was_woken() returns boolean language sql volatile"
            " return true"
        ),
        ["function was_woken() has changed: another expression"],
    ),
    "another volatility": (
        "alter function pgsched.wake() stable",
        ["function wake() has changed: volatility stable in place of volatile"],
    ),
    "no security definer": (
        "alter function pgsched.wake() security invoker",
        ["function wake() has changed: security invoker in place of definer"],
    ),
    "a setting less": (
        f"alter function pgsched.{CLAIM} reset jit",
        [f"function {CLAIM} has changed: another settings"],
    ),
    "a setting more": (
        "alter function pgsched.was_woken() set search_path = public",
        ["function was_woken() has changed: settings search_path=public"],
    ),
    "another owner": (
        "alter function pgsched.wake() owner to pgsched_reader",
        ["function wake() has changed: owner not that of the schema"],
    ),
    "a function less": (
        f"drop function pgsched.{CLAIM}",
        [f"function {CLAIM} is missing"],
    ),
    "a function more": (
        "create function pgsched.wake(integer) returns void language sql as 'select'",
        ["function wake(integer) is not ours"],
    ),
    "a column more": (
        f"alter table {HOT} add column note text default 'x'",
        ["column scheduled_tasks.note is not ours"],
    ),
    "a column otherwise": (
        (
            f"alter table {HOT} alter column priority drop not null,"
            " alter column attempt set default 7"
        ),
        [
            "column scheduled_tasks.attempt has changed: default 7 in place of 1",
            "column scheduled_tasks.priority has changed: without not null yes",
        ],
    ),
    "an index less": (
        "drop index pgsched.scheduled_tasks_loop_idx",
        ["index scheduled_tasks_loop_idx is missing"],
    ),
    "an index more": (
        f"create index mine on {HOT} (error_msg)",
        ["index mine is not ours"],
    ),
    "an invalid index": (
        (
            "update pg_index set indisvalid = false"
            " where indexrelid = 'pgsched.scheduled_tasks_loop_idx'::regclass"
        ),
        ["index scheduled_tasks_loop_idx has changed: state invalid"],
    ),
    "a trigger disabled": (
        f"alter table {HOT} disable trigger scheduled_tasks_after_insert_wake",
        ["trigger scheduled_tasks.scheduled_tasks_after_insert_wake has changed: state disabled"],
    ),
    "a trigger less": (
        f"drop trigger scheduled_tasks_after_insert_wake on {HOT}",
        ["trigger scheduled_tasks.scheduled_tasks_after_insert_wake is missing"],
    ),
    "a trigger more": (
        (
            f"create trigger mine before update on {HOT} for each row"
            " execute function suppress_redundant_updates_trigger()"
        ),
        ["trigger scheduled_tasks.mine is not ours"],
    ),
    "a rule more": (
        "create rule mine as on insert to pgsched.queues do instead nothing",
        ["rule queues.mine is not ours"],
    ),
    "a view replaced": (
        (
            "create or replace view pgsched.upcoming as"
            " select null::timestamptz as at, null as kind, null::uuid as id, null as name,"
            " null as queue, null::integer as priority"
        ),
        [f"{VIEW} has changed: another query"],
    ),
    "a view less": ("drop view pgsched.upcoming", [f"{VIEW} is missing"]),
    "a view more": ("create view pgsched.mine as select 1 as one", ["view mine is not ours"]),
    "a table more": (
        "create table pgsched.mine (one integer)",
        ["column mine.one is not ours", "table mine is not ours"],
    ),
    "row security": (
        f"alter table {HOT} enable row level security",
        ["table scheduled_tasks has changed: row security on"],
    ),
    "the net of a partitioned table less": (
        "alter table pgsched.task_events detach partition pgsched.task_events_default",
        ["partition task_events_default is missing"],
    ),
    "a domain otherwise": (
        "alter domain pgsched.task_status set default 'PENDING'",
        ["domain task_status has changed: default 'PENDING'::text"],
    ),
}


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_changed_is_named(db: Connection, seed: str) -> None:
    statement, lines = SEEDS[seed]
    db.execute("set search_path = pgsched")  # how it is called must not matter
    db.execute(statement.encode())

    assert set(lines) <= set(found(db))
    if "net" not in seed and "column otherwise" not in seed:
        assert found(db) == lines


UNSAID = [
    (
        "create table pgsched.task_events_2031_01 partition of pgsched.task_events"
        " for values from ('2031-01-01') to ('2031-02-01')"
    ),
    (
        "create table pgsched.task_instances_2031_01 partition of pgsched.task_instances"
        " for values from ('2031-01-01') to ('2031-02-01');"
        "create index mine on pgsched.task_instances_2031_01 (error_msg)"
    ),
    f"alter table {HOT} set (autovacuum_vacuum_scale_factor = 0.5)",
    f"comment on table {HOT} is 'ours'",
    f"grant select on {HOT} to pgsched_reader",
    "create table public.mine (one integer)",
    "set intervalstyle = 'iso_8601'; set timezone = 'Asia/Tokyo'",
]


@pytest.mark.parametrize("statement", UNSAID)
def test_what_is_of_no_account_is_not_named(db: Connection, statement: str) -> None:
    db.execute(statement.encode())

    assert found(db) == []


def test_a_constraint_that_was_replaced_is_named(db: Connection) -> None:
    names = [name for name in drift.expected() if name.startswith("constraint scheduled_tasks.")]
    checks = [name for name in names if not name.endswith("_pkey")]
    name = checks[0].partition(".")[2]
    db.execute(f"alter table {HOT} drop constraint {name}".encode())
    assert found(db) == [f"{checks[0]} is missing"]

    db.execute(f"alter table {HOT} add constraint {name} check (true) not valid".encode())

    (line,) = found(db)
    assert line.startswith(f"{checks[0]} has changed: ")
    assert "state not validated" in line


def test_looking_changes_nothing_and_needs_no_transaction_that_writes(db: Connection) -> None:
    db.execute("set transaction read only")

    assert found(db) == []


# The ledger


def test_a_schema_that_is_behind_is_not_compared(db: Connection) -> None:
    db.execute("delete from pgsched.schema_migrations where version > 17")

    lines, notes = drift.inspect(db)

    assert lines[0] == "migration 018 outbox is pending: run `pgsched migrate`"
    assert len(lines) == len(migrations()) - 17
    assert notes == ["the definitions were not compared, since migrations are pending"]


def test_a_schema_that_is_newer_is_a_fault_only_when_it_is_breaking(db: Connection) -> None:
    add = "insert into pgsched.schema_migrations (version, name, breaking) values (999, 'x', false)"
    db.execute(add.encode())
    newer = "the definitions were not compared, since the schema is newer"
    assert drift.inspect(db) == ([], [newer])

    db.execute("update pgsched.schema_migrations set breaking = true where version = 999")

    breaking = "migration 999 x is breaking, and newer than this version: upgrade pgsched"
    assert drift.inspect(db) == ([breaking], [newer])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("checksum = repeat('a', 64)", "005 wake was applied from a file with sha256 aaaa"),
        ("name = 'sleep'", "005 sleep is 005_wake.sql here: another file was applied"),
    ],
)
def test_a_migration_from_another_file_is_a_fault(db: Connection, change: str, said: str) -> None:
    db.execute(f"update pgsched.schema_migrations set {change} where version = 5".encode())

    (line,) = found(db)

    assert said in line
    states = {entry.version: entry.state for entry in entries(read(db), migrations())}
    assert states.pop(5) is State.DRIFTED
    assert set(states.values()) == {State.APPLIED}


def test_the_checksum_of_a_file_that_psql_applied_is_no_fault(db: Connection) -> None:
    db.execute("update pgsched.schema_migrations set checksum = null")

    assert list(faults(entries(read(db), migrations()))) == []


def test_a_database_without_the_schema_is_a_fault(db: Connection) -> None:
    db.execute("drop schema pgsched cascade")

    assert found(db) == ["the database has no schema pgsched: run `pgsched migrate`"]
