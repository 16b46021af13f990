"""The schedule that the cron_expr of a definition is."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.sql.ledger import (
    catch_up,
    cron,
    outcomes,
    row_of,
    tick_at,
    update,
)
from tests.sql.sched import HOUR, MINUTE, SECOND, START, Sched

# The schedule that a definition has of its own


def own(sched: Sched) -> list[Any]:
    return sched.rows("select * from pgsched.schedules where is_own order by name")


def test_a_definition_with_a_cron_expr_has_a_schedule_of_its_name_and_zone(sched: Sched) -> None:
    definition = sched.define(
        "daily", cron_expr="0 9 * * *", schedule_config={"timezone": "Asia/Tokyo"}
    )

    (row,) = own(sched)
    assert (row.name, row.cron_expr, row.timezone) == ("daily", "0 9 * * *", "Asia/Tokyo")
    assert str(row.definition_id) == definition
    catch_up(sched)
    assert row_of(sched, row.id).next_run_at == START + 12 * HOUR


@pytest.mark.parametrize("by_hand", [True, False])
def test_it_follows_its_definition_and_keeps_what_else_was_set(sched: Sched, by_hand: bool) -> None:
    sched.define("daily", cron_expr="0 9 * * *")
    (row,) = own(sched)
    update(sched, overlap_policy="allow", jitter=MINUTE, input_params={"a": 1}, max_runs=8)

    if by_hand:
        sched.conn.execute(
            "update pgsched.task_definitions set cron_expr = '0 8 * * *',"
            " schedule_config = '{\"timezone\": \"Asia/Tokyo\"}' where name = 'daily'"
        )
    else:
        sched.define("daily", cron_expr="0 8 * * *", schedule_config={"timezone": "Asia/Tokyo"})

    (after,) = own(sched)
    assert (after.id, after.cron_expr, after.timezone) == (row.id, "0 8 * * *", "Asia/Tokyo")
    assert (after.overlap_policy, after.jitter, after.max_runs) == ("allow", MINUTE, 8)
    assert after.input_params == {"a": 1}


def test_the_same_definition_again_leaves_it_alone(sched: Sched) -> None:
    sched.define("daily", cron_expr="0 9 * * *")
    catch_up(sched)
    before = own(sched)
    sched.clock(SECOND)

    sched.define("daily", cron_expr="0 9 * * *", content={"new": 1}, max_retries=1)

    assert own(sched) == before


def test_it_is_kept_paused_by_a_change_of_its_definition(sched: Sched) -> None:
    sched.define("daily", cron_expr="0 9 * * *")
    sched.call("pause_schedule", "daily", "why")

    sched.define("daily", cron_expr="0 8 * * *")

    (row,) = own(sched)
    assert (row.is_active, row.pause_note, row.cron_expr) == (False, "why", "0 8 * * *")


@pytest.mark.parametrize("by_hand", [True, False])
def test_it_goes_when_the_definition_has_no_cron_expr_any_more(sched: Sched, by_hand: bool) -> None:
    sched.define("often", cron_expr="* * * * *")
    (row,) = own(sched)
    tick_at(sched, START + MINUTE)

    if by_hand:
        sched.conn.execute("update pgsched.task_definitions set cron_expr = null")
    else:
        sched.define("often")

    assert own(sched) == []
    assert [task.status for task in sched.tasks()] == ["CANCELLED"]
    assert outcomes(sched, row.id) == ["RUN"]


def test_a_cron_expr_that_was_set_by_hand_makes_it(sched: Sched) -> None:
    sched.conn.execute("update pgsched.task_definitions set cron_expr = '0 9 * * *'")

    (row,) = own(sched)
    assert (row.name, row.cron_expr) == ("job", "0 9 * * *")


def test_it_is_renamed_with_its_definition(sched: Sched) -> None:
    sched.define("daily", cron_expr="0 9 * * *")
    (before,) = own(sched)

    sched.conn.execute("update pgsched.task_definitions set name = 'new' where name = 'daily'")

    (row,) = own(sched)
    assert (row.id, row.name) == (before.id, "new")


def test_other_schedules_of_the_definition_are_left_alone(sched: Sched) -> None:
    sched.define("daily", cron_expr="0 9 * * *")
    sched.call("schedule_cron", "daily", "0 1 * * *", name="other")

    sched.define("daily", cron_expr="0 8 * * *")
    sched.define("daily")

    (row,) = sched.rows("select * from pgsched.schedules")
    assert (row.name, row.cron_expr, row.is_own) == ("other", "0 1 * * *", False)


def test_a_schedule_of_that_name_becomes_its_own(sched: Sched) -> None:
    made = sched.call("schedule_cron", "job", "0 1 * * *", overlap_policy="allow")

    sched.define(cron_expr="0 9 * * *")

    (row,) = own(sched)
    assert (str(row.id), row.cron_expr, row.overlap_policy) == (made, "0 9 * * *", "allow")


BY_HAND = "insert into pgsched.task_definitions (name, cron_expr) values ('daily', '@daily')"


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_name_that_is_taken_is_a_conflict(sched: Sched, by_hand: bool) -> None:
    cron(sched, name="daily")
    query = BY_HAND if by_hand else "select pgsched.define_task('daily', p_cron_expr => '@daily')"

    with pytest.raises(psycopg.Error, match="schedule of the name 'daily'") as refused:
        sched.conn.execute(query)

    assert refused.value.sqlstate == "PS409"
    assert sched.rows("select * from pgsched.task_definitions where name = 'daily'") == []


def test_a_schedule_that_is_led_to_another_definition_is_its_own_no_more(sched: Sched) -> None:
    """Else the definition it was led to would rename or delete it."""
    sched.define("daily", cron_expr="0 9 * * *")
    sched.call("schedule_cron", "job", "0 1 * * *", name="daily")
    assert own(sched) == []

    sched.define(cron_expr="0 2 * * *")
    sched.define()

    (row,) = sched.rows("select * from pgsched.schedules")
    assert (row.name, row.cron_expr) == ("daily", "0 1 * * *")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"cron_expr": "nonsense"}, "p_cron_expr "),
        ({"cron_expr": "0 9 * * *", "schedule_config": {"timezone": "Mars/Base"}}, "timezone"),
    ],
)
def test_a_definition_with_a_wrong_time_is_refused(
    sched: Sched, given: dict[str, object], field: str
) -> None:
    with pytest.raises(psycopg.Error, match=field) as refused:
        sched.define("daily", **given)

    assert refused.value.sqlstate == "PS422"
    assert sched.rows("select * from pgsched.task_definitions where name = 'daily'") == []


def test_temporary_definitions_of_one_name_have_a_schedule_each(sched: Sched) -> None:
    made = [sched.define("daily", cron_expr="0 9 * * *", is_temporary=True) for _ in range(2)]
    sched.define("daily", cron_expr="0 8 * * *")

    assert {str(row.definition_id) for row in own(sched)} > set(made)
    names = [row.name for row in own(sched)]
    assert len(set(names)) == 3
    assert all(name.startswith("daily") for name in names)
