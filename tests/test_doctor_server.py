"""The doctor on the server: other sessions, tables, indexes, settings; each fault is a real one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgsched import diagnosis
from pgsched.db import Connection
from pgsched.diagnosis import sessions as asked
from pgsched.doctor import Finding, server, sessions, storage
from pgsched.doctor.findings import duration
from tests.doctoring import Database, db, other, register_worker, seeing, session
from tests.roles import as_role, login_of

__all__ = ["db", "other", "seeing", "session"]

DAY = timedelta(days=1)


# Snapshots


async def test_nobody_holds_an_old_snapshot(seeing: Connection) -> None:
    finding = await sessions.old_snapshots(seeing)

    assert finding == Finding("old snapshots", "ok", "none older than 5 minutes")


async def test_the_holder_of_an_old_snapshot_is_named(
    seeing: Connection, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "OLD", timedelta(0))
    other.execute("begin isolation level repeatable read")
    other.execute("select from pgsched.queues")

    finding = await sessions.old_snapshots(seeing)

    pid, user = other.info.backend_pid, other.info.user
    assert finding.status == "warning"
    assert f"pid {pid} (report-tool, user {user}, idle in transaction) for" in finding.seen
    assert "pg_terminate_backend" in finding.advice


async def test_a_prepared_transaction_is_named(
    seeing: Connection, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "OLD", timedelta(0))
    other.execute("select pgsched.define_task('prepared')")
    other.execute("prepare transaction 'forgotten'")
    try:
        finding = await sessions.old_snapshots(seeing)
    finally:
        other.autocommit = True
        other.execute("rollback prepared 'forgotten'")

    assert "prepared transaction 'forgotten' (user " in finding.seen


async def test_slots_and_standbys_that_are_far_back_are_named(seeing: Connection) -> None:
    # A standby is more than these tests have: they stand in for what the server shows.
    await seeing.execute(
        "create temp view pg_replication_slots as select 'replica_2' as slot_name, false as active,"
        " (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1)::text::xid as xmin"
    )
    await seeing.execute(
        "create temp view pg_stat_replication as select 42 as pid, 'replica_1' as application_name,"
        " null::xid as backend_xmin"
    )
    assert (await sessions.old_snapshots(seeing)).status == "ok"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "OLD_TRANSACTIONS", -1)
        finding = await sessions.old_snapshots(seeing)

    assert "replication slot replica_2 (nobody reads it, " in finding.seen


async def test_without_the_right_nothing_is_called_well(session: Connection) -> None:
    finding = await sessions.old_snapshots(session)

    assert finding.status == "unknown"


async def test_who_sees_all_is_told(session: Connection, seeing: Connection) -> None:
    finding = await sessions.rights(session)

    assert finding.status == "unknown"
    assert finding.advice == f"grant pg_monitor to {login_of('operator')};"
    assert (await sessions.rights(seeing)).status == "ok"


# Notifications


async def test_what_is_sent_arrives(session: Connection, dsn: str) -> None:
    finding = await sessions.notifications(as_role(dsn, "operator"), session)

    assert finding.status == "ok"


async def test_a_listener_that_hears_nothing_is_an_error(
    session: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a pooler does: the session that listens is another one than it seems.
    monkeypatch.setattr(asked, "LISTEN", "unlisten {}")
    monkeypatch.setattr(asked, "PATIENCE", 0.1)

    finding = await sessions.notifications(as_role(dsn, "operator"), session)

    assert finding.status == "error"
    assert "PGSCHED_POLL_ONLY" in finding.advice


async def test_a_listener_that_keeps_the_queue_full_is_an_error(
    session: Connection, dsn: str, db: Database, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "BACKED_UP", 0.0)
    other.execute("listen held")
    other.commit()
    other.execute("select")
    for _ in range(4):
        db.execute("select pg_notify('held', repeat('x', 7000) || random())")

    finding = await sessions.notifications(as_role(dsn, "operator"), session)

    assert finding.status == "error"
    assert "of the queue is taken" in finding.seen


async def test_a_worker_that_does_not_listen_is_a_warning(
    session: Connection, seeing: Connection, dsn: str, db: Database
) -> None:
    assert (await sessions.listeners(session)).status == "ok"
    register_worker(db)

    assert (await sessions.listeners(session)).status == "unknown"
    finding = await sessions.listeners(seeing)
    assert (finding.status, finding.seen) == ("warning", "0 sessions for 1 worker")

    with psycopg.connect(dsn, application_name="pgsched listen"):
        assert (await sessions.listeners(seeing)).status == "ok"


async def test_a_crowded_server_is_a_warning(
    session: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await sessions.connections(session)).status == "ok"
    monkeypatch.setattr(sessions, "CROWDED", 0.0)

    finding = await sessions.connections(session)

    assert finding.status == "warning"
    assert int(finding.seen.partition(" of ")[0]) >= 1


# Tables


@pytest.mark.own_database
async def test_a_table_of_dead_rows_is_named(
    seeing: Connection, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await storage.dead_rows(seeing)).status == "ok"
    monkeypatch.setattr(storage, "MANY_DEAD", 1000)
    db.execute("alter table pgsched.workers set (autovacuum_enabled = off)")
    db.execute("select pgsched.register_worker('h', 1, 'v') from generate_series(1, 2000)")
    db.execute("delete from pgsched.workers")
    db.execute("select pg_stat_force_next_flush()")

    finding = await storage.dead_rows(seeing)

    assert finding.status == "warning"
    assert finding.seen == "workers has 2,000 dead and 0 live, never vacuumed"
    assert finding.advice.endswith("vacuum analyze pgsched.workers;")
    assert "autovacuum_enabled is false for workers" in (await storage.settings(seeing)).seen
    db.execute("vacuum pgsched.workers")
    db.execute("select pg_stat_force_next_flush()")
    assert (await storage.dead_rows(seeing)).status == "ok"


async def test_settings_that_lose_tasks_or_let_tables_bloat_are_named(seeing: Connection) -> None:
    await seeing.execute("set synchronous_commit = off")
    await seeing.execute("set track_counts = off")

    finding = await storage.settings(seeing)

    assert finding.status == "warning"
    assert "track_counts is off" in finding.seen
    assert "synchronous_commit is off" in finding.seen
    assert "fsync is off" in finding.seen  # on the server of the tests it is


@pytest.mark.own_database
async def test_an_invalid_index_is_named(session: Connection, db: Database) -> None:
    assert (await storage.invalid_indexes(session)).status == "ok"
    db.execute(
        "update pg_index set indisvalid = false"
        " where indexrelid = 'pgsched.scheduled_tasks_due_idx'::regclass"
    )

    finding = await storage.invalid_indexes(session)

    assert finding.status == "error"
    assert finding.seen == "pgsched.scheduled_tasks_due_idx on pgsched.scheduled_tasks"


@pytest.mark.own_database
async def test_a_trigger_that_is_disabled_is_named(session: Connection, db: Database) -> None:
    assert (await storage.triggers(session)).status == "ok"
    db.execute("alter table pgsched.scheduled_tasks disable trigger all")

    finding = await storage.triggers(session)

    assert finding.status == "error"
    assert "on pgsched.scheduled_tasks" in finding.seen


@pytest.mark.parametrize(("old", "too_old", "status"), [(0, 10**9, "warning"), (0, 0, "error")])
async def test_transaction_ids_that_run_out_are_told(
    session: Connection, monkeypatch: pytest.MonkeyPatch, old: int, too_old: int, status: str
) -> None:
    assert (await storage.transaction_ids(session)).status == "ok"
    monkeypatch.setattr(storage, "OLD_ID", old)
    monkeypatch.setattr(storage, "TOO_OLD_ID", too_old)

    assert (await storage.transaction_ids(session)).status == status


# Partitions


@pytest.mark.own_database
async def test_partitions_that_are_there_are_well(session: Connection, db: Database) -> None:
    db.execute("select pgsched.maintain()")

    finding = await storage.partitions(session)

    assert finding.status == "ok"
    assert finding.seen.startswith("made until 20")


@pytest.mark.own_database
async def test_a_day_without_a_partition_is_an_error(session: Connection, db: Database) -> None:
    row: Any = db.execute(
        "select name from pgsched.partitions('task_instances')"
        " where lower_bound <= pgsched.now() and upper_bound > pgsched.now()"
    ).fetchone()
    db.execute(f"drop table pgsched.{row[0]}".encode())
    db.execute("select pgsched.schedule_immediate('job')")
    db.execute("select pgsched.cancel_task(id) from pgsched.tasks")

    finding = await storage.partitions(session)

    assert finding.status == "error"
    assert "task_instances has none for today" in finding.seen
    assert "task_instances_default holds 1 row" in finding.seen
    assert "pgsched.maintain()" in finding.advice


@pytest.mark.own_database
async def test_partitions_that_end_soon_or_are_past_their_retention_are_a_warning(
    session: Connection, db: Database
) -> None:
    db.execute("select pgsched.maintain()")
    db.execute(
        "create table pgsched.task_events_19991231 partition of pgsched.task_events"
        " for values from ('1999-12-31 00:00+00') to ('2000-01-01 00:00+00')"
    )
    assert "past the retention: task_events_19991231" in (await storage.partitions(session)).seen
    rows: Any = db.execute(
        "select name from pgsched.partitions('task_events') where lower_bound > pgsched.now()"
    ).fetchall()
    for (name,) in rows:
        db.execute(f"drop table pgsched.{name}".encode())

    finding = await storage.partitions(session)

    assert finding.status == "warning"
    assert "none is made ahead for task_events" in finding.seen


# The server and its schema


@pytest.mark.parametrize(
    ("number", "status"),
    [(180001, "warning"), (180002, "ok"), (150015, "warning"), (150016, "ok"), (190000, "ok")],
)
async def test_a_minor_with_known_bugs_is_a_warning(
    session: Connection, monkeypatch: pytest.MonkeyPatch, number: int, status: str
) -> None:
    async def asked(_: object) -> diagnosis.Server:
        return diagnosis.Server("x", number, is_read_only=False)

    monkeypatch.setattr(diagnosis, "server", asked)

    finding = await server.minor_release(session)

    assert finding.status == status
    assert finding.advice.startswith(f"Update to {number // 10000}.") or status == "ok"


@pytest.mark.own_database
async def test_definitions_that_were_changed_by_hand_are_named(
    session: Connection, dsn: str, db: Database
) -> None:
    assert (await server.definitions(as_role(dsn, "operator"), session)).status == "ok"
    db.execute("drop index pgsched.scheduled_tasks_deadline_idx")

    finding = await server.definitions(as_role(dsn, "operator"), session)

    assert finding.status == "error"
    assert "scheduled_tasks_deadline_idx is missing" in finding.seen


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(59, "59 seconds"), (119, "119 seconds"), (300, "5 minutes"), (8000, "2 hours")],
)
def test_a_duration_is_told_in_one_unit(seconds: int, said: str) -> None:
    assert duration(timedelta(seconds=seconds)) == said
    assert duration(3 * DAY) == "3 days"
