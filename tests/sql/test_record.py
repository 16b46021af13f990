"""The record: partitions made ahead and dropped by age, and a net below them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import psycopg
import pytest

from tests.sql.sched import HOUR, Sched

DAY = timedelta(days=1)
TABLES = ["task_instances", "task_events", "schedule_fires"]


@pytest.fixture
def bare(sched: Sched) -> Iterator[Sched]:
    """A database whose record has its nets and no partitions."""
    drop_all(sched)
    yield sched
    drop_all(sched)


def drop_all(sched: Sched) -> None:
    for table in TABLES:
        for name, *_ in partitions(sched, table):
            sched.conn.execute(f"drop table pgsched.{name}".encode())


def partitions(sched: Sched, table: str = "task_instances") -> list[tuple[str, date, date]]:
    query = "select name, lower_bound, upper_bound from pgsched.partitions(%s)"
    return [
        (name, lower.astimezone(UTC).date(), upper.astimezone(UTC).date())
        for name, lower, upper in sched.conn.execute(query.encode(), [table]).fetchall()
    ]


def names(sched: Sched, table: str = "task_instances") -> list[str]:
    return [name for name, *_ in partitions(sched, table)]


def home_of(sched: Sched, task_id: str, table: str = "task_instances", key: str = "id") -> str:
    query = f"select tableoid::regclass::text from pgsched.{table} where {key} = %s"
    return str(sched.value(query, task_id)).removeprefix("pgsched.")


def run(sched: Sched) -> str:
    return sched.run(sched.schedule())


def maintain(sched: Sched) -> int:
    return int(sched.call("maintain"))


# Made ahead


def test_partitions_are_made_for_today_and_thirty_days(bare: Sched) -> None:
    today = bare.now.date()

    assert maintain(bare) == 0

    for table in ("task_instances", "task_events"):
        assert partitions(bare, table) == [
            (f"{table}_{day:%Y%m%d}", day, day + DAY)
            for day in (today + n * DAY for n in range(31))
        ]
    assert partitions(bare, "schedule_fires") == [
        ("schedule_fires_202603", date(2026, 3, 1), date(2026, 4, 1)),
        ("schedule_fires_202604", date(2026, 4, 1), date(2026, 5, 1)),
    ]
    maintain(bare)
    assert len(names(bare)) == 31


def test_the_next_day_brings_the_next_partition(bare: Sched) -> None:
    maintain(bare)
    bare.clock(DAY)

    maintain(bare)

    assert names(bare)[-1] == f"task_instances_{bare.now + 30 * DAY:%Y%m%d}"


@pytest.mark.parametrize(
    ("zone", "style"),
    [
        ("Pacific/Kiritimati", "SQL, DMY"),
        ("America/New_York", "German"),
        ("UTC", "Postgres, MDY"),
    ],
)
def test_days_are_those_of_utc_whatever_the_session_says(
    bare: Sched, zone: str, style: str
) -> None:
    bare.conn.execute(f"set timezone = '{zone}'; set datestyle = '{style}'".encode())
    try:
        maintain(bare)
        maintain(bare)
    finally:
        bare.conn.execute("reset timezone; reset datestyle")

    first, *_ = partitions(bare)
    assert first[1:] == (date(2026, 3, 2), date(2026, 3, 3))
    assert len(names(bare)) == 31


def test_a_partition_has_the_indexes_and_checks_of_its_table(bare: Sched) -> None:
    maintain(bare)
    query = """
        select indexdef from pg_indexes
        where schemaname = 'pgsched' and tablename = %s order by 1
    """
    net = [row.indexdef for row in bare.rows(query, "task_events_default")]
    made = [row.indexdef for row in bare.rows(query, names(bare, "task_events")[0])]

    assert len(made) == len(net) - 1  # the net has one more, by time
    with pytest.raises(psycopg.errors.CheckViolation):
        bare.conn.execute(
            f"update pgsched.{names(bare)[0]} set status = 'PENDING';"
            f"insert into pgsched.{names(bare)[0]} (status, queue, schedule_type, scheduled_time,"
            "  execute_after, max_retries, definition_id, trace_id, input_params, schedule_config,"
            "  finished_at)"
            " select 'PENDING', 'default', 'IMMEDIATE', pgsched.now(), pgsched.now(), 3,"
            "   pgsched.uuid7(), pgsched.uuid7(), '{}', '{}', pgsched.now()".encode()
        )


def test_what_ends_goes_to_the_partition_of_its_day(bare: Sched) -> None:
    maintain(bare)

    task_id = run(bare)
    bare.clock(DAY)
    cancelled = bare.schedule()
    bare.call("cancel_task", cancelled)

    assert home_of(bare, task_id) == f"task_instances_{bare.now - DAY:%Y%m%d}"
    assert home_of(bare, cancelled) == f"task_instances_{bare.now:%Y%m%d}"
    assert home_of(bare, cancelled, "task_events", "task_id") == f"task_events_{bare.now:%Y%m%d}"


# The net


def test_a_day_of_which_the_net_holds_rows_gets_no_partition(bare: Sched) -> None:
    caught = run(bare)
    assert home_of(bare, caught) == "task_instances_default"

    maintain(bare)

    assert names(bare)[0] == f"task_instances_{bare.now + DAY:%Y%m%d}"
    assert bare.status(caught) == "SUCCESS"
    assert home_of(bare, run(bare)) == "task_instances_default"
    bare.clock(DAY)
    assert home_of(bare, run(bare)) == names(bare)[0]


def test_what_the_net_caught_is_deleted_by_age_in_portions(bare: Sched) -> None:
    tasks = [run(bare) for _ in range(5)]
    maintain(bare)
    bare.clock(30 * DAY)
    assert maintain(bare) == 0
    assert [bare.status(task) for task in tasks] == ["SUCCESS"] * 5

    bare.clock(HOUR)

    assert [bare.call("maintain", 2) for _ in range(4)] == [2, 2, 1, 0]
    assert bare.tasks() == []


# Dropped by age


def test_a_partition_is_dropped_when_all_of_it_is_past_its_age(bare: Sched) -> None:
    maintain(bare)
    first = names(bare)[0]
    task_id = run(bare)
    midnight = datetime.combine(bare.now.date() + 31 * DAY, time(), UTC)

    bare.clock(midnight - timedelta(seconds=1))
    maintain(bare)
    assert bare.status(task_id) == "SUCCESS"

    bare.clock(midnight)
    maintain(bare)
    assert first not in names(bare)
    assert bare.tasks() == []


def test_retention_is_set_for_each_table_and_may_be_for_ever(bare: Sched) -> None:
    maintain(bare)
    kept, gone = names(bare)[0], names(bare, "task_events")[0]
    try:
        bare.call("set_retention", "task_instances", None)
        bare.call("set_retention", "task_events", "2 days")
        bare.clock(400 * DAY)
        maintain(bare)
    finally:
        bare.conn.execute("update pgsched.retention set keep = '30 days' where span = 'day'")

    assert kept in names(bare)
    assert gone not in names(bare, "task_events")
    assert "schedule_fires_202603" not in names(bare, "schedule_fires")


@pytest.mark.parametrize(
    ("table", "keep", "state", "says"),
    [
        ("tasks", "30 days", "PS404", "'tasks' is no table of the record"),
        ("task_events", "1 hour", "PS422", "p_keep must be between 1 day and 100 years"),
        ("task_events", "101 years", "PS422", "p_keep must be between 1 day and 100 years"),
    ],
)
def test_a_wrong_retention_is_refused(
    sched: Sched, table: str, keep: str, state: str, says: str
) -> None:
    with pytest.raises(psycopg.Error, match=says) as caught:
        sched.call("set_retention", table, keep)

    assert caught.value.sqlstate == state


# Locks


@pytest.mark.parametrize("statement", ["table pgsched.tasks", "delete from pgsched.task_instances"])
def test_who_reads_or_writes_the_record_keeps_maintenance_from_nothing_else(
    bare: Sched, another: Sched, statement: str
) -> None:
    bare.call("define_task", "other")
    task_id = bare.schedule("other", idempotency_key="k")
    bare.run(task_id)
    bare.clock(25 * HOUR)

    with another.transaction():
        another.conn.execute(statement.encode())
        assert maintain(bare) == 1  # the key
        assert names(bare) == []
        assert bare.value("select count(*) from pgsched.idempotency_keys") == 0

    maintain(bare)
    assert len(names(bare)) == 31


def test_maintenance_waits_at_most_fifty_milliseconds_for_a_table(
    bare: Sched, another: Sched
) -> None:
    maintain(bare)
    bare.clock(60 * DAY)

    with another.transaction():
        another.rows("select * from pgsched.tasks")
        bare.conn.execute("set statement_timeout = '2s'")
        maintain(bare)
        bare.conn.execute("reset statement_timeout")
        assert names(bare)[0] == "task_instances_20260302"

    maintain(bare)
    assert names(bare)[0] == f"task_instances_{bare.now - 30 * DAY:%Y%m%d}"


def test_of_two_who_maintain_one_does(bare: Sched, another: Sched) -> None:
    with another.transaction():
        maintain(another)
        assert len(names(another)) == 31
        bare.conn.execute("set statement_timeout = '2s'")
        assert maintain(bare) == 0  # at once, though the other holds its locks
        bare.conn.execute("reset statement_timeout")


# Found by its id


def test_a_task_is_found_wherever_it_is(bare: Sched) -> None:
    maintain(bare)
    hot, late, ended = bare.schedule(delay="1 day"), bare.schedule(delay="1 day"), run(bare)
    bare.clock(5 * DAY)
    bare.call("cancel_task", late)

    def found(task_id: str) -> list[Any]:
        return bare.rows("select * from pgsched.get_task(%s)", task_id)

    assert [task.status for task in found(hot)] == ["PENDING"]
    assert [task.status for task in found(ended)] == ["SUCCESS"]
    assert [task.status for task in found(late)] == ["CANCELLED"]
    assert found("00000000-0000-4000-8000-000000000000") == []
    assert found("ffffffff-ffff-ffff-ffff-ffffffffffff") == []
    assert found(hot) == [bare.task(hot)]


@pytest.mark.parametrize("back", [timedelta(hours=23)])
def test_a_clock_that_was_set_back_hides_no_task(bare: Sched, back: timedelta) -> None:
    maintain(bare)
    task_id = bare.schedule()
    bare.clock(-back)
    bare.call("cancel_task", task_id)

    assert [t.status for t in bare.rows("select * from pgsched.get_task(%s)", task_id)] == [
        "CANCELLED"
    ]
    assert bare.call("retry_task", task_id) == "PENDING"


def test_a_task_of_another_day_is_retried_reported_and_waited_for(bare: Sched) -> None:
    maintain(bare)
    first, failed = run(bare), bare.schedule()
    bare.settle(bare.claim_one())
    bare.report(failed, "CANCELLED")
    bare.clock(20 * DAY)

    (answer,) = bare.report_many({"task_id": first, "status": "SUCCESS"})
    assert (answer.status, answer.code) == ("SUCCESS", None)
    waits = bare.schedule(depends_on=[first])
    assert bare.task(waits).pending_dependencies == 0
    assert bare.call("retry_task", failed) == "PENDING"
