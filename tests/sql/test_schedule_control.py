"""What people do to schedules: create, replace, reschedule, pause, resume, trigger."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.sql.ledger import (
    MICROSECOND,
    catch_up,
    changes,
    cron,
    every,
    instants,
    last_change,
    ledger,
    require_exact,
    row_of,
    status_of,
    tick_at,
    times,
)
from tests.sql.sched import HOUR, MINUTE, SECOND, START, Background, Sched

DAY = timedelta(days=1)
NOBODY = "01980000-0000-7000-8000-000000000000"


# Create or replace

FULL: dict[str, object] = {
    "input_params": {"a": 1},
    "priority": 3,
    "queue": "mail",
    "schedule_config": {"b": 2},
    "overlap_policy": "queue_one",
    "misfire_policy": "all",
    "misfire_grace": 5 * MINUTE,
    "jitter": 10 * SECOND,
    "starts_at": START,
    "ends_at": START + DAY,
    "max_runs": 9,
    "trace_id": NOBODY,
}
WAYS: dict[str, tuple[str, object]] = {
    "schedule_cron": ("cron_expression", "*/5 * * * *"),
    "schedule_every": ("every", 5 * MINUTE),
}


def put(sched: Sched, function: str, **named: object) -> str:
    """Create or replace the schedule `s`."""
    field, when = WAYS[function]
    return str(sched.call(function, **{"definition": "job", field: when, "name": "s", **named}))


@pytest.fixture
def mail(sched: Sched) -> None:
    sched.call("define_queue", "mail")


@pytest.mark.usefixtures("mail")
@pytest.mark.parametrize("function", WAYS)
def test_every_option_is_a_column(sched: Sched, function: str) -> None:
    row = row_of(sched, put(sched, function, **FULL))

    found = {name: getattr(row, name) for name in FULL}
    assert {**found, "trace_id": str(found["trace_id"])} == FULL
    assert (row.name, row.created_by, row.is_own) == ("s", "postgres", False)
    assert (row.run_count, row.revision, row.is_active) == (0, 0, True)
    expected = ("*/5 * * * *", None) if function == "schedule_cron" else (None, 5 * MINUTE)
    assert (row.cron_expr, row.every) == expected


@pytest.mark.usefixtures("mail")
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("function", WAYS)
def test_the_same_again_changes_nothing_at_all(sched: Sched, function: str, full: bool) -> None:
    given = FULL if full else {}
    schedule_id = put(sched, function, **given)
    tick_at(sched, START + 5 * MINUTE)
    sched.clock(MINUTE)
    before, log = row_of(sched, schedule_id), changes(sched, schedule_id)

    assert put(sched, function, **given) == schedule_id

    assert row_of(sched, schedule_id) == before
    assert changes(sched, schedule_id) == log


CHANGED: dict[str, object] = {
    "input_params": {"a": 2},
    "priority": None,
    "queue": "default",
    "schedule_config": {},
    "overlap_policy": "allow",
    "misfire_policy": "none",
    "misfire_grace": 6 * MINUTE,
    "jitter": 20 * SECOND,
    "starts_at": START - DAY,
    "ends_at": START + 2 * DAY,
    "max_runs": 10,
    "trace_id": None,
}


@pytest.mark.usefixtures("mail")
@pytest.mark.parametrize("option", CHANGED)
def test_one_changed_option_changes_its_column_and_is_recorded(sched: Sched, option: str) -> None:
    schedule_id = put(sched, "schedule_cron", **FULL)
    catch_up(sched)
    before = row_of(sched, schedule_id)._asdict()
    sched.clock(SECOND)

    put(sched, "schedule_cron", **{**FULL, option: CHANGED[option]})

    after = row_of(sched, schedule_id)._asdict()
    moved = {name for name in after if after[name] != before[name]}
    assert moved - {"next_run_at", "revision", "changed_at", "counts_from"} == {option}
    assert ("changed_at" in moved) == (option == "starts_at")
    change = last_change(sched, schedule_id)
    assert (change.change, change.at, change.changed_by) == ("CHANGED", sched.now, "postgres")
    assert change.old_values.keys() == change.new_values.keys() == {option}


def test_what_is_left_out_the_second_time_is_the_default_again(sched: Sched) -> None:
    schedule_id = put(sched, "schedule_cron", overlap_policy="allow", max_runs=3)

    put(sched, "schedule_cron")

    row = row_of(sched, schedule_id)
    assert (row.overlap_policy, row.max_runs) == ("skip", None)


def test_an_interval_may_take_the_place_of_an_expression_and_back(sched: Sched) -> None:
    schedule_id = put(sched, "schedule_cron", timezone="Europe/Paris")

    assert put(sched, "schedule_every") == schedule_id
    row = row_of(sched, schedule_id)
    assert (row.cron_expr, row.every, row.timezone) == (None, 5 * MINUTE, "UTC")

    assert put(sched, "schedule_cron") == schedule_id
    assert row_of(sched, schedule_id).every is None


def test_a_schedule_may_be_led_to_another_definition(sched: Sched) -> None:
    schedule_id = cron(sched, name="s")
    other = sched.define("other")

    sched.call("schedule_cron", "other", "* * * * *", name="s")
    tick_at(sched, START + MINUTE)

    assert str(row_of(sched, schedule_id).definition_id) == other
    assert [task.definition_name for task in sched.tasks()] == ["other"]
    assert last_change(sched, schedule_id).new_values == {"definition_id": other}


def test_two_sessions_that_replace_one_schedule_both_succeed(sched: Sched, another: Sched) -> None:
    schedule_id = cron(sched)
    with sched.conn.transaction():
        sched.call("schedule_cron", "job", "1 * * * *")
        second = Background(another.conn, lambda: cron(another, "2 * * * *"))
        second.wait_until_blocked(sched)

    assert second.result() == schedule_id
    assert row_of(sched, schedule_id).cron_expr == "2 * * * *"


WRONG: list[tuple[str, dict[str, object], str]] = [
    ("schedule_cron", {"name": ""}, "p_name"),
    ("schedule_cron", {"cron_expression": "nonsense"}, "p_cron_expression"),
    ("schedule_cron", {"cron_expression": None}, "p_cron_expression"),
    ("schedule_cron", {"timezone": "Mars/Base"}, "p_timezone"),
    ("schedule_cron", {"timezone": None}, "p_timezone"),
    ("schedule_cron", {"overlap_policy": "sometimes"}, "p_overlap_policy"),
    ("schedule_cron", {"misfire_policy": "some"}, "p_misfire_policy"),
    ("schedule_cron", {"misfire_grace": SECOND - MICROSECOND}, "p_misfire_grace"),
    ("schedule_cron", {"misfire_grace": 366 * DAY + MICROSECOND}, "p_misfire_grace"),
    ("schedule_cron", {"jitter": -MICROSECOND}, "p_jitter"),
    ("schedule_cron", {"jitter": DAY + MICROSECOND}, "p_jitter"),
    ("schedule_cron", {"starts_at": "infinity"}, "p_starts_at"),
    ("schedule_cron", {"starts_at": "-infinity"}, "p_starts_at"),
    ("schedule_cron", {"starts_at": "0044-03-15 BC"}, "p_starts_at"),
    ("schedule_cron", {"ends_at": "infinity"}, "p_ends_at"),
    ("schedule_cron", {"ends_at": "20000-01-01"}, "p_ends_at"),
    ("schedule_cron", {"starts_at": START + SECOND, "ends_at": START}, "p_ends_at"),
    ("schedule_cron", {"max_runs": 0}, "p_max_runs"),
    ("schedule_cron", {"priority": 10}, "p_priority"),
    ("schedule_cron", {"input_params": Jsonb([1])}, "p_input_params"),
    ("schedule_cron", {"input_params": {"a": "b" * 262_144}}, "p_input_params"),
    ("schedule_cron", {"schedule_config": Jsonb("x")}, "p_schedule_config"),
    ("schedule_every", {"every": None}, "p_every"),
    ("schedule_every", {"every": SECOND - MICROSECOND}, "p_every"),
    ("schedule_every", {"every": 366 * DAY + MICROSECOND}, "p_every"),
    ("schedule_every", {"every": "1 month"}, "p_every"),
    ("schedule_every", {"every": "1 year"}, "p_every"),
    ("schedule_every", {"every": "-1 hour"}, "p_every"),
    ("schedule_every", {"jitter": DAY + MICROSECOND}, "p_jitter"),
    ("schedule_every", {"max_runs": -1}, "p_max_runs"),
]


@pytest.mark.parametrize(("function", "given", "field"), WRONG)
def test_a_wrong_value_is_refused_and_named(
    sched: Sched, function: str, given: dict[str, object], field: str
) -> None:
    with pytest.raises(psycopg.Error, match=field) as refused:
        put(sched, function, **given)

    assert refused.value.sqlstate == "PS422"
    assert sched.rows("select * from pgsched.schedules") == []


@pytest.mark.parametrize("function", WAYS)
@pytest.mark.parametrize(
    ("given", "named"), [({"definition": "no"}, "'no'"), ({"queue": "no"}, "'no'")]
)
def test_what_does_not_exist_is_not_found(
    sched: Sched, function: str, given: dict[str, object], named: str
) -> None:
    with pytest.raises(psycopg.Error, match=named) as refused:
        put(sched, function, **given)

    assert refused.value.sqlstate == "PS404"


def test_what_a_run_would_be_given_must_not_be_too_large(sched: Sched) -> None:
    """Each half is allowed, and together they are not: as for a single task."""
    half = "x" * 200_000
    sched.define(input_params={"a": half})

    with pytest.raises(psycopg.Error, match=r"input_params .*262144") as refused:
        put(sched, "schedule_cron", input_params={"b": half})

    assert refused.value.sqlstate == "PS422"


EXTREMES: list[dict[str, object]] = [
    {"misfire_grace": SECOND},
    {"misfire_grace": 366 * DAY},
    {"jitter": timedelta(0)},
    {"jitter": DAY},
    {"max_runs": 1},
    {"max_runs": 2**63 - 1},
    {"priority": -9},
    {"priority": 9},
    {"starts_at": START, "ends_at": START},
]


@pytest.mark.parametrize("given", EXTREMES)
def test_the_ends_of_each_range_are_within_it(sched: Sched, given: dict[str, object]) -> None:
    row = row_of(sched, put(sched, "schedule_cron", **given))

    assert {name: getattr(row, name) for name in given} == given


@pytest.mark.parametrize("interval", [SECOND, 366 * DAY])
def test_an_interval_is_from_a_second_to_366_days(sched: Sched, interval: timedelta) -> None:
    assert row_of(sched, put(sched, "schedule_every", every=interval)).every == interval


def test_a_day_is_24_hours_for_an_interval(sched: Sched) -> None:
    schedule_id = str(sched.call("schedule_every", "job", "1 day"))
    catch_up(sched)

    assert row_of(sched, schedule_id).next_run_at == START + 24 * HOUR


# Pause and resume


def test_a_paused_schedule_does_not_fire_and_says_why(sched: Sched) -> None:
    schedule_id = cron(sched)
    tick_at(sched, START + MINUTE)

    sched.call("pause_schedule", "job", "the mailer moves")
    for n in range(2, 6):
        tick_at(sched, START + n * MINUTE)

    assert times(sched) == [START + MINUTE]
    status = status_of(sched, schedule_id)
    assert (status.state, status.pause_note, status.paused_until) == (
        "PAUSED",
        "the mailer moves",
        None,
    )
    assert (status.paused_at, status.next_run_at) == (START + MINUTE, None)
    assert len(sched.claim()) == 1  # what there is goes on


def test_what_falls_into_a_pause_is_not_in_the_ledger(sched: Sched) -> None:
    schedule_id = cron(sched, overlap_policy="allow")
    tick_at(sched, START + MINUTE)
    sched.call("pause_schedule", "job")
    tick_at(sched, START + 5 * MINUTE + SECOND)

    sched.call("resume_schedule", "job")
    catch_up(sched)

    row = row_of(sched, schedule_id)
    assert (row.next_run_at, row.is_active) == (START + 6 * MINUTE, True)
    assert (row.paused_at, row.paused_until, row.pause_note) == (None, None, None)
    tick_at(sched, START + 6 * MINUTE)
    assert times(sched) == [START + MINUTE, START + 6 * MINUTE]
    assert len(ledger(sched)) == 2


def test_a_pause_ends_by_itself(sched: Sched) -> None:
    schedule_id = cron(sched, overlap_policy="allow")
    sched.call("pause_schedule", "job", "until lunch", START + 3 * MINUTE + SECOND)
    tick_at(sched, START + 3 * MINUTE)
    assert status_of(sched, schedule_id).state == "PAUSED"

    tick_at(sched, START + 3 * MINUTE + SECOND)

    status = status_of(sched, schedule_id)
    assert (status.state, status.next_run_at) == ("ACTIVE", START + 4 * MINUTE)
    assert (status.paused_at, status.paused_until, status.pause_note) == (None, None, None)
    assert ledger(sched) == []
    assert last_change(sched, schedule_id).change == "RESUMED"


@pytest.mark.parametrize("by_hand", [True, False])
def test_what_came_after_the_end_of_the_pause_is_accounted_for(sched: Sched, by_hand: bool) -> None:
    """Nobody was there when it ended."""
    cron(sched, overlap_policy="allow", misfire_policy="none")
    sched.call("pause_schedule", "job", until=START + 3 * MINUTE)
    sched.clock(START + 6 * MINUTE + SECOND)
    if by_hand:
        sched.call("resume_schedule", "job")

    catch_up(sched)

    assert times(sched, "MISSED") == [START + 4 * MINUTE, START + 5 * MINUTE]
    assert times(sched) == [START + 6 * MINUTE]


def test_an_instant_at_the_very_end_of_a_pause_belongs_to_it(sched: Sched) -> None:
    cron(sched, overlap_policy="allow")
    sched.call("pause_schedule", "job", until=START + 3 * MINUTE)

    for n in range(1, 5):
        tick_at(sched, START + n * MINUTE)

    assert times(sched) == [START + 4 * MINUTE]


def test_a_pause_can_be_made_longer_and_its_note_changed(sched: Sched) -> None:
    schedule_id = cron(sched)
    sched.call("pause_schedule", "job", "a", START + 3 * MINUTE)
    sched.clock(MINUTE)
    sched.call("pause_schedule", "job", "b", START + 30 * MINUTE)
    tick_at(sched, START + 10 * MINUTE)

    status = status_of(sched, schedule_id)
    assert (status.state, status.pause_note) == ("PAUSED", "b")
    assert (status.paused_at, status.paused_until) == (START, START + 30 * MINUTE)


@pytest.mark.parametrize("function", WAYS)
def test_a_deployment_keeps_a_pause(sched: Sched, function: str) -> None:
    schedule_id = put(sched, function)
    sched.call("pause_schedule", "s", "why", START + HOUR)

    put(sched, function)
    put(sched, function, overlap_policy="allow", max_runs=3)
    field, _ = WAYS[function]
    put(sched, function, **{field: "1 * * * *" if function == "schedule_cron" else HOUR})
    tick_at(sched, START + 30 * MINUTE)

    status = status_of(sched, schedule_id)
    assert (status.state, status.pause_note) == ("PAUSED", "why")
    assert (status.paused_until, status.paused_at) == (START + HOUR, START)
    assert ledger(sched) == []


def test_a_time_that_was_changed_in_a_pause_holds_when_it_ends(sched: Sched) -> None:
    schedule_id = cron(sched, overlap_policy="allow")
    sched.call("pause_schedule", "job", until=START + 10 * MINUTE)
    sched.clock(5 * MINUTE)
    cron(sched, "*/15 * * * *", overlap_policy="allow")

    tick_at(sched, START + 10 * MINUTE)

    assert row_of(sched, schedule_id).next_run_at == START + 15 * MINUTE
    assert ledger(sched) == []


def test_a_new_time_counts_from_when_it_was_given_though_the_pause_was_over(sched: Sched) -> None:
    """The pause ended at 10 minutes, and nobody was there until 20."""
    cron(sched, "30 * * * *", overlap_policy="allow")
    sched.call("pause_schedule", "job", until=START + 10 * MINUTE)
    sched.clock(START + 20 * MINUTE)
    sched.call("schedule_cron", "job", "* * * * *", overlap_policy="allow")

    tick_at(sched, START + 21 * MINUTE)

    assert [fire.scheduled_time for fire in ledger(sched)] == [START + 21 * MINUTE]


def test_resuming_what_is_active_changes_nothing(sched: Sched) -> None:
    schedule_id = cron(sched)
    before = row_of(sched, schedule_id)

    sched.call("resume_schedule", "job")

    assert row_of(sched, schedule_id) == before
    assert len(changes(sched, schedule_id)) == 1


def test_an_instant_whose_delay_outlasts_a_pause_still_runs(sched: Sched) -> None:
    schedule_id = cron(sched, "0 * * * *", jitter=DAY)
    delay = sched.value("select pgsched.jitter_of(%s, '24 hours')", schedule_id)
    sched.clock(START + HOUR + delay - 2 * SECOND)
    sched.call("pause_schedule", "job")
    sched.clock(SECOND)
    sched.call("resume_schedule", "job")

    tick_at(sched, START + HOUR + delay)

    assert [fire.scheduled_time for fire in ledger(sched)][-1] == START + HOUR
    require_exact(sched, schedule_id)


@pytest.mark.parametrize("until", [START, START - SECOND, "infinity", "-infinity", "20000-01-01"])
def test_a_pause_must_end_in_the_future(sched: Sched, until: object) -> None:
    cron(sched)

    with pytest.raises(psycopg.Error, match="p_until") as refused:
        sched.call("pause_schedule", "job", "why", until)

    assert refused.value.sqlstate == "PS422"


# Reschedule


@pytest.mark.parametrize(
    ("start", "given", "expected"),
    [
        ("cron", {"cron_expression": "30 * * * *"}, ("30 * * * *", None, "Europe/Paris")),
        ("cron", {"timezone": "Asia/Tokyo"}, ("* * * * *", None, "Asia/Tokyo")),
        ("cron", {"every": HOUR}, (None, HOUR, "Europe/Paris")),
        (
            "cron",
            {"cron_expression": "1 * * * *", "timezone": "UTC"},
            ("1 * * * *", None, "UTC"),
        ),
        ("every", {"every": HOUR}, (None, HOUR, "UTC")),
        ("every", {"cron_expression": "30 * * * *"}, ("30 * * * *", None, "UTC")),
        (
            "every",
            {"cron_expression": "30 * * * *", "timezone": "Asia/Tokyo"},
            ("30 * * * *", None, "Asia/Tokyo"),
        ),
    ],
)
def test_reschedule_changes_the_time_and_nothing_else(
    sched: Sched, start: str, given: dict[str, object], expected: tuple[object, ...]
) -> None:
    options: dict[str, object] = {"overlap_policy": "allow", "max_runs": 7, "priority": 2}
    if start == "cron":
        schedule_id = cron(sched, timezone="Europe/Paris", **options)
    else:
        schedule_id = every(sched, MINUTE, **options)
    sched.clock(SECOND)

    sched.call("reschedule", "job", **given)

    row = row_of(sched, schedule_id)
    assert (row.cron_expr, row.every, row.timezone) == expected
    assert (row.overlap_policy, row.max_runs, row.priority) == ("allow", 7, 2)
    assert (row.changed_at, row.next_run_at) == (sched.now, None)
    catch_up(sched)
    (first, *_) = instants(sched, schedule_id, sched.now, sched.now + DAY)
    assert row_of(sched, schedule_id).next_run_at == first


def test_a_new_time_holds_at_once(sched: Sched) -> None:
    cron(sched, "0 0 * * *")

    sched.call("reschedule", "job", "* * * * *")

    tick_at(sched, START + MINUTE)
    assert times(sched) == [START + MINUTE]


def test_the_same_time_again_changes_nothing(sched: Sched) -> None:
    schedule_id = cron(sched, "30 * * * *")
    before = row_of(sched, schedule_id)
    sched.clock(SECOND)

    sched.call("reschedule", "job", "30 * * * *", timezone="UTC")

    assert row_of(sched, schedule_id) == before


def test_reschedule_keeps_a_pause(sched: Sched) -> None:
    schedule_id = cron(sched)
    sched.call("pause_schedule", "job", "why")

    sched.call("reschedule", "job", "30 * * * *")

    assert status_of(sched, schedule_id).state == "PAUSED"


def test_reschedule_mends_a_broken_schedule(sched: Sched) -> None:
    schedule_id = cron(sched, "99 * * * *")
    assert status_of(sched, schedule_id).state == "BROKEN"

    sched.call("reschedule", "job", "9 * * * *")
    catch_up(sched)

    row = row_of(sched, schedule_id)
    assert (row.is_active, row.error_msg) == (True, None)
    assert row.next_run_at == START + 9 * MINUTE


@pytest.mark.parametrize(
    ("start", "given", "field"),
    [
        ("cron", {}, "p_cron_expression, p_every or p_timezone"),
        ("cron", {"cron_expression": "* * * * *", "every": HOUR}, "p_cron_expression and p_every"),
        ("cron", {"cron_expression": "nonsense"}, "p_cron_expression"),
        ("cron", {"timezone": "Mars/Base"}, "p_timezone"),
        ("cron", {"every": timedelta(0)}, "p_every"),
        ("cron", {"every": HOUR, "timezone": "UTC"}, "p_timezone"),
        ("every", {"timezone": "UTC"}, "p_timezone"),
        ("every", {"every": "1 month"}, "p_every"),
    ],
)
def test_reschedule_refuses_what_makes_no_sense(
    sched: Sched, start: str, given: dict[str, object], field: str
) -> None:
    schedule_id = cron(sched) if start == "cron" else every(sched, MINUTE)
    before = row_of(sched, schedule_id)

    with pytest.raises(psycopg.Error, match=field) as refused:
        sched.call("reschedule", "job", **given)

    assert refused.value.sqlstate == "PS422"
    assert row_of(sched, schedule_id) == before


# Trigger


def test_a_trigger_makes_a_task_now_and_leaves_the_schedule_alone(sched: Sched) -> None:
    sched.call("define_queue", "q")
    sched.define(input_params={"a": 1, "x": 1}, schedule_config={"d": 4}, max_retries=7)
    named = {"input_params": {"b": 2, "x": 2}, "schedule_config": {"c": 3}}
    schedule_id = cron(sched, queue="q", priority=4, trace_id=NOBODY, **named)
    before = row_of(sched, schedule_id)
    sched.clock(SECOND)

    task_id = sched.call("trigger_schedule", "job", {"x": 3})

    task = sched.task(task_id)
    assert (task.schedule_type, str(task.schedule_id)) == ("CRON", schedule_id)
    assert (task.scheduled_time, task.execute_after) == (sched.now, sched.now)
    assert task.input_params == {"a": 1, "b": 2, "x": 3}
    assert task.schedule_config == {"c": 3, "d": 4}
    assert (task.queue, task.priority, task.max_retries) == ("q", 4, 7)
    assert str(task.trace_id) == NOBODY
    assert row_of(sched, schedule_id) == before
    assert ledger(sched) == []


def test_a_trigger_is_recorded_with_its_task(sched: Sched) -> None:
    schedule_id = cron(sched)

    task_id = sched.call("trigger_schedule", schedule_id)

    change = last_change(sched, schedule_id)
    assert (change.change, change.name, change.changed_by) == ("TRIGGERED", "job", "postgres")
    assert (change.old_values, change.new_values) == (None, {"task_id": task_id})


@pytest.mark.parametrize("state", ["PAUSED", "BROKEN", "ENDED"])
def test_a_schedule_that_does_not_fire_can_be_triggered(sched: Sched, state: str) -> None:
    expression = "99 * * * *" if state == "BROKEN" else "* * * * *"
    schedule_id = cron(sched, expression, ends_at=START if state == "ENDED" else None)
    if state == "PAUSED":
        sched.call("pause_schedule", "job")
    assert status_of(sched, schedule_id).state == state

    assert sched.call("trigger_schedule", "job") == sched.claim_one().id
    assert status_of(sched, schedule_id).state == state


def test_a_schedule_of_an_inactive_definition_cannot_be_triggered(sched: Sched) -> None:
    schedule_id = cron(sched)
    sched.conn.execute("update pgsched.task_definitions set is_active = false")

    with pytest.raises(psycopg.Error, match="'job' is not active") as refused:
        sched.call("trigger_schedule", "job")

    assert refused.value.sqlstate == "PS409"
    assert (sched.tasks(), len(changes(sched, schedule_id))) == ([], 1)


def test_a_trigger_with_a_key_makes_one_task(sched: Sched) -> None:
    cron(sched)

    first = sched.call("trigger_schedule", "job", idempotency_key="k")

    assert sched.call("trigger_schedule", "job", idempotency_key="k") == first
    assert len(sched.tasks()) == 1
    with pytest.raises(psycopg.Error, match="p_idempotency_key 'k'") as refused:
        sched.call("trigger_schedule", "job", {"a": 1}, "k")
    assert refused.value.sqlstate == "PS409"


@pytest.mark.parametrize("params", [Jsonb([1]), Jsonb(5), {"a": "b" * 262_144}])
def test_a_trigger_takes_an_object(sched: Sched, params: object) -> None:
    cron(sched)

    with pytest.raises(psycopg.Error, match="p_input_params") as refused:
        sched.call("trigger_schedule", "job", params)

    assert refused.value.sqlstate == "PS422"
