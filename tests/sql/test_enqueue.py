"""The write side: what is refused, what a key holds, and what a rollback leaves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.sql.sched import HOUR, MINUTE, SECOND, Background, Sched

DAY = timedelta(days=1)
KIB_256 = 256 * 1024
LARGE = {"x": "y" * KIB_256}

SINGLE = ["schedule_immediate", "schedule_delayed", "schedule_at", "trigger_loop_once"]
# What each of them must be given besides the definition.
NEEDED: dict[str, dict[str, object]] = {
    "schedule_delayed": {"delay": HOUR},
    "schedule_at": {"scheduled_time": datetime(2026, 5, 1, tzinfo=UTC)},
    "schedule_cron": {"cron_expression": "* * * * *"},
}
EVERY = [*SINGLE, "schedule_loop", "schedule_cron"]


def refusal(sched: Sched, function: str, *given: object, **named: object) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as refused:
        sched.call(function, *given, **named)
    assert sched.tasks() == []
    return refused.value


# Bad input


@pytest.mark.parametrize("function", EVERY)
@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("input_params", Jsonb([1]), "PS422"),
        ("input_params", Jsonb("text"), "PS422"),
        ("input_params", Jsonb(None), "PS422"),
        ("input_params", LARGE, "PS422"),
        ("schedule_config", Jsonb([1]), "PS422"),
        ("schedule_config", LARGE, "PS422"),
        ("priority", 10, "PS422"),
        ("priority", -10, "PS422"),
        ("queue", "nowhere", "PS404"),
    ],
)
def test_every_way_to_schedule_refuses_bad_input(
    sched: Sched, function: str, field: str, value: object, code: str
) -> None:
    error = refusal(sched, function, "job", **{**NEEDED.get(function, {}), field: value})

    assert error.sqlstate == code
    assert field in str(error.diag.message_primary)


@pytest.mark.parametrize("function", [*SINGLE, "schedule_loop"])
@pytest.mark.parametrize("key", ["", "k" * 256])
def test_a_key_of_the_wrong_length_is_refused(sched: Sched, function: str, key: str) -> None:
    error = refusal(sched, function, "job", idempotency_key=key, **NEEDED.get(function, {}))

    assert error.sqlstate == "PS422"
    assert "p_idempotency_key" in str(error)


@pytest.mark.parametrize("function", EVERY)
@pytest.mark.parametrize(
    "definition", ["nothing", "", None, "019cae6b-6600-7819-9d3f-a0c05c0b442d"]
)
def test_an_unknown_definition_is_not_found(
    sched: Sched, function: str, definition: str | None
) -> None:
    error = refusal(sched, function, definition, **NEEDED.get(function, {}))

    assert error.sqlstate == "PS404"
    assert "p_definition" in str(error)


@pytest.mark.parametrize(
    ("function", "named", "field"),
    [
        ("schedule_delayed", {"delay": -SECOND}, "p_delay"),
        ("schedule_delayed", {"delay": None}, "p_delay"),
        ("schedule_at", {"scheduled_time": None}, "p_scheduled_time"),
        ("schedule_at", {"scheduled_time": "infinity"}, "p_scheduled_time"),
        ("schedule_at", {"scheduled_time": "-infinity"}, "p_scheduled_time"),
        ("schedule_loop", {"max_rounds": 0}, "max_rounds"),
        ("schedule_loop", {"max_rounds": -1}, "max_rounds"),
        ("schedule_loop", {"loop_interval": -SECOND}, "loop_interval"),
        ("schedule_loop", {"loop_interval": 367 * DAY}, "loop_interval"),
        ("schedule_loop", {"schedule_config": {"max_rounds": 1.5}}, "max_rounds"),
        ("schedule_loop", {"schedule_config": {"max_rounds": "3"}}, "max_rounds"),
        ("schedule_loop", {"schedule_config": {"loop_interval": "1h"}}, "loop_interval"),
        ("schedule_loop", {"schedule_config": {"interval_from": "middle"}}, "interval_from"),
        ("schedule_loop", {"schedule_config": {"on_failure": "retry"}}, "on_failure"),
        ("schedule_cron", {"cron_expression": None}, "p_cron_expression"),
        ("schedule_cron", {"cron_expression": "* *"}, "p_cron_expression"),
        ("schedule_cron", {"cron_expression": "* * * * *", "timezone": "Mars/X"}, "p_timezone"),
        ("schedule_cron", {"cron_expression": "* * * * *", "timezone": None}, "p_timezone"),
        ("schedule_cron", {"cron_expression": "* * * * *", "timezone": ""}, "p_timezone"),
        ("schedule_cron", {"cron_expression": "* * * * *", "name": ""}, "p_name"),
    ],
)
def test_what_is_wrong_is_named(
    sched: Sched, function: str, named: dict[str, Any], field: str
) -> None:
    error = refusal(sched, function, "job", **named)

    assert error.sqlstate == "PS422"
    assert field in str(error.diag.message_primary)
    assert sched.rows("select * from pgsched.schedules") == []


@pytest.mark.parametrize(
    ("named", "code", "field"),
    [
        ({"content": LARGE}, "PS422", "content"),
        ({"queue": "nowhere"}, "PS404", "queue"),
        ({"priority": 10}, "PS422", "p_priority"),
        ({"priority": None}, "PS422", "priority"),
        ({"max_retries": -1}, "PS422", "max_retries"),
        ({"max_retries": 101}, "PS422", "max_retries"),
        ({"retry_delay": -SECOND}, "PS422", "retry_delay"),
        ({"retry_delay": 25 * HOUR}, "PS422", "retry_delay"),
        ({"retry_backoff": "linear"}, "PS422", "retry_backoff"),
        ({"timeout": timedelta()}, "PS422", "timeout"),
        ({"schedule_type": "WEEKLY"}, "PS422", "schedule_type"),
        ({"loop_config": {"max_rounds": 0}}, "PS422", "max_rounds"),
        ({"loop_config": Jsonb([])}, "PS422", "config"),
        ({"input_params": Jsonb(1)}, "PS422", "input_params"),
        ({"input_params": LARGE}, "PS422", "input_params"),
        ({"schedule_config": Jsonb([])}, "PS422", "schedule_config"),
        ({"cron_expr": "nonsense"}, "PS422", "cron"),
    ],
)
def test_a_definition_that_is_wrong_is_refused(
    sched: Sched, named: dict[str, Any], code: str, field: str
) -> None:
    error = refusal(sched, "define_task", "bad", **named)

    assert error.sqlstate == code
    assert field in str(error.diag.message_primary)
    assert sched.rows("select * from pgsched.task_definitions where name = 'bad'") == []


@pytest.mark.parametrize("name", ["", None, "n" * 201])
def test_a_definition_needs_a_name(sched: Sched, name: str | None) -> None:
    error = refusal(sched, "define_task", name)

    assert (error.sqlstate, "name" in str(error)) == ("PS422", True)


# What is written


@pytest.mark.parametrize("function", SINGLE)
def test_a_definition_is_found_by_name_and_by_id(sched: Sched, function: str) -> None:
    definition = sched.define("a")
    for given in ("a", definition, definition.upper()):
        sched.call(function, given, **NEEDED.get(function, {}))

    assert {str(task.definition_id) for task in sched.tasks()} == {definition}


def test_what_is_given_is_laid_over_the_defaults_key_by_key(sched: Sched) -> None:
    sched.call("define_queue", "a")
    sched.call("define_queue", "b")
    sched.define(
        "a",
        queue="a",
        priority=2,
        max_retries=7,
        input_params={"x": 1, "y": {"z": 1}},
        schedule_config={"c": 1},
    )
    plain = sched.task(sched.schedule("a"))
    given = sched.task(
        sched.schedule("a", queue="b", priority=-2, input_params={"y": 2}, schedule_config={"d": 2})
    )

    assert (plain.queue, plain.priority, plain.max_retries) == ("a", 2, 7)
    assert (plain.input_params, plain.schedule_config) == ({"x": 1, "y": {"z": 1}}, {"c": 1})
    assert (given.queue, given.priority) == ("b", -2)
    assert (given.input_params, given.schedule_config) == ({"x": 1, "y": 2}, {"c": 1, "d": 2})
    assert given.created_by == sched.value("select session_user::text")


def test_a_changed_definition_does_not_change_what_was_scheduled(sched: Sched) -> None:
    sched.define("a", priority=1, input_params={"x": 1})
    task_id = sched.schedule("a")
    sched.define("a", priority=2, input_params={"x": 2})

    assert (sched.task(task_id).priority, sched.task(task_id).input_params) == (1, {"x": 1})


def test_a_definition_is_upserted_by_its_name(sched: Sched) -> None:
    first = sched.define("a", content={"v": 1})
    sched.clock(HOUR)
    assert sched.define("a", content={"v": 2}) == first

    (row,) = sched.rows("select * from pgsched.task_definitions where name = 'a'")
    assert (row.content, row.created_at, row.updated_at) == ({"v": 2}, sched.now - HOUR, sched.now)


def test_temporary_definitions_may_share_a_name(sched: Sched) -> None:
    first, second = (sched.define("a", is_temporary=True) for _ in range(2))

    assert first != second
    assert refusal(sched, "schedule_immediate", "a").sqlstate == "PS404"
    assert sched.schedule(first)


def test_an_enqueue_writes_nothing_to_its_definition(sched: Sched) -> None:
    query = "select xmin::text from pgsched.task_definitions"
    before = sched.value(query)
    sched.schedule()
    sched.loop()
    sched.call("schedule_cron", "job", "* * * * *")

    assert sched.value(query) == before


@pytest.mark.parametrize("function", [*SINGLE, "schedule_loop"])
def test_an_inactive_definition_takes_nothing_new(sched: Sched, function: str) -> None:
    sched.conn.execute("update pgsched.task_definitions set is_active = false")

    error = refusal(sched, function, "job", **NEEDED.get(function, {}))

    assert error.sqlstate == "PS409"
    assert "not active" in str(error)


def test_what_an_inactive_definition_has_scheduled_runs(sched: Sched) -> None:
    sched.loop(max_rounds=2)
    sched.conn.execute("update pgsched.task_definitions set is_active = false")
    sched.run()
    sched.run()

    assert [task.status for task in sched.tasks()] == ["SUCCESS", "SUCCESS"]


@pytest.mark.parametrize("what", ["task", "schedule"])
def test_a_definition_in_use_cannot_be_deleted(sched: Sched, what: str) -> None:
    task_id = sched.schedule() if what == "task" else None
    if what == "schedule":
        sched.call("schedule_cron", "job", "* * * * *")

    with pytest.raises(psycopg.Error, match="unfinished tasks or schedules") as refused:
        sched.conn.execute("delete from pgsched.task_definitions")

    assert refused.value.sqlstate == "PS409"
    if task_id:
        sched.run(task_id)
        sched.conn.execute("delete from pgsched.task_definitions")
        assert sched.status(task_id) == "SUCCESS"


def test_a_rollback_leaves_nothing(sched: Sched) -> None:
    with sched.transaction():
        sched.schedule(idempotency_key="a")
        sched.loop()
        sched.call("schedule_cron", "job", "* * * * *")

    assert sched.tasks() == []
    for table in ("schedules", "idempotency_keys", "task_events"):
        assert sched.rows(f"select * from pgsched.{table}") == []


def test_a_task_is_not_seen_before_its_commit(sched: Sched, another: Sched) -> None:
    with sched.conn.transaction():
        task_id = sched.schedule()
        assert another.claim() == []

    assert another.claim_one().id == task_id


@pytest.mark.parametrize(("size", "is_allowed"), [(KIB_256, True), (KIB_256 + 1, False)])
def test_a_payload_may_have_256_kib(sched: Sched, size: int, is_allowed: bool) -> None:
    payload = {"x": "y" * (size - len('{"x": ""}'))}

    if is_allowed:
        assert sched.task(sched.schedule(input_params=payload)).input_params == payload
    else:
        assert "256 KiB" in str(refusal(sched, "schedule_immediate", "job", input_params=payload))


def test_the_limit_is_of_bytes_and_holds_with_the_defaults(sched: Sched) -> None:
    wide = {"x": "é" * (KIB_256 // 2)}
    assert refusal(sched, "schedule_immediate", "job", input_params=wide).sqlstate == "PS422"

    half = "y" * (KIB_256 // 2)
    sched.define("a", input_params={"a": half})
    error = refusal(sched, "schedule_immediate", "a", input_params={"b": half})
    assert "input_params" in str(error)


# Idempotency keys


@pytest.mark.parametrize("function", [*SINGLE, "schedule_loop"])
def test_the_same_key_again_returns_the_first_task(sched: Sched, function: str) -> None:
    named = {**NEEDED.get(function, {}), "idempotency_key": "k", "input_params": {"a": 1}}

    first, again = (str(sched.call(function, "job", **named)) for _ in range(2))

    assert first == again
    assert [str(task.id) for task in sched.tasks()] == [first]


def test_a_key_holds_for_its_own_definition(sched: Sched) -> None:
    sched.define("other")

    assert sched.schedule(idempotency_key="k") != sched.schedule("other", idempotency_key="k")


def test_a_key_with_other_input_is_a_conflict(sched: Sched) -> None:
    task_id = sched.schedule(idempotency_key="k", input_params={"a": 1})

    with pytest.raises(psycopg.Error, match=f"p_idempotency_key 'k'.*{task_id}") as refused:
        sched.schedule(idempotency_key="k", input_params={"a": 2})

    assert refused.value.sqlstate == "PS409"
    assert len(sched.tasks()) == 1


def test_the_order_of_the_keys_of_an_input_makes_no_difference(sched: Sched) -> None:
    first = sched.schedule(idempotency_key="k", input_params={"a": 1, "b": 2})

    assert sched.schedule(idempotency_key="k", input_params={"b": 2, "a": 1}) == first


def test_a_key_holds_for_a_day_though_its_task_has_ended(sched: Sched) -> None:
    first = sched.schedule(idempotency_key="k")
    sched.run(first)
    sched.clock(DAY - SECOND)
    assert sched.schedule(idempotency_key="k") == first

    sched.clock(SECOND)
    second = sched.schedule(idempotency_key="k")
    assert second != first
    assert sched.schedule(idempotency_key="k") == second


def test_a_key_holds_as_long_as_its_task_is_unfinished(sched: Sched) -> None:
    first = sched.schedule(idempotency_key="k")
    sched.clock(30 * DAY)

    assert sched.schedule(idempotency_key="k") == first
    assert sched.call("maintain") == 0


def test_a_key_holds_as_long_as_a_round_of_its_loop_is_unfinished(sched: Sched) -> None:
    first = sched.loop(max_rounds=3, idempotency_key="k")
    sched.run(first)
    sched.clock(30 * DAY)

    assert sched.call("maintain") == 0
    assert sched.loop(max_rounds=3, idempotency_key="k") == first

    sched.call("stop_loop", first)
    assert sched.loop(max_rounds=3, idempotency_key="k") != first


def test_maintenance_forgets_keys_that_hold_no_longer(sched: Sched) -> None:
    for key in ("a", "b"):
        sched.run(sched.schedule(idempotency_key=key))
    sched.clock(DAY / 2)
    held = sched.schedule(idempotency_key="c")
    sched.clock(DAY / 2)

    assert sched.call("maintain") == 2
    assert sched.schedule(idempotency_key="c") == held


def test_a_key_is_free_again_when_its_transaction_was_rolled_back(sched: Sched) -> None:
    with sched.transaction():
        lost = sched.schedule(idempotency_key="k")

    assert sched.schedule(idempotency_key="k") != lost


@pytest.mark.parametrize("is_committed", [True, False])
@pytest.mark.parametrize("was_held", [True, False])
def test_of_two_sessions_with_one_key_one_makes_the_task(
    sched: Sched, another: Sched, is_committed: bool, was_held: bool
) -> None:
    if was_held:  # and has expired: both want to replace it
        sched.run(sched.schedule(idempotency_key="k"))
        sched.clock(2 * DAY)

    with sched.conn.transaction(force_rollback=not is_committed):
        first = sched.schedule(idempotency_key="k")
        second = Background(another.conn, lambda: another.schedule(idempotency_key="k"))
        second.wait_until_blocked(sched)

    task_id = second.result()
    assert [str(task.id) for task in sched.tasks("status = 'PENDING'")] == [task_id]
    assert (task_id == first) == is_committed


def test_a_hit_takes_no_lock(sched: Sched, another: Sched) -> None:
    """Two open transactions may both hit one key, in whatever order they end."""
    task_id = sched.schedule(idempotency_key="k")
    another.conn.execute("set lock_timeout = '1s'")

    with sched.conn.transaction(), another.conn.transaction():
        assert sched.schedule(idempotency_key="k") == task_id
        assert another.schedule(idempotency_key="k") == task_id
        assert another.run(task_id)


def test_two_sessions_with_different_input_for_one_key_conflict(
    sched: Sched, another: Sched
) -> None:
    with sched.conn.transaction():
        sched.schedule(idempotency_key="k", input_params={"a": 1})
        second = Background(
            another.conn, lambda: another.schedule(idempotency_key="k", input_params={"a": 2})
        )
        second.wait_until_blocked(sched)

    with pytest.raises(psycopg.Error) as refused:
        second.result()
    assert refused.value.sqlstate == "PS409"


def test_a_minute_is_a_minute_in_every_time_zone(sched: Sched) -> None:
    sched.conn.execute("set timezone = 'Asia/Kathmandu'")
    task_id = sched.schedule(delay=MINUTE)

    assert sched.task(task_id).execute_after == sched.now + MINUTE
