"""backfill_schedule(): what has not run in a range of time runs after all, each instant once."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgsched.backfiller import step_of
from tests.sql.ledger import (
    MICROSECOND,
    backfill,
    backfill_of,
    catch_up,
    changes,
    cron,
    due_backfills,
    every,
    ledger,
    outcomes,
    require_exact,
    row_of,
    run_backfills,
    run_step,
    times,
)
from tests.sql.sched import HOUR, MINUTE, SECOND, START, Background, Sched

DAY = timedelta(days=1)


def second(n: int) -> datetime:
    """The n-th instant of a schedule that was made at START and runs every second."""
    return START + n * SECOND


def folded(sched: Sched, count: int = 200) -> str:
    """A schedule of every second with *count* missed instants from START on, in one row."""
    schedule_id = every(sched, SECOND, misfire_policy="none", misfire_grace=SECOND)
    sched.clock(second(count) + SECOND + MICROSECOND)
    sched.conn.execute("update pgsched.task_definitions set is_active = false")
    catch_up(sched)
    sched.conn.execute("update pgsched.task_definitions set is_active = true")
    fold = ledger(sched)[0]
    assert (fold.scheduled_time, fold.folded_until) == (second(1), second(count))
    return schedule_id


# What runs


def test_what_was_skipped_runs(sched: Sched) -> None:
    cron(sched)
    for n in (1, 2, 3):
        sched.clock(START + n * MINUTE)
        sched.tick_all()
    assert outcomes(sched) == ["RUN", "SKIPPED", "SKIPPED"]
    old = ledger(sched)[1].reason

    made = backfill(sched, "job", START + MINUTE, sched.now)

    assert outcomes(sched) == ["RUN"] * 3
    assert ledger(sched)[1].reason == f"backfilled; was SKIPPED: {old}"
    assert (made.status, made.instant_count, made.run_count) == ("DONE", 3, 2)
    assert {fire.task_id for fire in ledger(sched)} == {task.id for task in sched.tasks()}


def test_what_was_missed_runs(sched: Sched) -> None:
    cron(sched, misfire_policy="none")
    sched.clock(START + 3 * MINUTE + 61 * SECOND)
    sched.tick_all()
    assert outcomes(sched) == ["MISSED"] * 3 + ["RUN"]

    made = backfill(sched, "job", START + MINUTE, sched.now)

    assert outcomes(sched) == ["RUN"] * 4
    assert ledger(sched)[0].reason.startswith("backfilled; was MISSED: misfire_policy none")
    assert (made.instant_count, made.run_count) == (4, 3)


def test_what_was_before_the_schedule_existed_runs(sched: Sched) -> None:
    cron(sched, "0 * * * *")

    made = backfill(sched, "job", START - 3 * HOUR, START - HOUR)

    assert times(sched) == [START - n * HOUR for n in (3, 2, 1)]
    assert {fire.reason for fire in ledger(sched)} == {"backfilled"}
    assert (made.instant_count, made.run_count) == (3, 3)


def test_an_interval_has_instants_before_it_was_made_too(sched: Sched) -> None:
    every(sched, HOUR, starts_at=START + 15 * MINUTE)

    backfill(sched, "job", START - 2 * HOUR, START)

    assert times(sched) == [START + 15 * MINUTE - n * HOUR for n in (2, 1)]


def test_what_fell_into_a_pause_runs(sched: Sched) -> None:
    cron(sched)
    sched.call("pause_schedule", "job")
    sched.clock(5 * MINUTE)
    assert ledger(sched) == []

    backfill(sched, "job", START, sched.now)

    assert times(sched) == [START + n * MINUTE for n in range(6)]


def test_what_has_run_is_left_alone(sched: Sched) -> None:
    cron(sched, overlap_policy="allow")
    for n in (1, 2):
        sched.clock(START + n * MINUTE)
        sched.tick_all()
    before = ledger(sched)

    made = backfill(sched, "job", START + MINUTE, sched.now)

    assert ledger(sched) == before
    assert len(sched.tasks()) == 2
    assert (made.status, made.instant_count, made.run_count) == ("DONE", 2, 0)


def test_the_same_backfill_again_runs_nothing(sched: Sched) -> None:
    cron(sched)
    backfill(sched, "job", START - HOUR, START)
    tasks = sched.tasks()

    again = backfill(sched, "job", START - HOUR, START)

    assert sched.tasks() == tasks
    assert (again.status, again.instant_count, again.run_count) == ("DONE", 61, 0)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (START - 2 * HOUR, START - HOUR, 2),  # both ends count
        (START - 2 * HOUR + MICROSECOND, START - HOUR, 1),
        (START - 2 * HOUR, START - HOUR - MICROSECOND, 1),
        (START - HOUR, START - HOUR, 1),
        (START - HOUR + SECOND, START - SECOND, 0),
    ],
)
def test_both_ends_of_the_range_count(
    sched: Sched, start: datetime, end: datetime, expected: int
) -> None:
    cron(sched, "0 * * * *")

    made = backfill(sched, "job", start, end)

    assert (made.status, made.instant_count, made.run_count) == ("DONE", expected, expected)
    assert len(sched.tasks()) == expected


def test_a_backfilled_task_is_like_one_that_ran_in_time(sched: Sched) -> None:
    sched.call("define_queue", "q")
    sched.define(input_params={"a": 1}, max_retries=7)
    named = {"input_params": {"b": 2}, "schedule_config": {"c": 3}, "queue": "q", "priority": 4}
    schedule_id = cron(sched, **named)

    backfill(sched, "job", START - MINUTE, START - MINUTE)

    (task,) = sched.tasks()
    assert (task.schedule_type, str(task.schedule_id)) == ("CRON", schedule_id)
    assert (task.scheduled_time, task.execute_after) == (START - MINUTE, START)
    assert (task.input_params, task.schedule_config) == ({"a": 1, "b": 2}, {"c": 3})
    assert (task.queue, task.priority, task.max_retries) == ("q", 4, 7)


def test_a_backfill_leaves_the_schedule_as_it_is(sched: Sched) -> None:
    schedule_id = cron(sched)
    before = row_of(sched, schedule_id)

    backfill(sched, "job", START - HOUR, START)

    assert row_of(sched, schedule_id) == before


def test_one_that_has_not_begun_yet_is_backfilled_up_to_now(sched: Sched) -> None:
    cron(sched, "0 * * * *", starts_at=START + DAY)
    sched.clock(3 * HOUR)

    backfill(sched, "job", START - HOUR, sched.now)

    assert times(sched) == [START + n * HOUR for n in range(-1, 4)]


def test_a_backfill_within_a_pause_leaves_what_is_yet_to_come_to_the_schedule(sched: Sched) -> None:
    """Its delay outlasts the pause, so the schedule comes to it by itself."""
    delay = timedelta(0)
    while delay < 13 * HOUR:
        schedule_id = cron(sched, misfire_policy="none", jitter=DAY)
        delay = sched.value("select pgsched.jitter_of(%s, '24 hours')", schedule_id)
        if delay < 13 * HOUR:
            sched.call("delete_schedule", "job")
    sched.call("pause_schedule", "job")
    sched.clock(12 * HOUR)
    backfill(sched, "job", START + MINUTE, START + 5 * HOUR)
    sched.call("resume_schedule", "job")
    sched.clock(2 * DAY)

    catch_up(sched)
    run_backfills(sched)

    require_exact(sched, schedule_id)
    assert not [at for at in times(sched) if at <= START + 5 * HOUR]


@pytest.mark.parametrize("state", ["PAUSED", "ENDED"])
def test_a_schedule_that_does_not_fire_can_be_backfilled(sched: Sched, state: str) -> None:
    cron(sched, **({"ends_at": START} if state == "ENDED" else {}))
    if state == "PAUSED":
        sched.call("pause_schedule", "job")
    assert sched.value("select state from pgsched.schedule_status") == state

    backfill(sched, "job", START - MINUTE, START)

    assert outcomes(sched) == ["RUN", "RUN"]


# Rows that stand for many instants


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (1, 200),  # whole
        (1, 50),  # head
        (80, 120),  # middle
        (150, 200),  # tail
        (1, 1),
        (2, 2),
        (200, 200),
        (2, 200),
        (1, 199),
    ],
)
def test_instants_come_out_of_the_row_that_stood_for_them(
    sched: Sched, first: int, last: int
) -> None:
    schedule_id = folded(sched)

    made = backfill(sched, "job", second(first), second(last))

    assert made.run_count == made.instant_count == last - first + 1
    assert times(sched) == [second(n) for n in range(first, last + 1)]
    left = sum(fire.folded_count for fire in ledger(sched) if fire.outcome == "MISSED")
    assert left == 200 - made.run_count
    require_exact(sched, schedule_id)


TWICE = [
    ((80, 120), (150, 160)),
    ((150, 160), (80, 120)),
    ((80, 120), (60, 140)),  # around the first
    ((80, 120), (100, 140)),  # over its end
    ((80, 120), (60, 100)),  # over its beginning
    ((80, 120), (1, 79)),  # up to it from the head
    ((80, 120), (1, 100)),
    ((80, 120), (121, 200)),
    ((1, 50), (40, 60)),
    ((1, 50), (51, 60)),
    ((150, 200), (140, 149)),
    ((150, 200), (1, 10)),
    ((2, 2), (1, 1)),
    ((199, 199), (1, 198)),
    ((1, 200), (1, 200)),
]


@pytest.mark.parametrize(("first", "then"), TWICE)
def test_what_an_earlier_backfill_took_out_is_not_taken_out_twice(
    sched: Sched, first: tuple[int, int], then: tuple[int, int]
) -> None:
    schedule_id = folded(sched)
    wanted = {n for start, end in (first, then) for n in range(start, end + 1)}

    for start, end in (first, then):
        backfill(sched, "job", second(start), second(end))

    assert times(sched) == [second(n) for n in sorted(wanted)]
    left = sum(fire.folded_count for fire in ledger(sched) if fire.outcome == "MISSED")
    assert left == 200 - len(wanted)
    require_exact(sched, schedule_id)


def test_a_range_over_several_rows_takes_from_each(sched: Sched) -> None:
    schedule_id = folded(sched)
    sched.clock(300 * SECOND)
    sched.conn.execute("update pgsched.task_definitions set is_active = false")
    catch_up(sched)
    sched.conn.execute("update pgsched.task_definitions set is_active = true")
    until = row_of(sched, schedule_id).counts_from

    backfill(sched, "job", second(100), until - 10 * SECOND)

    require_exact(sched, schedule_id)
    assert all(second(100) <= at <= until - 10 * SECOND for at in times(sched))


def test_slices_of_a_long_backfill_leave_nothing_of_the_row(sched: Sched) -> None:
    schedule_id = every(sched, SECOND, misfire_policy="none", misfire_grace=SECOND)
    sched.clock(second(2502))
    catch_up(sched)
    assert len(ledger(sched)) < 10

    made = backfill(sched, "job", second(1), second(2500), max_instants=2500)

    assert (made.status, made.instant_count, made.run_count) == ("DONE", 2500, 2500)
    assert times(sched)[:2500] == [second(n) for n in range(1, 2501)]
    require_exact(sched, schedule_id)


# The bound


def test_a_range_of_more_instants_than_allowed_is_refused_and_runs_nothing(sched: Sched) -> None:
    cron(sched)

    made = backfill(sched, "job", START - 11 * MINUTE, START - MINUTE, max_instants=10)

    assert (made.status, made.instant_count, made.run_count) == ("REFUSED", 0, 0)
    assert "more than 10 instants" in made.error_msg
    assert made.finished_at == sched.now
    assert (sched.tasks(), ledger(sched)) == ([], [])


def test_a_range_of_as_many_instants_as_allowed_runs(sched: Sched) -> None:
    cron(sched)

    made = backfill(sched, "job", START - 10 * MINUTE, START - MINUTE, max_instants=10)

    assert (made.status, made.run_count, made.error_msg) == ("DONE", 10, None)


def test_the_bound_counts_what_has_run_already_too(sched: Sched) -> None:
    cron(sched)
    backfill(sched, "job", START - 5 * MINUTE, START)

    made = backfill(sched, "job", START - 5 * MINUTE, START, max_instants=5)

    assert made.status == "REFUSED"


# Slices, and workers at the same time


def test_a_long_range_is_run_in_slices(sched: Sched) -> None:
    every(sched, SECOND)
    made = sched.call("backfill_schedule", "job", START - 2499 * SECOND, START, 2500)
    (due,) = due_backfills(sched)
    assert run_step(sched, step_of(due)) == 1000

    row = backfill_of(sched, made)
    assert (row.status, row.instant_count, row.run_count) == ("WAITING", 1000, 1000)
    assert row.counts_from == START - 1500 * SECOND
    assert row.finished_at is None

    assert run_backfills(sched) == 1500
    row = backfill_of(sched, made)
    assert (row.status, row.instant_count, row.run_count) == ("DONE", 2500, 2500)
    assert row.finished_at == sched.now
    assert len(sched.tasks()) == len(ledger(sched)) == 2500


def test_of_two_workers_with_the_same_slice_the_second_finds_it_done(
    sched: Sched, another: Sched
) -> None:
    cron(sched)
    made = sched.call("backfill_schedule", "job", START - 5 * MINUTE, START)
    (mine,), (yours,) = due_backfills(sched), due_backfills(another)

    assert run_step(sched, step_of(mine)) == 6
    assert run_step(another, step_of(yours)) == 0

    assert len(sched.tasks()) == len(ledger(sched)) == 6
    assert backfill_of(sched, made).run_count == 6


def test_two_workers_at_the_same_time_run_each_instant_once(sched: Sched, another: Sched) -> None:
    every(sched, SECOND)
    made = sched.call("backfill_schedule", "job", START - 2499 * SECOND, START, 2500)
    another.conn.execute("set lock_timeout = '1s'")

    while due := due_backfills(sched):
        with sched.conn.transaction():
            assert run_step(sched, step_of(due[0])) > 0
            assert run_step(another, step_of(due[0])) == 0  # and does not wait

    assert len(sched.tasks()) == len(ledger(sched)) == 2500
    assert backfill_of(sched, made).run_count == 2500


def test_a_slice_that_is_rolled_back_is_run_by_another(sched: Sched, another: Sched) -> None:
    cron(sched)
    made = sched.call("backfill_schedule", "job", START - 5 * MINUTE, START)
    with sched.transaction():
        run_backfills(sched)

    assert run_backfills(another) == 6
    assert backfill_of(sched, made).status == "DONE"


def test_two_backfills_of_the_same_range_run_each_instant_once(sched: Sched) -> None:
    cron(sched)
    both = [sched.call("backfill_schedule", "job", START - HOUR, START) for _ in range(2)]

    run_backfills(sched)

    assert len(sched.tasks()) == 61
    assert sorted(backfill_of(sched, made).run_count for made in both) == [0, 61]


def test_the_schedule_does_not_fire_while_a_slice_is_under_way(
    sched: Sched, another: Sched
) -> None:
    cron(sched)
    sched.call("backfill_schedule", "job", START - HOUR, START)
    another.conn.execute("set lock_timeout = '1s'")

    with sched.conn.transaction():
        run_backfills(sched)
        another.clock(MINUTE)
        assert another.tick_all() != []

    assert times(sched)[-1] == START
    another.tick_all()
    assert times(sched)[-1] == START + MINUTE


def test_an_instant_that_is_due_and_has_not_fired_is_run_by_one_of_the_two(sched: Sched) -> None:
    schedule_id = cron(sched, overlap_policy="allow")
    sched.clock(MINUTE)
    backfill(sched, "job", START + MINUTE, START + MINUTE)

    catch_up(sched)
    run_backfills(sched)

    assert outcomes(sched) == ["RUN"]
    assert len(sched.tasks()) == 1
    require_exact(sched, schedule_id)


@pytest.mark.parametrize("policy", ["latest", "all", "none"])
def test_a_backfill_of_an_outage_that_no_tick_has_seen_yet_loses_no_instant(
    sched: Sched, policy: str
) -> None:
    """The workers come back after an outage, with a backfill of a part of it to do."""
    schedule_id = cron(sched, overlap_policy="allow", misfire_policy=policy)
    sched.clock(START + 500 * MINUTE)
    backfill(sched, "job", START + MINUTE, START + 200 * MINUTE)

    catch_up(sched)
    run_backfills(sched)

    require_exact(sched, schedule_id)
    assert {START + n * MINUTE for n in range(1, 201)} <= set(times(sched))
    assert len(times(sched)) == len(sched.tasks())


# What stops one


def test_with_an_inactive_definition_it_is_refused(sched: Sched) -> None:
    cron(sched)
    sched.conn.execute("update pgsched.task_definitions set is_active = false")

    made = backfill(sched, "job", START - HOUR, START)

    assert (made.status, made.error_msg) == ("REFUSED", "its definition is not active")
    assert (sched.tasks(), ledger(sched)) == ([], [])


def test_with_a_definition_that_becomes_inactive_it_stops(sched: Sched) -> None:
    every(sched, SECOND)
    made = sched.call("backfill_schedule", "job", START - 2499 * SECOND, START, 2500)
    run_step(sched, step_of(due_backfills(sched)[0]))
    sched.conn.execute("update pgsched.task_definitions set is_active = false")

    run_backfills(sched)

    row = backfill_of(sched, made)
    assert (row.status, row.instant_count, row.run_count) == ("REFUSED", 1000, 1000)
    assert len(sched.tasks()) == 1000


def test_of_an_expression_that_cannot_be_read_it_is_refused(sched: Sched) -> None:
    cron(sched, "99 * * * *")

    made = backfill(sched, "job", START - HOUR, START)

    assert made.status == "REFUSED"
    assert "99" in made.error_msg


def test_a_backfill_goes_with_its_schedule(sched: Sched) -> None:
    cron(sched)
    sched.call("backfill_schedule", "job", START - HOUR, START)
    (due,) = due_backfills(sched)
    sched.call("delete_schedule", "job")

    assert run_step(sched, step_of(due)) == 0

    assert sched.rows("select * from pgsched.schedule_backfills") == []
    assert sched.tasks() == []


def test_one_that_cannot_be_computed_holds_up_no_other(sched: Sched) -> None:
    cron(sched, "99 * * * *", name="broken")
    cron(sched, name="good")
    sched.call("backfill_schedule", "broken", START - HOUR, START)
    sched.call("backfill_schedule", "good", START - HOUR, START)

    assert run_backfills(sched) == 61


@pytest.mark.parametrize("start", ["0001-01-01 00:00+00", "4000-01-01 00:00+00 BC"])
def test_a_begin_beyond_all_calendars_holds_up_no_other(sched: Sched, start: str) -> None:
    """A worker could not even read it."""
    cron(sched)
    sched.call("backfill_schedule", "job", START - HOUR, START)
    with pytest.raises(psycopg.Error, match="p_from_time") as refused:
        sched.call("backfill_schedule", "job", start, START)
    assert refused.value.sqlstate == "PS422"

    assert run_backfills(sched) == 61


# The request


REFUSED: list[tuple[list[Any], dict[str, Any], str, str]] = [
    (["nothing", START, START], {}, "PS404", "p_schedule"),
    (["job", START + SECOND, START], {}, "PS422", "p_from_time"),
    (["job", None, START], {}, "PS422", "p_from_time"),
    (["job", START, None], {}, "PS422", "p_to_time"),
    (["job", "-infinity", START], {}, "PS422", "p_from_time"),
    (["job", START, "infinity"], {}, "PS422", "p_to_time"),
    (["job", START, START + MICROSECOND], {}, "PS422", "p_to_time"),
    (["job", START, START], {"max_instants": 0}, "PS422", "p_max_instants"),
    (["job", START, START], {"max_instants": 100_001}, "PS422", "p_max_instants"),
    (["job", START, START], {"max_instants": None}, "PS422", "p_max_instants"),
]


@pytest.mark.parametrize(("given", "named", "sqlstate", "field"), REFUSED)
def test_a_wrong_request_is_refused_and_names_the_argument(
    sched: Sched, given: list[Any], named: dict[str, Any], sqlstate: str, field: str
) -> None:
    cron(sched)

    with pytest.raises(psycopg.Error, match=field) as refused:
        sched.call("backfill_schedule", *given, **named)

    assert refused.value.sqlstate == sqlstate
    assert sched.rows("select * from pgsched.schedule_backfills") == []


def test_the_message_names_the_very_argument_that_is_wrong(sched: Sched) -> None:
    cron(sched)

    with pytest.raises(psycopg.Error, match=r"^p_to_time"):
        sched.call("backfill_schedule", "job", START, None)


def test_a_request_is_a_row_that_tells_how_far_it_is(sched: Sched) -> None:
    schedule_id = cron(sched)

    made = sched.call("backfill_schedule", schedule_id, START - HOUR, START, 99)

    row = backfill_of(sched, made)
    assert (str(row.schedule_id), row.from_time, row.to_time) == (schedule_id, START - HOUR, START)
    assert (row.max_instants, row.status) == (99, "WAITING")
    assert (row.instant_count, row.run_count, row.error_msg, row.finished_at) == (0, 0, None, None)
    assert (row.created_by, row.created_at) == ("postgres", START)


def test_a_request_is_in_the_change_log(sched: Sched) -> None:
    schedule_id = cron(sched)

    made = sched.call("backfill_schedule", "job", START - HOUR, START)

    change = changes(sched, schedule_id)[-1]
    assert (change.change, change.changed_by, change.at) == ("BACKFILLED", "postgres", START)
    assert change.new_values["backfill_id"] == made
    assert change.new_values["max_instants"] == 1000


def test_a_request_that_is_rolled_back_runs_nothing(sched: Sched) -> None:
    cron(sched)
    with sched.transaction():
        sched.call("backfill_schedule", "job", START - HOUR, START)

    assert due_backfills(sched) == []


def test_a_request_about_a_schedule_that_is_being_deleted_is_refused(
    sched: Sched, another: Sched
) -> None:
    cron(sched)
    with another.conn.transaction():
        another.call("delete_schedule", "job")
        request = Background(
            sched.conn, lambda: sched.call("backfill_schedule", "job", START - HOUR, START)
        )
        request.wait_until_blocked(another)

    with pytest.raises(psycopg.Error) as refused:
        request.result()
    assert refused.value.sqlstate == "PS404"


@pytest.mark.parametrize("limit", [1, 2])
def test_the_oldest_requests_come_first(sched: Sched, limit: int) -> None:
    cron(sched)
    made = []
    for _ in range(3):
        made.append(sched.call("backfill_schedule", "job", START - HOUR, START))
        sched.clock(SECOND)

    rows = sched.rows("select * from pgsched.due_backfills(%s)", limit)

    assert [str(row.backfill_id) for row in rows] == made[:limit]
