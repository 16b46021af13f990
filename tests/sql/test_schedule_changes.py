"""Schedules changed by plain SQL, what is written down of a change, and what it overtakes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.sql.ledger import (
    MICROSECOND,
    account_of,
    catch_up,
    changes,
    cron,
    last_change,
    ledger,
    outcomes,
    require_exact,
    row_of,
    status_of,
    tick_at,
    times,
    update,
)
from tests.sql.sched import HOUR, MINUTE, SECOND, START, Sched

DAY = timedelta(days=1)
NOBODY = "01980000-0000-7000-8000-000000000000"


# Plain SQL does the same


def twins(sched: Sched, expression: str = "* * * * *", **named: object) -> tuple[str, str]:
    """Two schedules that differ in nothing but their names."""
    return cron(sched, expression, name="a", **named), cron(sched, expression, name="b", **named)


def require_alike(sched: Sched, first: str, second: str) -> None:
    rows = [row_of(sched, schedule_id)._asdict() for schedule_id in (first, second)]
    for row in rows:
        del row["id"], row["name"], row["last_task_id"]
    assert rows[0] == rows[1]
    logs = [
        [(c.change, c.old_values, c.new_values) for c in changes(sched, s)[1:]]
        for s in (first, second)
    ]
    assert logs[0] == logs[1]


PLAIN: dict[str, tuple[Callable[[Sched], object], str]] = {
    "reschedule": (lambda s: s.call("reschedule", "a", "1 * * * *"), "cron_expr = '1 * * * *'"),
    "to an interval": (
        lambda s: s.call("reschedule", "a", every=HOUR),
        "cron_expr = null, every = '1 hour'",
    ),
    "the zone": (
        lambda s: s.call("reschedule", "a", timezone="Asia/Tokyo"),
        "timezone = 'Asia/Tokyo'",
    ),
    "pause": (lambda s: s.call("pause_schedule", "a"), "is_active = false"),
    "pause with a note": (
        lambda s: s.call("pause_schedule", "a", "why"),
        "is_active = false, pause_note = 'why'",
    ),
    "pause until": (
        lambda s: s.call("pause_schedule", "a", until=START + HOUR),
        f"paused_until = '{START + HOUR}'",
    ),
}


@pytest.mark.parametrize("act", PLAIN)
def test_a_plain_update_does_the_same_as_the_function(sched: Sched, act: str) -> None:
    function, assignments = PLAIN[act]
    first, second = twins(sched)
    tick_at(sched, START + MINUTE)
    sched.clock(SECOND)

    function(sched)
    sched.conn.execute(f"update pgsched.schedules set {assignments} where name = 'b'".encode())

    require_alike(sched, first, second)
    catch_up(sched)
    require_alike(sched, first, second)


def test_a_plain_update_resumes_as_the_function_does(sched: Sched) -> None:
    first, second = twins(sched)
    for name in ("a", "b"):
        sched.call("pause_schedule", name, "why", START + HOUR)
    sched.clock(MINUTE)

    sched.call("resume_schedule", "a")
    sched.conn.execute("update pgsched.schedules set is_active = true where name = 'b'")

    require_alike(sched, first, second)


OPTIONS: dict[str, object] = {
    "input_params": {"a": 2},
    "priority": None,
    "queue": "mail",
    "schedule_config": {"b": 2},
    "overlap_policy": "allow",
    "misfire_policy": "none",
    "misfire_grace": 6 * MINUTE,
    "jitter": 20 * SECOND,
    "starts_at": START + MINUTE,
    "ends_at": START + 2 * DAY,
    "max_runs": 10,
    "trace_id": None,
}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_plain_update_of_an_option_does_the_same_as_the_function(
    sched: Sched, option: str
) -> None:
    sched.call("define_queue", "mail")
    first, second = twins(sched, priority=1, trace_id=NOBODY)
    value = OPTIONS[option]
    sched.clock(SECOND)

    given = {"priority": 1, "trace_id": NOBODY, option: value}
    sched.call("schedule_cron", "job", "* * * * *", name="a", **given)
    query = f"update pgsched.schedules set {option} = %s where name = 'b'"
    sched.conn.execute(query.encode(), [Jsonb(value) if isinstance(value, dict) else value])

    require_alike(sched, first, second)


def test_a_plain_delete_keeps_the_ledger_and_is_recorded(sched: Sched) -> None:
    schedule_id = cron(sched)
    tick_at(sched, START + MINUTE)

    sched.conn.execute("delete from pgsched.schedules")

    assert outcomes(sched, schedule_id) == ["RUN"]
    assert last_change(sched, schedule_id).change == "DELETED"


MINIMAL = """
    insert into pgsched.schedules (definition_id, name, cron_expr)
    select d.id, 'mine', %s from pgsched.task_definitions as d where d.name = 'job'
    returning id
"""


def insert(sched: Sched, expression: str, **columns: object) -> str:
    """A schedule made by psql alone."""
    schedule_id = str(sched.value(MINIMAL, expression))
    if columns:
        update(sched, **columns)
    return schedule_id


def test_a_schedule_that_was_inserted_by_hand_fires(sched: Sched) -> None:
    schedule_id = insert(sched, "* * * * *")
    catch_up(sched)
    assert row_of(sched, schedule_id).next_run_at == START + MINUTE

    tick_at(sched, START + MINUTE)

    assert times(sched) == [START + MINUTE]
    assert sched.run() == str(row_of(sched, schedule_id).last_task_id)
    assert [c.change for c in changes(sched, schedule_id)] == ["CREATED"]


@pytest.mark.parametrize(
    ("expression", "columns", "why"),
    [
        ("99 * * * *", {}, "99"),
        ("nonsense", {}, "nonsense"),
        ("0 0 30 2 *", {}, "never happens"),
        ("* * * * *", {"timezone": "Mars/Base"}, "Mars/Base"),
        ("* * * * *", {"timezone": ""}, "timezone"),
    ],
)
def test_what_cannot_be_read_says_so_in_its_row(
    sched: Sched, expression: str, columns: dict[str, object], why: str
) -> None:
    schedule_id = insert(sched, expression, **columns)
    catch_up(sched)

    row = row_of(sched, schedule_id)
    assert (row.is_active, row.next_run_at) == (False, None)
    assert why in row.error_msg
    assert status_of(sched, schedule_id).state == "BROKEN"
    assert why in sched.call("explain_schedule", "mine")
    change = last_change(sched, schedule_id)
    assert change.change == "BROKEN"
    assert change.new_values == {"is_active": False, "error_msg": row.error_msg}


def test_a_schedule_that_cannot_be_read_holds_up_no_other(sched: Sched) -> None:
    insert(sched, "nonsense")
    cron(sched, name="good")

    tick_at(sched, START + MINUTE)

    assert times(sched) == [START + MINUTE]


@pytest.mark.parametrize("state", ["active", "paused"])
def test_a_schedule_can_be_inserted_as_paused(sched: Sched, state: str) -> None:
    column = "is_active" if state == "active" else "paused_until"
    value = "false" if state == "active" else f"'{START + HOUR}'"
    query = f"""
        insert into pgsched.schedules (definition_id, name, cron_expr, {column})
        select d.id, 'mine', '* * * * *', {value} from pgsched.task_definitions as d
        returning id
    """
    schedule_id = str(sched.value(query))

    tick_at(sched, START + MINUTE)

    assert status_of(sched, schedule_id).state == "PAUSED"
    assert ledger(sched) == []


CONSTRAINTS: list[tuple[dict[str, object], str]] = [
    ({"name": ""}, "name_is_not_empty"),
    ({"cron_expr": None}, "cron_expr_or_every"),
    ({"every": HOUR}, "cron_expr_or_every"),
    ({"cron_expr": None, "every": timedelta(0)}, "every_is_1_second_to_366_days"),
    ({"cron_expr": None, "every": 367 * DAY}, "every_is_1_second_to_366_days"),
    ({"cron_expr": None, "every": "1 month"}, "every_has_no_months"),
    ({"overlap_policy": "sometimes"}, "overlap_policy_is_skip_queue_one_or_allow"),
    ({"misfire_policy": "some"}, "misfire_policy_is_latest_all_or_none"),
    ({"misfire_grace": timedelta(0)}, "misfire_grace_is_1_second_to_366_days"),
    ({"jitter": 25 * HOUR}, "jitter_is_0_to_24_hours"),
    ({"jitter": -SECOND}, "jitter_is_0_to_24_hours"),
    ({"max_runs": 0}, "max_runs_is_at_least_1"),
    ({"starts_at": START, "ends_at": START - SECOND}, "starts_at_is_before_ends_at"),
    ({"starts_at": "infinity"}, "starts_at|finite|years"),
    ({"ends_at": "20000-01-01"}, "ends_at|years"),
    ({"paused_until": "infinity"}, "paused_until|finite|years"),
    ({"input_params": Jsonb([1])}, "objects"),
    ({"schedule_config": Jsonb("x")}, "objects"),
    ({"queue": "nowhere"}, "queue_fkey"),
    ({"priority": 10}, "priority"),
]


@pytest.mark.parametrize(("columns", "constraint"), CONSTRAINTS)
def test_a_plain_update_to_a_wrong_value_is_refused(
    sched: Sched, columns: dict[str, object], constraint: str
) -> None:
    schedule_id = insert(sched, "* * * * *")
    before = row_of(sched, schedule_id)

    with pytest.raises(psycopg.IntegrityError, match=constraint):
        update(sched, **columns)

    assert row_of(sched, schedule_id) == before


def test_a_name_is_taken_once(sched: Sched) -> None:
    insert(sched, "* * * * *")

    with pytest.raises(psycopg.errors.UniqueViolation, match="schedules_name_key"):
        insert(sched, "* * * * *")


# The change log


def test_the_life_of_a_schedule_is_written_down(sched: Sched) -> None:
    schedule_id = cron(sched, "0 * * * *")
    acts: list[Callable[[], object]] = [
        lambda: sched.call("pause_schedule", "job", "why", START + DAY),
        lambda: sched.call("reschedule", "job", "30 * * * *"),
        lambda: sched.call("resume_schedule", "job"),
        lambda: sched.call("trigger_schedule", "job"),
        lambda: sched.call("backfill_schedule", "job", START, START),
        lambda: update(sched, name="new"),
        lambda: update(sched, cron_expr="99 * * * *"),
        lambda: catch_up(sched),
        lambda: sched.call("reschedule", "new", "15 * * * *"),
        lambda: update(sched, ends_at=START + MINUTE),
        lambda: catch_up(sched),
        lambda: sched.call("delete_schedule", "new"),
    ]
    for act in acts:
        sched.clock(SECOND)
        act()

    log = changes(sched, schedule_id)
    assert [(c.change, c.at, c.name) for c in log] == [
        ("CREATED", START, "job"),
        ("PAUSED", START + 1 * SECOND, "job"),
        ("CHANGED", START + 2 * SECOND, "job"),
        ("RESUMED", START + 3 * SECOND, "job"),
        ("TRIGGERED", START + 4 * SECOND, "job"),
        ("BACKFILLED", START + 5 * SECOND, "job"),
        ("CHANGED", START + 6 * SECOND, "new"),
        ("CHANGED", START + 7 * SECOND, "new"),
        ("BROKEN", START + 8 * SECOND, "new"),
        ("RESUMED", START + 9 * SECOND, "new"),
        ("CHANGED", START + 10 * SECOND, "new"),
        ("ENDED", START + 11 * SECOND, "new"),
        ("DELETED", START + 12 * SECOND, "new"),
    ]
    assert {c.changed_by for c in log} == {"postgres"}
    old = [c.old_values for c in log]
    new = [c.new_values for c in log]
    assert old[0] is None
    assert (new[0]["cron_expr"], new[0]["is_active"]) == ("0 * * * *", True)
    assert old[1] == {"is_active": True, "paused_until": None, "pause_note": None}
    assert new[1].keys() == old[1].keys()
    assert (new[1]["is_active"], new[1]["pause_note"]) == (False, "why")
    assert (old[2], new[2]) == ({"cron_expr": "0 * * * *"}, {"cron_expr": "30 * * * *"})
    assert (old[3], new[3]) == (new[1], old[1])
    assert (old[6], new[6]) == ({"name": "job"}, {"name": "new"})
    assert new[8]["is_active"] is False
    assert "99" in new[8]["error_msg"]
    assert new[9] == {"cron_expr": "15 * * * *", "is_active": True, "error_msg": None}
    assert new[11] == {"is_active": False}
    assert new[12] is None


def test_firing_writes_nothing_into_the_log(sched: Sched) -> None:
    schedule_id = cron(sched, jitter=SECOND)
    for n in range(1, 9):
        tick_at(sched, START + n * MINUTE + SECOND)
        if n == 4:
            sched.run()
    sched.call("recompute_schedules", "9999z")
    catch_up(sched)

    assert set(outcomes(sched)) == {"RUN", "SKIPPED"}
    assert [c.change for c in changes(sched, schedule_id)] == ["CREATED"]


def test_who_did_it_is_the_role_of_the_session(sched: Sched, another: Sched) -> None:
    another.conn.execute("create role deployer superuser")
    try:
        another.conn.execute("set session authorization deployer")
        schedule_id = cron(another)
        update(sched, max_runs=3)
        tick_at(sched, START + MINUTE)
        another.call("delete_schedule", "job")

        assert [c.changed_by for c in changes(sched, schedule_id)] == [
            "deployer",
            "postgres",
            "deployer",
        ]
        (task,) = sched.tasks()
        assert task.created_by == "deployer"
        assert task.error_msg == "its schedule was deleted by deployer"
    finally:
        another.conn.execute("reset session authorization")
        another.conn.execute("drop role deployer")


def test_a_pause_of_a_schedule_that_does_not_fire_anyway_is_recorded_as_one(sched: Sched) -> None:
    schedule_id = cron(sched, "99 * * * *")

    sched.call("pause_schedule", "job")

    assert status_of(sched, schedule_id).state == "PAUSED"
    assert last_change(sched, schedule_id).change == "PAUSED"


# What was due when it happened

OVERTAKING: dict[str, Callable[[Sched], object]] = {
    "paused": lambda s: s.call("pause_schedule", "job"),
    "paused by hand": lambda s: update(s, is_active=False),
    "changed": lambda s: s.call("reschedule", "job", "30 3 * * *"),
    "changed by hand": lambda s: update(s, cron_expr="30 3 * * *"),
    "changed by a deployment": lambda s: s.call("schedule_cron", "job", "30 3 * * *"),
    "deleted": lambda s: s.call("delete_schedule", "job"),
    "deleted by hand": lambda s: s.conn.execute("delete from pgsched.schedules"),
}


@pytest.mark.parametrize("count", [1, 3, 250])
@pytest.mark.parametrize("act", OVERTAKING)
def test_what_was_due_and_had_not_fired_is_missed(sched: Sched, act: str, count: int) -> None:
    schedule_id = cron(sched, overlap_policy="allow", misfire_policy="all")
    sched.clock(START + count * MINUTE + SECOND)
    was = account_of(sched, schedule_id, START, sched.now)[0]

    OVERTAKING[act](sched)
    catch_up(sched)

    fires = ledger(sched, schedule_id)
    assert sum(fire.folded_count for fire in fires) == count == len(was)
    assert {fire.outcome for fire in fires} == {"MISSED"}
    verb = act.split()[0]
    assert {fire.reason for fire in fires} == {f"the schedule was {verb} before this had fired"}
    assert fires[0].scheduled_time == was[0]
    assert (fires[-1].folded_until or fires[-1].scheduled_time) == was[-1]
    assert sched.tasks() == []


@pytest.mark.parametrize("act", OVERTAKING)
def test_what_was_not_due_yet_is_not_missed(sched: Sched, act: str) -> None:
    schedule_id = cron(sched)
    tick_at(sched, START + MINUTE)
    sched.clock(MINUTE - MICROSECOND)

    OVERTAKING[act](sched)
    catch_up(sched)

    assert outcomes(sched, schedule_id) == ["RUN"]


@pytest.mark.parametrize(
    "columns",
    [
        {"jitter": 5 * SECOND},
        {"misfire_grace": DAY},
        {"misfire_policy": "all"},
        {"max_runs": 50},
        {"ends_at": START + DAY},
        {"overlap_policy": "allow"},
        {"input_params": {"a": 1}},
        {"queue": None, "priority": 5},
    ],
)
def test_a_change_of_anything_but_the_time_leaves_what_is_due(
    sched: Sched, columns: dict[str, object]
) -> None:
    schedule_id = cron(sched, misfire_policy="all", misfire_grace=DAY)
    sched.clock(START + 3 * MINUTE + 10 * SECOND)

    update(sched, **columns)
    catch_up(sched)

    assert outcomes(sched)[0] == "RUN"
    assert {fire.outcome for fire in ledger(sched)} <= {"RUN", "SKIPPED"}
    require_exact(sched, schedule_id)
    assert len(ledger(sched)) == 3


def test_a_delayed_instant_that_a_change_of_time_overtakes_is_missed(sched: Sched) -> None:
    """Its time had come, and its delay had not passed: it fires neither before nor after."""
    schedule_id = cron(sched, "0 * * * *", jitter=DAY)
    delay = sched.value("select pgsched.jitter_of(%s, '24 hours')", schedule_id)
    sched.clock(START + HOUR + delay - SECOND)

    sched.call("reschedule", "job", "30 * * * *")
    catch_up(sched)

    assert ledger(sched)[0].scheduled_time == START + HOUR
    assert set(outcomes(sched)) == {"MISSED"}


def test_a_change_that_is_rolled_back_misses_nothing(sched: Sched) -> None:
    cron(sched)
    sched.clock(MINUTE)
    with sched.transaction():
        sched.call("pause_schedule", "job")

    catch_up(sched)

    assert outcomes(sched) == ["RUN"]
