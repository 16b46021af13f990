"""Schedules from Python: ScheduleControl, schedule_every(), and CRON by the LifecycleService."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Unpack, get_args, get_origin, get_type_hints
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from pgsched import reading
from pgsched.control import ScheduleControl
from pgsched.errors import Conflict, Invalid, NotFound, Unavailable
from pgsched.lifecycle import LifecycleService
from pgsched.options import ScheduleOptions
from pgsched.scheduler import SchedulerService
from tests.executing import task_row
from tests.roles import as_role
from tests.test_transactions import url_of

Connection = psycopg.AsyncConnection[Any]

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
TOMORROW = datetime.now(UTC) + DAY
NOBODY = "01980000-0000-7000-8000-000000000000"
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)

control = ScheduleControl()
scheduler = SchedulerService()
lifecycle = LifecycleService()


@pytest.fixture
async def conn(dsn: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(
        as_role(dsn, "operator"), autocommit=True
    ) as connection:
        await scheduler.define_task(connection, "job", {"do": "it"})
        yield connection


async def row_of(conn: Connection, schedule: str = "job") -> Any:
    return await reading.get_schedule(conn, schedule)


async def changes(conn: Connection, schedule: str = "job") -> list[str]:
    """The kinds, the oldest first."""
    return [change.change for change in reversed(await reading.list_changes(conn, schedule))]


# schedule_every


async def test_an_interval_is_scheduled(conn: Connection) -> None:
    schedule_id = await scheduler.schedule_every(conn, "job", 90 * MINUTE, {"a": 1})

    row = await row_of(conn)
    assert (str(row.id), row.name, row.definition_name) == (schedule_id, "job", "job")
    assert (row.every, row.cron_expr, row.timezone) == (90 * MINUTE, None, None)
    assert row.input_params == {"a": 1}


async def every(session: Any, **options: Any) -> str:
    return await scheduler.schedule_every(
        session, options.pop("definition", "job"), HOUR, **options
    )


async def cron(session: Any, **options: Any) -> str:
    return await scheduler.schedule_cron(
        session, options.pop("definition", "job"), "0 3 * * *", **options
    )


OPTIONS: dict[str, Any] = {
    "input_params": {"a": 1},
    "priority": -3,
    "queue": "mail",
    "schedule_config": {"b": 2},
    "trace_id": str(uuid4()),
    "overlap_policy": "queue_one",
    "misfire_policy": "none",
    "misfire_grace": 5 * MINUTE,
    "jitter": 30 * SECOND,
    "starts_at": TOMORROW,
    "ends_at": TOMORROW + DAY,
    "max_runs": 2**40,
}


@pytest.mark.parametrize("put", [every, cron])
async def test_every_option_arrives(conn: Connection, put: Any) -> None:
    await conn.execute("select pgsched.define_queue('mail')")

    await put(conn, name="mine", **OPTIONS)

    row = await row_of(conn, "mine")
    found = {name: getattr(row, name) for name in OPTIONS}
    assert {**found, "trace_id": str(found["trace_id"])} == OPTIONS
    assert ScheduleOptions.__annotations__.keys() <= OPTIONS.keys() | {"name"}


@pytest.mark.parametrize("put", [every, cron])
async def test_the_same_again_changes_nothing(conn: Connection, put: Any) -> None:
    first = await put(conn, name="mine", max_runs=3)
    before = await row_of(conn, "mine")

    assert await put(conn, name="mine", max_runs=3) == first

    assert await row_of(conn, "mine") == before
    assert await changes(conn, "mine") == ["CREATED"]


@pytest.mark.parametrize("put", [every, cron])
async def test_a_schedule_is_replaced_by_its_name(conn: Connection, put: Any) -> None:
    first = await put(conn)

    assert await put(conn, overlap_policy="allow") == first
    assert await put(conn, name="other") != first
    assert (await row_of(conn)).overlap_policy == "allow"


WRONG = [
    ({"overlap_policy": "sometimes"}, "overlap_policy"),
    ({"misfire_policy": "some"}, "misfire_policy"),
    ({"misfire_grace": timedelta(0)}, "misfire_grace"),
    ({"misfire_grace": timedelta(days=367)}, "misfire_grace"),
    ({"misfire_grace": 60}, "misfire_grace"),
    ({"jitter": -SECOND}, "jitter"),
    ({"jitter": DAY + SECOND}, "jitter"),
    ({"starts_at": TOMORROW.replace(tzinfo=None)}, "starts_at"),
    ({"starts_at": "tomorrow"}, "starts_at"),
    ({"ends_at": datetime.max.replace(tzinfo=UTC)}, "ends_at"),
    ({"ends_at": datetime.min.replace(tzinfo=UTC)}, "ends_at"),
    ({"max_runs": 0}, "max_runs"),
    ({"max_runs": 1.5}, "max_runs"),
    ({"max_runs": 2**63}, "max_runs"),
    ({"name": ""}, "name"),
    ({"name": "a\0b"}, "name"),
    ({"trace_id": "no uuid"}, "trace_id"),
    ({"priority": 10}, "priority"),
    ({"input_params": [1]}, "input_params"),
    ({"schedule_config": {"a": float("nan")}}, "schedule_config"),
    ({"definition": None}, "definition"),
]


@pytest.mark.parametrize("put", [every, cron])
@pytest.mark.parametrize(("given", "field"), WRONG)
async def test_a_wrong_argument_is_named_before_the_session_is_touched(
    put: Any, given: dict[str, Any], field: str
) -> None:
    with pytest.raises(Invalid, match=field):
        await put(None, **given)


@pytest.mark.parametrize(
    "interval", [timedelta(0), SECOND / 2, timedelta(days=367), -HOUR, 60, "1 hour", None]
)
async def test_a_wrong_interval_is_named(interval: Any) -> None:
    with pytest.raises(Invalid, match="every"):
        await scheduler.schedule_every(None, "job", interval)


@pytest.mark.parametrize("put", [every, cron])
async def test_what_postgres_refuses_is_told_by_its_python_name(conn: Connection, put: Any) -> None:
    with pytest.raises(NotFound, match=r"^definition: .*'nothing'"):
        await put(conn, definition="nothing")
    with pytest.raises(NotFound, match="'nowhere'"):
        await put(conn, queue="nowhere")
    with pytest.raises(Invalid, match=r"^ends_at .* must not be before starts_at"):
        await put(conn, starts_at=TOMORROW, ends_at=TOMORROW - SECOND)


@pytest.mark.parametrize("put", [every, cron])
async def test_an_option_nobody_knows_is_a_type_error(conn: Connection, put: Any) -> None:
    with pytest.raises(TypeError, match="delay"):
        await put(conn, delay=MINUTE)
    with pytest.raises(TypeError, match="idempotency_key"):
        await put(conn, idempotency_key="k")


# Reschedule


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"cron_expression": "30 4 * * *"}, ("30 4 * * *", None, "Europe/Paris")),
        ({"timezone": "Asia/Tokyo"}, ("0 3 * * *", None, "Asia/Tokyo")),
        ({"every": HOUR}, (None, HOUR, None)),
    ],
)
async def test_a_schedule_is_rescheduled(
    conn: Connection, given: dict[str, Any], expected: tuple[object, ...]
) -> None:
    await cron(conn, timezone="Europe/Paris", max_runs=3)

    await control.reschedule(conn, "job", **given)

    row = await row_of(conn)
    assert (row.cron_expr, row.every, row.timezone) == expected
    assert row.max_runs == 3
    assert await changes(conn) == ["CREATED", "CHANGED"]


async def test_an_interval_is_rescheduled_to_an_expression(conn: Connection) -> None:
    await every(conn)

    await control.reschedule(conn, "job", cron_expression="0 3 * * *", timezone="Asia/Tokyo")

    row = await row_of(conn)
    assert (row.cron_expr, row.every, row.timezone) == ("0 3 * * *", None, "Asia/Tokyo")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"cron_expression": "61 * * * *"}, "cron_expr"),
        ({"cron_expression": "0 0 30 2 *"}, "cron_expr"),
        ({"cron_expression": ""}, "cron_expression"),
        ({"cron_expression": 5}, "cron_expr"),
        ({"timezone": "Mars/Base"}, "timezone"),
        ({"timezone": ""}, "timezone"),
        ({"every": timedelta(0)}, "every"),
        ({"every": 60}, "every"),
    ],
)
async def test_a_time_that_cannot_be_read_leaves_the_transaction_usable(
    dsn: str, given: dict[str, Any], field: str
) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        await scheduler.define_task(conn, "job")
        await cron(conn)

        with pytest.raises(Invalid, match=field):
            await control.reschedule(conn, "job", **given)

        assert (await row_of(conn)).cron_expr == "0 3 * * *"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "cron_expression, every or timezone"),
        ({"cron_expression": "0 3 * * *", "every": HOUR}, "cron_expression and every"),
        ({"every": HOUR, "timezone": "UTC"}, "timezone"),
    ],
)
async def test_what_makes_no_sense_together_is_refused(
    conn: Connection, given: dict[str, Any], field: str
) -> None:
    await cron(conn)

    with pytest.raises(Invalid, match=field):
        await control.reschedule(conn, "job", **given)


# Pause, resume, trigger, delete


async def test_a_schedule_is_paused_and_resumed(conn: Connection) -> None:
    schedule_id = await cron(conn)

    await control.pause_schedule(conn, "job", "the mailer moves", TOMORROW)
    row = await row_of(conn)
    assert (row.state, row.pause_note, row.paused_until) == ("PAUSED", "the mailer moves", TOMORROW)

    await control.resume_schedule(conn, UUID(schedule_id))
    row = await row_of(conn)
    assert (row.state, row.pause_note, row.paused_until) == ("ACTIVE", None, None)
    assert await changes(conn) == ["CREATED", "PAUSED", "RESUMED"]


async def test_a_pause_that_ends_elsewhere_on_earth_ends_at_that_instant(conn: Connection) -> None:
    await cron(conn)
    until = TOMORROW.astimezone(timezone(timedelta(hours=-7)))

    await control.pause_schedule(conn, "job", until=until)

    assert (await row_of(conn)).paused_until == until


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"until": TOMORROW.replace(tzinfo=None)}, "until"),
        ({"until": "tomorrow"}, "until"),
        ({"until": datetime.max.replace(tzinfo=UTC)}, "until"),
        ({"note": ""}, "note"),
        ({"note": "a\0b"}, "note"),
        ({"note": 5}, "note"),
    ],
)
async def test_a_wrong_pause_is_refused_before_the_session_is_touched(
    given: dict[str, Any], field: str
) -> None:
    with pytest.raises(Invalid, match=field):
        await control.pause_schedule(None, "job", **given)


async def test_a_pause_must_end_in_the_future(conn: Connection) -> None:
    await cron(conn)

    with pytest.raises(Invalid, match="until must be in the future"):
        await control.pause_schedule(conn, "job", until=NOON)


async def test_a_schedule_is_triggered(dsn: str, conn: Connection) -> None:
    schedule_id = await cron(conn, input_params={"a": 1, "b": 1})

    task_id = await control.trigger_schedule(conn, "job", {"b": 2})

    task = task_row(dsn, task_id)
    assert (task["schedule_type"], str(task["schedule_id"])) == ("CRON", schedule_id)
    assert task["input_params"] == {"a": 1, "b": 2}
    assert await changes(conn) == ["CREATED", "TRIGGERED"]


async def test_a_trigger_with_a_key_makes_one_task(conn: Connection) -> None:
    await cron(conn)

    first = await control.trigger_schedule(conn, "job", idempotency_key="k")

    assert await control.trigger_schedule(conn, "job", idempotency_key="k") == first
    with pytest.raises(Conflict, match="idempotency_key 'k'"):
        await control.trigger_schedule(conn, "job", {"a": 1}, "k")


async def test_a_schedule_of_an_inactive_definition_cannot_be_triggered(conn: Connection) -> None:
    await cron(conn)
    await conn.execute("update pgsched.task_definitions set is_active = false")

    with pytest.raises(Conflict, match="not active"):
        await control.trigger_schedule(conn, "job")


async def test_a_schedule_is_deleted_with_its_waiting_tasks(dsn: str, conn: Connection) -> None:
    await cron(conn)
    task_id = await control.trigger_schedule(conn, "job")

    assert await control.delete_schedule(conn, "job") == 1

    assert task_row(dsn, task_id)["status"] == "CANCELLED"
    with pytest.raises(NotFound, match="'job'"):
        await row_of(conn)
    assert await changes(conn) == ["CREATED", "TRIGGERED", "DELETED"]


async def test_nothing_is_committed_but_by_the_caller(dsn: str, conn: Connection) -> None:
    await cron(conn)
    async with await psycopg.AsyncConnection.connect(dsn) as other:
        await control.pause_schedule(other, "job")
        await control.trigger_schedule(other, "job")
        await control.delete_schedule(other, "job")
        await other.rollback()

    assert (await row_of(conn)).state == "ACTIVE"
    assert await changes(conn) == ["CREATED"]


async def test_a_sqlalchemy_session_will_do(dsn: str, conn: Connection) -> None:
    await cron(conn)
    engine = create_async_engine(url_of(as_role(dsn, "operator")))
    async with AsyncSession(engine) as session:
        await control.pause_schedule(session, "job", "why")
        assert (await row_of(conn)).state == "ACTIVE"
        await session.commit()
    await engine.dispose()

    assert (await row_of(conn)).state == "PAUSED"


# Backfill


async def test_a_backfill_is_previewed_and_asked_for(conn: Connection) -> None:
    await scheduler.schedule_cron(conn, "job", "0 * * * *")

    preview = await control.preview_backfill(conn, "job", NOON, NOON + 2 * HOUR)
    made = await control.backfill_schedule(conn, "job", NOON, NOON + 2 * HOUR, max_instants=3)

    assert preview == (3, 0, NOON, NOON + 2 * HOUR)
    (row,) = await reading.list_backfills(conn, "job")
    assert (str(row.id), row.status, row.max_instants) == (made, "WAITING", 3)
    assert (row.from_time, row.to_time) == (NOON, NOON + 2 * HOUR)


async def test_a_preview_writes_nothing(conn: Connection) -> None:
    await cron(conn)

    await control.preview_backfill(conn, "job", NOON, NOON + DAY)

    assert await reading.list_backfills(conn, "job") == []
    assert await changes(conn) == ["CREATED"]


async def test_a_preview_says_how_many_have_run(dsn: str, conn: Connection) -> None:
    schedule_id = await scheduler.schedule_cron(conn, "job", "0 * * * *")
    query = """
        insert into pgsched.schedule_fires (schedule_id, scheduled_time, outcome, reason, task_id)
        values
          (%(id)s, %(first)s, 'RUN', null, pgsched.uuid7()),
          (%(id)s, %(then)s, 'SKIPPED', 'x', null)
    """
    with psycopg.connect(dsn) as owner:
        owner.execute(query, {"id": schedule_id, "first": NOON, "then": NOON + HOUR})

    preview = await control.preview_backfill(conn, "job", NOON, NOON + 2 * HOUR)

    assert (preview.instant_count, preview.run_count) == (3, 1)


async def test_a_range_without_an_instant_is_previewed_as_empty(conn: Connection) -> None:
    await cron(conn)

    preview = await control.preview_backfill(conn, "job", NOON, NOON + HOUR)

    assert preview == (0, 0, None, None)


@pytest.mark.parametrize("scheduled_every", [True, False])
async def test_the_preview_of_an_interval_counts_from_its_start(
    conn: Connection, scheduled_every: bool
) -> None:
    start = NOON + 15 * MINUTE if scheduled_every else None
    await scheduler.schedule_every(conn, "job", HOUR, starts_at=start)
    anchor = start or (await row_of(conn)).changed_at

    preview = await control.preview_backfill(conn, "job", NOON - DAY, NOON)

    assert preview.instant_count == 24
    assert preview.first is not None
    assert (preview.first - anchor) % HOUR == timedelta(0)


async def test_more_than_the_bound_is_refused_before_anything_is_written(
    conn: Connection,
) -> None:
    await scheduler.schedule_cron(conn, "job", "* * * * *")

    with pytest.raises(Invalid, match="max_instants: the range holds more than 10 instants"):
        await control.backfill_schedule(conn, "job", NOON, NOON + 10 * MINUTE, max_instants=10)
    with pytest.raises(Invalid, match="100000"):
        await control.preview_backfill(conn, "job", NOON, NOON + 70 * DAY)

    assert await reading.list_backfills(conn, "job") == []


@pytest.mark.parametrize(
    ("start", "end", "field"),
    [
        (NOON + SECOND, NOON, "from_time"),
        (NOON.replace(tzinfo=None), NOON, "from_time"),
        (NOON, NOON.replace(tzinfo=None), "to_time"),
        (None, NOON, "from_time"),
        (NOON, "2026-03-02", "to_time"),
        (datetime.min.replace(tzinfo=UTC), NOON, "from_time"),
    ],
)
@pytest.mark.parametrize("method", [control.backfill_schedule, control.preview_backfill])
async def test_a_wrong_range_is_refused_and_named(
    conn: Connection, method: Any, start: Any, end: Any, field: str
) -> None:
    await cron(conn)

    with pytest.raises(Invalid, match=field):
        await method(conn, "job", start, end)


async def test_what_is_yet_to_come_can_be_previewed_and_not_backfilled(conn: Connection) -> None:
    await cron(conn)
    given = (conn, "job", TOMORROW, TOMORROW + 2 * DAY)

    assert (await control.preview_backfill(*given)).instant_count == 2
    with pytest.raises(Invalid, match="to_time must not be in the future"):
        await control.backfill_schedule(*given)


@pytest.mark.parametrize("most", [0, 100_001, 1.5, None])
async def test_a_wrong_bound_is_refused_and_named(conn: Connection, most: Any) -> None:
    await cron(conn)

    with pytest.raises(Invalid, match="max_instants"):
        await control.backfill_schedule(conn, "job", NOON, NOON, max_instants=most)


async def test_a_schedule_that_cannot_be_read_cannot_be_backfilled(conn: Connection) -> None:
    await conn.execute("select pgsched.schedule_cron('job', '99 * * * *')")

    with pytest.raises(Invalid, match="cron_expr"):
        await control.backfill_schedule(conn, "job", NOON, NOON)


# Who is not there

CALLS: dict[str, dict[str, Any]] = {
    "reschedule": {"cron_expression": "0 3 * * *"},
    "pause_schedule": {},
    "resume_schedule": {},
    "trigger_schedule": {},
    "delete_schedule": {},
    "preview_backfill": {"from_time": NOON, "to_time": NOON},
    "backfill_schedule": {"from_time": NOON, "to_time": NOON},
}


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("name", ["nothing", NOBODY, UUID(NOBODY)])
async def test_a_schedule_nobody_knows_is_not_found(
    conn: Connection, method: str, name: str | UUID
) -> None:
    with pytest.raises(NotFound, match=str(name)):
        await getattr(control, method)(conn, name, **CALLS[method])


@pytest.mark.parametrize("method", CALLS)
async def test_a_schedule_goes_by_name_or_by_id(conn: Connection, method: str) -> None:
    for as_given in (str, UUID, lambda _: "job"):
        schedule_id = await cron(conn)
        await getattr(control, method)(conn, as_given(schedule_id), **CALLS[method])


@pytest.mark.parametrize("method", CALLS)
async def test_a_closed_connection_is_unavailable(dsn: str, method: str) -> None:
    connection = await psycopg.AsyncConnection.connect(dsn)
    await connection.close()

    with pytest.raises(Unavailable):
        await getattr(control, method)(connection, "job", **CALLS[method])


def names_of(method: Any) -> set[str]:
    names = set(inspect.signature(method).parameters) - {"self", "session", "options"}
    options = get_type_hints(method).get("options")
    if get_origin(options) is Unpack:
        names |= set(get_args(options)[0].__annotations__)
    return names


@pytest.mark.parametrize(
    "method",
    [
        *(getattr(ScheduleControl, name) for name in CALLS if name != "preview_backfill"),
        SchedulerService.schedule_every,
        SchedulerService.schedule_cron,
    ],
    ids=lambda method: str(method.__name__),
)
async def test_arguments_are_those_of_sql_without_the_p(conn: Connection, method: Any) -> None:
    query = "select substr(unnest(proargnames), 3) from pg_proc where proname = %s"
    cursor = await conn.execute(query, [method.__name__])

    assert names_of(method) == {row[0] for row in await cursor.fetchall()}


# CRON by the LifecycleService


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ({"cron_expression": "0 3 * * *", "timezone": "Asia/Tokyo"}, ("0 3 * * *", "Asia/Tokyo")),
        ({"cron_expression": "0 3 * * *"}, ("0 3 * * *", "UTC")),
        ({"every": HOUR}, (None, None)),
    ],
)
async def test_a_run_of_type_cron_is_a_schedule(
    conn: Connection, when: dict[str, Any], expected: tuple[object, ...]
) -> None:
    named: Any = {
        "name": "mine",
        "overlap_policy": "allow",
        "max_runs": 5,
        "input_params": {"a": 1},
    }

    schedule_id = await lifecycle.schedule(conn, "CRON", "job", **when, **named)

    row = await row_of(conn, schedule_id)
    assert (row.cron_expr, row.timezone, row.every) == (*expected, when.get("every"))
    assert (row.name, row.overlap_policy, row.max_runs) == ("mine", "allow", 5)
    assert row.input_params == {"a": 1}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "cron_expression"),
        ({"cron_expression": "0 3 * * *", "every": HOUR}, "cron_expression"),
        ({"every": HOUR, "timezone": "UTC"}, "timezone"),
        ({"every": HOUR, "cron_expression": "0 3 * * *", "timezone": "UTC"}, "timezone"),
        ({"every": timedelta(0)}, "every"),
        ({"cron_expression": "61 * * * *"}, "cron_expr"),
        ({"every": HOUR, "idempotency_key": "k"}, "idempotency_key"),
        ({"every": HOUR, "delay": HOUR}, "delay"),
        ({"every": HOUR, "max_rounds": 3}, "max_rounds"),
        ({"every": HOUR, "overlap_policy": "sometimes"}, "overlap_policy"),
        ({"every": HOUR, "jitter": 5}, "jitter"),
    ],
)
async def test_what_makes_no_sense_for_a_schedule_is_named(
    conn: Connection, given: dict[str, Any], field: str
) -> None:
    with pytest.raises(Invalid, match=field):
        await lifecycle.schedule(conn, "CRON", "job", **given)
    with pytest.raises(Invalid, match=field):
        await lifecycle.submit_ad_hoc_task(conn, "once", None, "CRON", **given)


@pytest.mark.parametrize("option", ["overlap_policy", "jitter", "starts_at", "max_runs", "every"])
async def test_a_policy_is_not_for_a_single_task(conn: Connection, option: str) -> None:
    given: Any = {option: OPTIONS.get(option, HOUR)}

    with pytest.raises(Invalid, match=f"{option}: not for a task of type IMMEDIATE"):
        await lifecycle.schedule(conn, "IMMEDIATE", "job", **given)


@pytest.mark.parametrize("when", [{"cron_expression": "0 3 * * *"}, {"every": HOUR}])
async def test_a_new_trace_is_that_of_all_runs_of_its_schedule(
    dsn: str, conn: Connection, when: dict[str, Any]
) -> None:
    trace_id, schedule_id = await lifecycle.start_new_trace(conn, "job", "CRON", **when)

    assert str((await row_of(conn, schedule_id)).trace_id) == trace_id
    for _ in range(2):
        task_id = await control.trigger_schedule(conn, schedule_id)
        assert str(task_row(dsn, task_id)["trace_id"]) == trace_id


async def test_a_new_trace_makes_its_own_id(conn: Connection) -> None:
    with pytest.raises(Invalid, match="trace_id"):
        await lifecycle.start_new_trace(conn, "job", "CRON", every=HOUR, trace_id=NOBODY)


@pytest.mark.parametrize("when", [{"cron_expression": "0 3 * * *"}, {"every": HOUR}])
async def test_an_ad_hoc_schedule_has_a_definition_and_a_name_of_its_own(
    conn: Connection, when: dict[str, Any]
) -> None:
    made = [
        await lifecycle.submit_ad_hoc_task(
            conn, "once", {"do": "it"}, "CRON", misfire_policy="all", max_retries=9, **when
        )
        for _ in range(2)
    ]

    rows = [await row_of(conn, schedule_id) for schedule_id in made]
    assert len({row.definition_id for row in rows}) == len({row.name for row in rows}) == 2
    for row in rows:
        assert row.name == f"once {row.definition_id}"
        assert (row.definition_name, row.misfire_policy, row.is_own) == ("once", "all", False)


async def test_a_definition_of_type_cron_is_run_by_its_own_schedule(conn: Connection) -> None:
    definition_id = await scheduler.define_task(
        conn,
        "daily",
        schedule_type="CRON",
        cron_expr="0 9 * * *",
        schedule_config={"timezone": "Asia/Tokyo"},
    )

    schedule_id = await lifecycle.trigger_by_id(conn, definition_id)

    (row,) = await reading.list_schedules(conn)
    assert (str(row.id), row.name, row.is_own) == (schedule_id, "daily", True)
    assert (row.cron_expr, row.timezone) == ("0 9 * * *", "Asia/Tokyo")


async def test_what_the_caller_says_goes_before_what_the_definition_says(
    conn: Connection,
) -> None:
    definition_id = await scheduler.define_task(
        conn, "daily", schedule_type="CRON", cron_expr="0 9 * * *"
    )

    first = await lifecycle.trigger_by_id(conn, definition_id, every=HOUR, name="often")
    second = await lifecycle.trigger_by_id(conn, definition_id, timezone="Asia/Tokyo", name="east")

    assert (await row_of(conn, first)).every == HOUR
    row = await row_of(conn, second)
    assert (row.cron_expr, row.timezone) == ("0 9 * * *", "Asia/Tokyo")


async def test_a_temporary_definition_of_type_cron_is_run_by_its_own_schedule(
    conn: Connection,
) -> None:
    definition_id = await scheduler.define_task(
        conn, "daily", schedule_type="CRON", cron_expr="0 9 * * *", is_temporary=True
    )

    schedule_id = await lifecycle.trigger_by_id(conn, definition_id)

    (row,) = await reading.list_schedules(conn)
    assert str(row.id) == schedule_id
