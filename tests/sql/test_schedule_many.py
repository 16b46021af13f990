"""Many tasks in one call: what is written, how what is wrong is named, and what keys hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.sql.sched import HOUR, MINUTE, Background, Sched

LARGE = {"x": "y" * 256 * 1024}
NOBODY = "019cae6b-6600-7819-9d3f-a0c05c0b442d"
TRACE = "019cae6b-6600-7819-9d3f-a0c05c0b4400"
OWN = ("id", "trace_id", "loop_id")
GOOD = {"definition": "job"}


@pytest.fixture(autouse=True)
def _definitions(sched: Sched) -> None:
    sched.call("define_queue", "mail")
    sched.define(
        "full",
        input_params={"a": 1, "b": 1},
        schedule_config={"c": 1},
        queue="mail",
        priority=4,
        max_retries=7,
    )


def many(sched: Sched, *tasks: Any) -> list[str]:
    found = sched.value("select pgsched.schedule_many(%s)", Jsonb(list(tasks)))
    return [str(task_id) for task_id in found]


def refusal(sched: Sched, *tasks: Any) -> tuple[str | None, str]:
    """The code and the message; nothing was written."""
    before = sched.snapshot()
    with pytest.raises(psycopg.Error) as refused:
        many(sched, *tasks)
    assert sched.snapshot() == before
    return refused.value.sqlstate, str(refused.value.diag.message_primary)


def written(sched: Sched, task_id: str) -> dict[str, Any]:
    """What stands in the hot table, but for what is new for each task."""
    query = "select to_jsonb(t) from pgsched.scheduled_tasks as t where t.id = %s"
    row: dict[str, Any] = sched.value(query, task_id)
    return {name: value for name, value in row.items() if name not in OWN}


# What is written


@pytest.mark.parametrize("definition", ["job", "full"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"input_params": {"b": 2, "c": 2}, "schedule_config": {"d": 1}},
        {"priority": -9, "queue": "default"},
        {"input_params": {}, "schedule_config": {}, "priority": 0, "queue": "mail"},
    ],
)
@pytest.mark.parametrize(
    ("when", "single"),
    [
        ({}, {}),
        ({"delay": 0}, {"delay": timedelta()}),
        ({"delay": 90.5}, {"delay": timedelta(seconds=90.5)}),
        ({"scheduled_time": "2026-05-01T12:00:00+02:00"}, {"at": "2026-05-01T10:00:00Z"}),
        ({"scheduled_time": "2020-01-01T00:00:00Z"}, {"at": "2020-01-01T00:00:00Z"}),
    ],
)
def test_a_task_of_a_list_is_what_the_single_call_writes(
    sched: Sched,
    definition: str,
    options: dict[str, Any],
    when: dict[str, Any],
    single: dict[str, Any],
) -> None:
    alone = sched.schedule(definition, **options, **single)

    (task_id,) = many(sched, {"definition": definition, **options, **when})

    assert written(sched, task_id) == written(sched, alone)
    assert sched.task(task_id).trace_id not in (None, sched.task(alone).trace_id)
    assert sched.task(task_id).loop_id is None


def test_null_is_as_good_as_left_out(sched: Sched) -> None:
    names = ("input_params", "scheduled_time", "delay", "priority", "queue", "idempotency_key")
    nulls: dict[str, Any] = dict.fromkeys((*names, "trace_id", "schedule_config"))

    bare, full = many(sched, GOOD, {**GOOD, **nulls})

    assert written(sched, full) == written(sched, bare)


def test_a_definition_is_found_by_its_id_too_and_a_trace_is_kept(sched: Sched) -> None:
    by_id = sched.define("once", is_temporary=True)

    (task_id,) = many(sched, {"definition": by_id.upper(), "trace_id": TRACE})

    assert str(sched.task(task_id).definition_id) == by_id
    assert str(sched.task(task_id).trace_id) == TRACE


def test_the_ids_are_in_the_order_given_and_so_are_the_claims(sched: Sched) -> None:
    numbers = range(500)
    names = ["job" if n % 3 else "full" for n in numbers]

    ids = many(
        sched,
        *(
            {"definition": name, "input_params": {"n": n}, "priority": 0, "queue": "default"}
            for n, name in zip(numbers, names, strict=True)
        ),
    )

    assert ids == sorted(ids)
    assert [sched.task(task_id).input_params["n"] for task_id in ids] == list(numbers)
    assert [row.id for row in sched.claim(500)] == ids


def test_a_list_of_none_writes_nothing(sched: Sched) -> None:
    assert many(sched) == []
    assert sched.tasks() == []


def test_a_hundred_thousand_are_one_call_and_more_are_refused(sched: Sched) -> None:
    tasks = [{"definition": "job", "input_params": {"n": n}} for n in range(100_000)]

    ids = many(sched, *tasks)

    assert len(set(ids)) == 100_000
    assert sched.value("select count(*) from pgsched.scheduled_tasks") == 100_000
    assert sched.task(ids[77_777]).input_params == {"n": 77_777}
    sched.conn.execute("truncate pgsched.scheduled_tasks")
    code, message = refusal(sched, *tasks, GOOD)
    assert (code, "100000" in message) == ("PS422", True)


# What is refused


@pytest.mark.parametrize(
    ("wrong", "code", "begins"),
    [
        ({"priority": 12}, "PS422", "tasks[2].priority must be from -9"),
        ({"priorty": 9}, "PS422", "tasks[2].priorty: no task has such a field"),
        ({"depends_on": []}, "PS422", "tasks[2].depends_on: no task has such a field"),
        ({"priority": -10}, "PS422", "tasks[2].priority must be from -9"),
        ({"priority": "high"}, "PS422", "tasks[2].priority: "),
        ({"priority": 1e12}, "PS422", "tasks[2].priority: "),
        ({"delay": -1}, "PS422", "tasks[2].delay must be from 0"),
        ({"delay": "NaN"}, "PS422", "tasks[2].delay must be from 0"),
        ({"delay": 31104000001}, "PS422", "tasks[2].delay must be from 0"),
        ({"delay": "soon"}, "PS422", "tasks[2].delay: "),
        ({"delay": 1, "scheduled_time": "2026-05-01Z"}, "PS422", "tasks[2].delay: give one"),
        ({"scheduled_time": "infinity"}, "PS422", "tasks[2].scheduled_time must be within"),
        ({"scheduled_time": "12026-05-01Z"}, "PS422", "tasks[2].scheduled_time must be within"),
        ({"scheduled_time": "someday"}, "PS422", "tasks[2].scheduled_time: "),
        ({"trace_id": "x"}, "PS422", "tasks[2].trace_id: "),
        ({"input_params": [1]}, "PS422", "tasks[2].input_params must be a JSON object"),
        ({"input_params": "x"}, "PS422", "tasks[2].input_params must be a JSON object"),
        ({"input_params": LARGE}, "PS422", "tasks[2].input_params has "),
        ({"schedule_config": [1]}, "PS422", "tasks[2].schedule_config must be a JSON object"),
        ({"schedule_config": LARGE}, "PS422", "tasks[2].schedule_config has "),
        ({"idempotency_key": ""}, "PS422", "tasks[2].idempotency_key must have 1 to 255"),
        ({"idempotency_key": "k" * 256}, "PS422", "tasks[2].idempotency_key must have 1 to 255"),
        ({"queue": "nowhere"}, "PS404", "tasks[2].queue: queue 'nowhere' does not exist"),
        ({"definition": "nothing"}, "PS404", "tasks[2].definition: no task definition"),
        ({"definition": NOBODY}, "PS404", "tasks[2].definition: no task definition"),
        ({"definition": None}, "PS404", "tasks[2].definition: no task definition"),
    ],
)
def test_an_error_names_the_first_that_is_wrong(
    sched: Sched, wrong: dict[str, Any], code: str, begins: str
) -> None:
    bad = {**GOOD, **wrong}

    found, message = refusal(sched, GOOD, GOOD, bad, GOOD, bad)

    assert found == code
    assert message.startswith(begins)


@pytest.mark.parametrize("item", [3, "job", None, []])
def test_an_item_that_is_no_object_is_named(sched: Sched, item: Any) -> None:
    code, message = refusal(sched, GOOD, item)

    assert code == "PS422"
    assert message.startswith("tasks[1] must be a JSON object, not ")


def test_a_definition_that_is_not_active_is_named(sched: Sched) -> None:
    sched.conn.execute("update pgsched.task_definitions set is_active = false where name = 'full'")

    code, message = refusal(sched, GOOD, {"definition": "full"})

    assert (code, message) == (
        "PS409",
        "tasks[1].definition: task definition 'full' is not active",
    )


def test_the_defaults_count_with_the_input(sched: Sched) -> None:
    half = "y" * 140 * 1024
    sched.define("half", input_params={"x": half})

    code, message = refusal(sched, {"definition": "half", "input_params": {"z": half}})

    assert code == "PS422"
    assert message.startswith("tasks[0].input_params with the defaults")


@pytest.mark.parametrize("given", [{}, "job", None])
def test_what_is_no_list_is_refused(sched: Sched, given: Any) -> None:
    with pytest.raises(psycopg.Error, match="p_tasks must be a JSON array"):
        sched.call("schedule_many", Jsonb(given))


# Keys


def keyed(key: str, **params: Any) -> dict[str, Any]:
    return {"definition": "job", "idempotency_key": key, "input_params": params}


def test_a_key_again_gives_the_first_task(sched: Sched) -> None:
    alone = sched.schedule(idempotency_key="a", input_params={"n": 1})
    first = many(sched, GOOD, keyed("b"), keyed("a", n=1), keyed("c"), GOOD)

    again = many(sched, keyed("c"), GOOD, keyed("b"), keyed("d"))

    assert first[2] == alone
    assert (again[0], again[2]) == (first[3], first[1])
    assert len({*first, *again}) == len(sched.tasks()) == 7
    assert sched.schedule(idempotency_key="d", input_params={}) == again[3]


def test_a_key_twice_in_a_list_is_one_task(sched: Sched) -> None:
    other = {**keyed("a"), "definition": "full"}

    ids = many(sched, keyed("a"), GOOD, other, {**GOOD, "idempotency_key": "a"})

    assert ids[3] == ids[0]
    assert len(sched.tasks()) == len(set(ids)) == 3


def test_a_key_with_other_input_is_refused_by_its_index(sched: Sched) -> None:
    first = sched.schedule(idempotency_key="a", input_params={"n": 1})

    code, message = refusal(sched, GOOD, keyed("b"), keyed("a", n=2))

    assert code == "PS409"
    assert message.startswith(f"tasks[2].idempotency_key 'a' was used for task {first}")
    code, message = refusal(sched, keyed("c", n=1), GOOD, keyed("c", n=2))
    assert (code, message.partition(" ")[0]) == ("PS409", "tasks[2].idempotency_key")
    assert sched.value("select count(*) from pgsched.idempotency_keys") == 1


def test_a_key_holds_a_day_and_as_long_as_its_task(sched: Sched) -> None:
    ended, waiting = many(sched, keyed("a"), keyed("b"))
    sched.call("cancel_task", ended)

    sched.clock(24 * HOUR - MINUTE)
    assert many(sched, keyed("a"), keyed("b")) == [ended, waiting]

    sched.clock(MINUTE)
    new, still = many(sched, keyed("a", n=2), keyed("b"))
    assert new != ended
    assert still == waiting


def test_two_lists_with_the_same_new_keys_are_one_list(sched: Sched, another: Sched) -> None:
    keys = [keyed(f"k{n}") for n in range(50)]
    with sched.conn.transaction():
        ids = many(sched, *keys)
        second = Background(another.conn, lambda: many(another, *reversed(keys)))
        second.wait_until_blocked(sched)

    assert second.result() == ids[::-1]
    assert len(sched.tasks()) == 50


def test_times_are_kept_to_the_microsecond(sched: Sched) -> None:
    at = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)

    (task_id,) = many(sched, {**GOOD, "scheduled_time": at.isoformat()})

    assert sched.task(task_id).scheduled_time == at
