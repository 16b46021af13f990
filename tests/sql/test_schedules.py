"""Schedules: how they are written, and how they fire once, whoever ticks."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.sql.sched import HOUR, MINUTE, SECOND, Background, Sched


def cron(sched: Sched, expression: str = "0 * * * *", /, **named: object) -> str:
    return str(sched.call("schedule_cron", "job", expression, **named))


def schedule(sched: Sched, schedule_id: str) -> Any:
    (row,) = sched.rows("select * from pgsched.schedules where id = %s", schedule_id)
    return row


def fires(sched: Sched) -> list[Any]:
    return sched.rows("select * from pgsched.schedule_fires order by scheduled_time")


def due(sched: Sched) -> list[str]:
    return [str(row.schedule_id) for row in sched.rows("select * from pgsched.due_schedules()")]


def started(sched: Sched, **named: object) -> str:
    """A schedule whose first instant is now."""
    schedule_id = cron(sched, **named)
    assert sched.fire(schedule_id, None, sched.now) == 0
    return schedule_id


# Writing them


def test_a_new_schedule_wants_its_first_instant_computed(sched: Sched) -> None:
    schedule_id = cron(sched)

    assert due(sched) == [schedule_id]
    row = schedule(sched, schedule_id)
    assert (row.next_run_at, row.changed_at, row.is_active) == (None, sched.now, True)
    assert (row.name, row.timezone) == ("job", "UTC")

    sched.fire(schedule_id, None, sched.now + HOUR)
    assert due(sched) == []
    assert sched.tasks() == fires(sched) == []

    sched.clock(HOUR)
    assert due(sched) == [schedule_id]


def test_the_same_again_changes_nothing(sched: Sched) -> None:
    named: dict[str, object] = {"input_params": {"a": 1}, "timezone": "Europe/Paris", "priority": 3}
    schedule_id = cron(sched, name="n", **named)
    sched.fire(schedule_id, None, sched.now + HOUR)
    before = schedule(sched, schedule_id)
    sched.clock(MINUTE)

    assert cron(sched, name="n", **named) == schedule_id

    assert schedule(sched, schedule_id) == before


@pytest.mark.parametrize(
    ("expression", "zone"), [("5 * * * *", "UTC"), ("0 * * * *", "Europe/Paris")]
)
def test_a_changed_time_is_computed_anew(sched: Sched, expression: str, zone: str) -> None:
    schedule_id = started(sched)
    sched.clock(MINUTE)

    cron(sched, expression, timezone=zone)

    row = schedule(sched, schedule_id)
    assert (row.next_run_at, row.changed_at) == (None, sched.now)
    assert due(sched) == [schedule_id]


def test_changed_input_keeps_the_time(sched: Sched) -> None:
    schedule_id = started(sched)
    before = schedule(sched, schedule_id)
    sched.clock(MINUTE)

    cron(sched, input_params={"a": 2})

    row = schedule(sched, schedule_id)
    assert row.input_params == {"a": 2}
    assert (row.next_run_at, row.changed_at) == (before.next_run_at, before.changed_at)


def test_one_definition_may_have_many_schedules(sched: Sched) -> None:
    assert len({cron(sched, name=name) for name in ("a", "b", "c")}) == 3


def test_a_definition_with_a_cron_expression_has_a_schedule_of_its_name(sched: Sched) -> None:
    definition = sched.define("hourly", cron_expr="@hourly", schedule_type="CRON")

    (row,) = sched.rows("select * from pgsched.schedules")
    assert (row.name, row.cron_expr, str(row.definition_id)) == ("hourly", "@hourly", definition)


@pytest.mark.parametrize(
    "expression",
    [
        "* * * * *",
        "*/5 0-23 1,15 jan-DEC mon",
        "30 0 9 * * 1-5",  # six fields: seconds first
        "0 0 L * *",
        "0 0 * * 5#2",
        "0 0 ? * *",
        "@hourly",
        "@Daily",
        "  0  0\t* * *  ",
    ],
)
def test_the_shape_of_an_expression_is_accepted(sched: Sched, expression: str) -> None:
    assert schedule(sched, cron(sched, expression)).cron_expr == expression


@pytest.mark.parametrize(
    "expression",
    ["", " ", "*", "* * * *", "* * * * * * *", "* * * * ;", "@", "@every 5m", "0 0 * * $(x)"],
)
def test_the_wrong_shape_is_refused(sched: Sched, expression: str) -> None:
    with pytest.raises(psycopg.Error, match="p_cron_expression") as refused:
        cron(sched, expression)

    assert refused.value.sqlstate == "PS422"


@pytest.mark.parametrize("zone", ["Mars/Olympus", "Europe/", "nonsense"])
def test_an_unknown_zone_is_refused(sched: Sched, zone: str) -> None:
    with pytest.raises(psycopg.Error, match=f"p_timezone .*{zone}") as refused:
        cron(sched, timezone=zone)

    assert refused.value.sqlstate == "PS422"


# Firing them


def test_a_fire_makes_a_task_and_a_line_in_the_ledger_and_advances(sched: Sched) -> None:
    sched.call("define_queue", "q")
    named = {"input_params": {"b": 2}, "schedule_config": {"c": 3}, "queue": "q", "priority": 4}
    sched.define(input_params={"a": 1}, max_retries=7)
    schedule_id = started(sched, **named)
    nominal = sched.now
    sched.clock(SECOND)

    assert sched.fire(schedule_id, nominal, nominal + HOUR) == 1

    (task,) = sched.tasks()
    assert (task.schedule_type, task.status) == ("CRON", "PENDING")
    assert str(task.schedule_id) == schedule_id
    assert (task.scheduled_time, task.execute_after) == (nominal, sched.now)
    assert (task.queue, task.priority, task.max_retries) == ("q", 4, 7)
    assert (task.input_params, task.schedule_config) == ({"a": 1, "b": 2}, {"c": 3})
    (fire,) = fires(sched)
    assert (fire.outcome, fire.reason, fire.task_id) == ("RUN", None, task.id)
    assert (str(fire.schedule_id), fire.scheduled_time) == (schedule_id, nominal)
    row = schedule(sched, schedule_id)
    assert (row.next_run_at, row.last_run_at, row.run_count) == (nominal + HOUR, nominal, 1)


def test_who_computed_from_another_instant_changes_nothing(sched: Sched) -> None:
    schedule_id = started(sched)
    before = schedule(sched, schedule_id)

    assert sched.fire(schedule_id, sched.now - HOUR, sched.now + HOUR) == 0
    assert sched.fire(schedule_id, None, sched.now + HOUR) == 0

    assert (schedule(sched, schedule_id), sched.tasks(), fires(sched)) == (before, [], [])


def test_the_second_of_two_ticks_finds_it_done(sched: Sched, another: Sched) -> None:
    schedule_id, now = started(sched), sched.now

    assert sched.fire(schedule_id, now, now + HOUR) == 1
    assert another.fire(schedule_id, now, now + HOUR) == 0

    assert (len(sched.tasks()), schedule(sched, schedule_id).run_count) == (1, 1)


def test_of_two_ticks_at_once_neither_waits_and_one_makes_the_task(
    sched: Sched, another: Sched
) -> None:
    schedule_id, now = started(sched), sched.now
    another.conn.execute("set lock_timeout = '1s'")

    with sched.conn.transaction():
        assert sched.fire(schedule_id, now, now + HOUR) == 1
        assert another.fire(schedule_id, now, now + HOUR) == 0

    assert another.fire(schedule_id, now, now + HOUR) == 0
    assert len(sched.tasks()) == len(fires(sched)) == 1


def test_a_tick_that_is_rolled_back_leaves_the_fire_to_another(
    sched: Sched, another: Sched
) -> None:
    schedule_id, now = started(sched), sched.now
    with sched.transaction():
        sched.fire(schedule_id, now, now + HOUR)

    assert another.fire(schedule_id, now, now + HOUR) == 1


def test_an_instant_that_is_in_the_ledger_makes_no_second_task(sched: Sched) -> None:
    """Whatever sets next_run_at back."""
    schedule_id, now = started(sched), sched.now
    sched.fire(schedule_id, now, now + HOUR)
    sched.conn.execute("update pgsched.schedules set next_run_at = %s", [now])

    assert sched.fire(schedule_id, now, now + HOUR) == 0

    assert len(sched.tasks()) == len(fires(sched)) == 1
    assert schedule(sched, schedule_id).next_run_at == now + HOUR


def test_a_batch_fires_each_schedule_once(sched: Sched) -> None:
    made, now = [started(sched, name=name) for name in ("a", "b", "c")], sched.now
    ticks = [sched.tick_for(s, now, now + HOUR) for s in made]
    stale = {**ticks[2], "expected": now - HOUR}

    assert sched.tick(*ticks[:2], stale) == 2

    assert {str(fire.schedule_id) for fire in fires(sched)} == set(made[:2])


def test_the_same_schedule_twice_in_one_batch_fires_once(sched: Sched) -> None:
    schedule_id, now = started(sched), sched.now
    tick = sched.tick_for(schedule_id, now, now + HOUR)

    assert sched.tick(tick, tick) == 1

    assert len(sched.tasks()) == len(fires(sched)) == 1


def test_an_inactive_definition_is_skipped_and_the_ledger_says_why(sched: Sched) -> None:
    schedule_id, now = started(sched), sched.now
    sched.conn.execute("update pgsched.task_definitions set is_active = false")

    assert sched.fire(schedule_id, now, now + HOUR) == 0

    (fire,) = fires(sched)
    assert (fire.outcome, fire.task_id) == ("SKIPPED", None)
    assert "not active" in fire.reason
    assert sched.tasks() == []
    assert schedule(sched, schedule_id).next_run_at == now + HOUR


def test_an_inactive_schedule_does_not_fire(sched: Sched) -> None:
    schedule_id, now = started(sched), sched.now
    sched.conn.execute("update pgsched.schedules set is_active = false")

    assert due(sched) == []
    assert sched.fire(schedule_id, now, now + HOUR) == 0
    assert fires(sched) == []


def test_an_expression_that_cannot_be_parsed_switches_its_schedule_off(sched: Sched) -> None:
    schedule_id = cron(sched, "99 * * * *")

    sched.fire(schedule_id, None, None, error_msg="99 is not a minute")

    row = schedule(sched, schedule_id)
    assert (row.is_active, row.error_msg, row.run_count) == (False, "99 is not a minute", 0)
    assert due(sched) == []

    cron(sched, "9 * * * *")
    row = schedule(sched, schedule_id)
    assert (row.is_active, row.error_msg) == (True, None)
    assert due(sched) == [schedule_id]


def test_a_tick_that_was_computed_from_the_old_expression_is_too_late(
    sched: Sched, another: Sched
) -> None:
    schedule_id, now = started(sched), sched.now
    tick = sched.tick_for(schedule_id, now, now + HOUR)
    cron(another, "5 * * * *")

    assert sched.tick(tick) == 0

    assert schedule(sched, schedule_id).next_run_at is None
    assert sched.tasks() == []


def test_a_first_instant_computed_from_the_old_expression_is_too_late(
    sched: Sched, another: Sched
) -> None:
    """Both know the schedule without a next_run_at: only what it was computed from differs."""
    schedule_id = cron(sched)
    tick = sched.tick_for(schedule_id, None, sched.now + HOUR)
    cron(another, "5 * * * *")  # after the tick has read the schedule, before it writes

    sched.tick(tick)

    assert schedule(sched, schedule_id).next_run_at is None


def test_a_schedule_that_a_stranger_has_locked_holds_up_no_other(
    sched: Sched, another: Sched
) -> None:
    locked, free, now = started(sched, name="a"), started(sched, name="b"), sched.now
    ticks = [sched.tick_for(s, now, now + HOUR) for s in (locked, free)]
    sched.conn.execute("set lock_timeout = '1s'")

    with another.transaction():
        another.conn.execute("update pgsched.schedules set input_params = '{}' where name = 'a'")
        assert sched.tick(*ticks) == 1

    assert sched.tick(*ticks) == 1


def test_two_sessions_that_create_one_schedule_make_one(sched: Sched, another: Sched) -> None:
    with sched.conn.transaction():
        first = cron(sched)
        second = Background(another.conn, lambda: cron(another))
        second.wait_until_blocked(sched)

    assert second.result() == first
