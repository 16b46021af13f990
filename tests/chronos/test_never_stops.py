"""A schedule never stops because one run came to nothing, or because another is broken."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgsched import firing
from pgsched.backfiller import Backfiller
from pgsched.database import Database
from pgsched.due import DueSchedule
from pgsched.errors import PgschedError
from pgsched.ticker import Ticker
from tests.restoring import SharedDatabase
from tests.roles import as_role
from tests.sql.sched import HOUR, MINUTE, SECOND, Sched

# Its run may take a quarter of an hour, and is tried twice.
IMPATIENT: dict[str, Any] = {
    "timeout": 15 * MINUTE,
    "max_retries": 1,
    "retry_delay": timedelta(0),
}


@pytest.fixture
async def ticker(sched: Sched, clocked: SharedDatabase) -> AsyncIterator[Ticker]:
    """What ticks in a worker, on the database and the clock of `sched`."""
    database = Database(as_role(clocked.dsn, "worker"))
    await database.open()
    yield Ticker(database, asyncio.Event(), 1.0)
    await database.close()


async def tick(ticker: Ticker) -> None:
    """Tick as a worker does, which goes on after an error of its own."""
    for _ in range(3):
        try:
            while await ticker.tick():
                pass
        except (PgschedError, psycopg.Error):
            continue
        return


def hourly(sched: Sched, name: str, **named: object) -> str:
    return str(sched.call("schedule_cron", "job", "0 * * * *", name=name, **named))


def ledger(sched: Sched, name: str) -> list[str]:
    """What became of each instant of a schedule, in their order."""
    query = """
        select f.outcome from pgsched.schedule_fires as f
        join pgsched.schedules as s on s.id = f.schedule_id
        where s.name = %s order by f.scheduled_time
    """
    return [row.outcome for row in sched.rows(query, name)]


def broken(sched: Sched) -> dict[str, str]:
    """The reason by name of each schedule that was switched off."""
    query = "select name, error_msg from pgsched.schedule_status where state = 'BROKEN'"
    return {row.name: row.error_msg for row in sched.rows(query)}


# One run came to nothing


def dispatched(sched: Sched) -> Any:
    """The one due task, accepted by the external system."""
    claimed = sched.claim_one()
    assert sched.settle(claimed) is None
    return claimed


def fails_for_good(sched: Sched) -> None:
    for _ in range(2):
        claimed = dispatched(sched)
        sched.report(claimed.id, "FAILED", claimed.attempt, error_msg="no")
        sched.clock(SECOND)


def is_refused(sched: Sched) -> None:
    sched.settle(sched.claim_one(), "REFUSED", error_msg="400")


def loses_its_report(sched: Sched) -> None:
    for _ in range(2):
        dispatched(sched)
        sched.clock(16 * MINUTE)
        assert sched.call("expire_deadlines") == 1


def falls_silent_while_running(sched: Sched) -> None:
    for _ in range(2):
        claimed = dispatched(sched)
        sched.report(claimed.id, "RUNNING", claimed.attempt)
        sched.clock(16 * MINUTE)
        assert sched.call("expire_deadlines") == 1


def kills_each_worker_that_takes_it(sched: Sched) -> None:
    for _ in range(10):
        sched.claim_one()
        sched.clock(2 * MINUTE)
        assert sched.call("expire_deadlines") == 1


def is_cancelled_while_it_waits(sched: Sched) -> None:
    (task,) = sched.tasks("finished_at is null")
    sched.call("cancel_task", task.id)


def is_cancelled_under_way(sched: Sched) -> None:
    sched.call("cancel_task", dispatched(sched).id)


ENDS: list[Callable[[Sched], None]] = [
    fails_for_good,
    is_refused,
    loses_its_report,
    falls_silent_while_running,
    kills_each_worker_that_takes_it,
    is_cancelled_while_it_waits,
    is_cancelled_under_way,
]


@pytest.mark.parametrize("policy", ["skip", "queue_one", "allow"])
@pytest.mark.parametrize("comes_to_nothing", ENDS, ids=lambda end: end.__name__)
def test_the_next_instant_runs_though_this_run(
    sched: Sched, comes_to_nothing: Callable[[Sched], None], policy: str
) -> None:
    sched.define(**IMPATIENT)
    hourly(sched, "s", overlap_policy=policy)
    sched.tick_all()
    for hour in range(1, 4):
        sched.clock(sched.now.replace(minute=0, second=0) + HOUR)
        sched.tick_all()
        comes_to_nothing(sched)
        assert ledger(sched, "s") == ["RUN"] * hour

    assert {task.status for task in sched.tasks()} <= {"FAILED", "CANCELLED"}


# Another schedule is broken


def ticked(sched: Sched, name: str) -> str:
    """A schedule whose first instant has been computed."""
    schedule_id = hourly(sched, name)
    sched.tick_all()
    return schedule_id


def alter(sched: Sched, name: str, change: str) -> None:
    sched.conn.execute(f"update pgsched.schedules set {change} where name = '{name}'".encode())


def cannot_be_read(sched: Sched) -> None:
    alter(sched, "broken", "cron_expr = '99 * * * *'")


def never_happens(sched: Sched) -> None:
    alter(sched, "broken", "cron_expr = '0 0 31 2 *'")


def has_an_unknown_zone(sched: Sched) -> None:
    alter(sched, "broken", "timezone = 'Mars/Olympus'")


def has_a_trigger_that_fails(sched: Sched) -> None:
    refuse_to_fire(sched, "broken", "raise exception 'it is broken'")


def has_params_that_a_trigger_cannot_read(sched: Sched) -> None:
    refuse_to_fire(sched, "broken", "perform 'x'::integer")


def breaks_a_rule_of_a_trigger(sched: Sched) -> None:
    refuse_to_fire(sched, "broken", "raise sqlstate 'PS422' using message = 'it is broken'")


def cannot_be_entered_in_the_ledger(sched: Sched) -> None:
    query = "select id::text from pgsched.schedules where name = 'broken'"
    sched.conn.execute(
        "alter table pgsched.schedule_fires add constraint schedule_fires_test_broken"
        f" check (schedule_id <> '{sched.value(query)}') not valid".encode()
    )


BREAKS: dict[Callable[[Sched], None], str] = {
    cannot_be_read: "'99' is no minute",
    never_happens: "never happens",
    has_an_unknown_zone: "timezone 'Mars/Olympus' is unknown",
    has_a_trigger_that_fails: "it cannot fire: it is broken",
    has_params_that_a_trigger_cannot_read: "it cannot fire: invalid input syntax",
    breaks_a_rule_of_a_trigger: "it cannot fire: it is broken",
    cannot_be_entered_in_the_ledger: "it cannot fire: ",
}


def refuse_to_fire(sched: Sched, name: str, statement: str) -> None:
    """Have the insert of a run of the schedule of that *name* execute *statement*."""
    sched.conn.execute(
        "create or replace function public.refuse() returns trigger language plpgsql as"
        " $$ begin if exists (select from pgsched.schedules as s where s.id = new.schedule_id"
        f" and s.name like '{name}') then {statement}; end if; return new; end $$".encode()
    )
    sched.conn.execute(
        "create trigger test_refuse before insert on pgsched.scheduled_tasks"
        " for each row execute function public.refuse()"
    )


@pytest.fixture
def repaired(sched: Sched) -> Iterator[None]:
    """Takes back what the tests below do to the schema."""
    yield
    sched.conn.execute(
        "drop function if exists public.refuse() cascade;"
        "alter table pgsched.schedule_fires drop constraint if exists schedule_fires_test_broken;"
        "alter table pgsched.schedules drop constraint if exists schedules_test_broken"
    )


@pytest.mark.usefixtures("repaired")
@pytest.mark.parametrize(
    ("breaks", "reason"), BREAKS.items(), ids=[breaks.__name__ for breaks in BREAKS]
)
async def test_the_others_fire_though_one(
    sched: Sched, ticker: Ticker, breaks: Callable[[Sched], None], reason: str
) -> None:
    for name in ("a", "broken", "z"):
        hourly(sched, name, overlap_policy="allow")
    await tick(ticker)
    breaks(sched)

    for _ in range(3):
        sched.clock(HOUR)
        await tick(ticker)

    assert ledger(sched, "a") == ledger(sched, "z") == ["RUN"] * 3
    (message,) = broken(sched).values()
    assert reason in message
    assert broken(sched).keys() == {"broken"}


@pytest.mark.usefixtures("repaired")
@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "53100", "55P03", "57014"])
async def test_trouble_that_will_pass_breaks_no_schedule(
    sched: Sched, ticker: Ticker, sqlstate: str
) -> None:
    """Whether a deadlock, a full disk or a lock that somebody holds."""
    for name in ("a", "troubled", "z"):
        hourly(sched, name, overlap_policy="allow")
    await tick(ticker)
    refuse_to_fire(sched, "troubled", f"raise sqlstate '{sqlstate}'")

    sched.clock(HOUR)
    await tick(ticker)
    assert broken(sched) == {}
    assert ledger(sched, "a") == ledger(sched, "z") == ["RUN"]

    sched.conn.execute("drop function public.refuse() cascade")
    await tick(ticker)
    assert ledger(sched, "troubled") == ["RUN"]


# The table refuses them; if it ever does not, the others must fire all the same.
BEYOND = ["ends_at = '20000-01-01'", "starts_at = '0044-03-15 BC'", "starts_at = '20000-01-01'"]


@pytest.mark.parametrize("beyond", BEYOND)
async def test_the_others_fire_though_one_has_a_time_that_python_cannot_read(
    sched: Sched, ticker: Ticker, beyond: str
) -> None:
    hourly(sched, "a")
    hourly(sched, "broken")
    with contextlib.suppress(psycopg.errors.CheckViolation):
        alter(sched, "broken", beyond)
    await tick(ticker)

    sched.clock(HOUR)
    await tick(ticker)

    assert ledger(sched, "a") == ["RUN"]


def forbid_every_change(sched: Sched, name: str) -> None:
    """A rule that came later than the row: whatever touches it fails."""
    sched.conn.execute(
        "alter table pgsched.schedules add constraint schedules_test_broken"
        f" check (name <> '{name}') not valid".encode()
    )


@pytest.mark.usefixtures("repaired")
async def test_the_others_fire_though_one_cannot_even_be_switched_off(
    sched: Sched, ticker: Ticker
) -> None:
    for name in ("a", "broken", "z"):
        hourly(sched, name)
    await tick(ticker)
    forbid_every_change(sched, "broken")
    sched.clock(HOUR)
    await tick(ticker)

    assert ledger(sched, "a") == ledger(sched, "z") == ["RUN"]


@pytest.mark.usefixtures("repaired")
async def test_the_others_fire_though_the_pause_of_one_cannot_be_ended(
    sched: Sched, ticker: Ticker
) -> None:
    for name in ("a", "broken", "paused", "z"):
        hourly(sched, name)
    await tick(ticker)
    for name in ("broken", "paused"):
        sched.call("pause_schedule", name, until=sched.now + HOUR / 2)
    forbid_every_change(sched, "broken")
    sched.clock(HOUR)
    await tick(ticker)

    assert ledger(sched, "a") == ledger(sched, "paused") == ledger(sched, "z") == ["RUN"]


async def test_the_others_fire_though_the_definition_of_one_was_torn_out(
    sched: Sched, ticker: Ticker
) -> None:
    hourly(sched, "a")
    sched.define("gone")
    sched.call("schedule_cron", "gone", "0 * * * *", name="broken")
    await tick(ticker)
    with sched.conn.transaction():
        sched.conn.execute("set local session_replication_role = replica")
        sched.conn.execute("delete from pgsched.task_definitions where name = 'gone'")
    sched.clock(HOUR)
    await tick(ticker)

    assert ledger(sched, "a") == ["RUN"]
    assert ledger(sched, "broken") != ["RUN"]


async def test_a_definition_that_a_schedule_needs_cannot_be_deleted(sched: Sched) -> None:
    hourly(sched, "a")
    with pytest.raises(psycopg.Error, match="has unfinished tasks or schedules"):
        sched.conn.execute("delete from pgsched.task_definitions")


async def test_params_that_cannot_be_merged_are_refused(sched: Sched) -> None:
    hourly(sched, "a")
    with pytest.raises(psycopg.errors.CheckViolation, match="schedules_params_are_objects"):
        alter(sched, "a", "input_params = '5'")


async def test_the_others_fire_though_computing_one_raises(
    sched: Sched, ticker: Ticker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "broken", "z"):
        hourly(sched, name)
    await tick(ticker)
    compute = firing._advance

    def fail_for_one(schedule: DueSchedule) -> Any:
        if schedule.name == "broken":
            raise ZeroDivisionError("a fault of ours")
        return compute(schedule)

    monkeypatch.setattr(firing, "_advance", fail_for_one)
    sched.clock(HOUR)
    await tick(ticker)

    assert ledger(sched, "a") == ledger(sched, "z") == ["RUN"]
    assert broken(sched) == {"broken": "internal error: ZeroDivisionError: a fault of ours"}


# What is broken loses no instant


@pytest.mark.usefixtures("repaired")
async def test_the_instant_at_which_a_schedule_broke_is_in_the_ledger(
    sched: Sched, ticker: Ticker
) -> None:
    hourly(sched, "broken")
    await tick(ticker)
    refuse_to_fire(sched, "broken", "raise exception 'it is broken'")
    sched.clock(HOUR)
    await tick(ticker)
    assert broken(sched).keys() == {"broken"}

    sched.conn.execute("drop function public.refuse() cascade")
    sched.call("resume_schedule", "broken")
    sched.clock(HOUR)
    await tick(ticker)
    sched.close_gaps()

    assert ledger(sched, "broken") == ["MISSED", "RUN"]


# What lies behind: gaps and backfills


@pytest.fixture
async def backfiller(sched: Sched, clocked: SharedDatabase) -> AsyncIterator[Backfiller]:
    database = Database(as_role(clocked.dsn, "worker"))
    await database.open()
    yield Backfiller(database, asyncio.Event(), 0.01)
    await database.close()


async def settle_what_lies_behind(backfiller: Backfiller) -> None:
    """As a worker does, which goes on after an error of its own."""
    for _ in range(10):
        with contextlib.suppress(PgschedError, psycopg.Error):
            await backfiller.step()


NAMES = [*(f"broken {n}" for n in range(12)), "z"]


@pytest.mark.usefixtures("repaired")
@pytest.mark.parametrize("sqlstate", ["P0001", "22023", "PS422"])
async def test_other_backfills_run_though_those_of_some_fail(
    sched: Sched, ticker: Ticker, backfiller: Backfiller, sqlstate: str
) -> None:
    for name in NAMES:
        hourly(sched, name)
    await tick(ticker)
    refuse_to_fire(sched, "broken%", f"raise sqlstate '{sqlstate}' using message = 'no'")
    for name in NAMES:
        sched.call("backfill_schedule", name, sched.now - 3 * HOUR, sched.now)

    await settle_what_lies_behind(backfiller)

    assert ledger(sched, "z") == ["RUN"] * 4
    query = "select distinct status, error_msg from pgsched.schedule_backfills order by 1"
    assert list(map(tuple, sched.rows(query))) == [("DONE", None), ("REFUSED", "it cannot run: no")]


@pytest.mark.usefixtures("repaired")
async def test_other_gaps_are_closed_though_those_of_some_cannot_be(
    sched: Sched, ticker: Ticker, backfiller: Backfiller
) -> None:
    for name in NAMES:
        hourly(sched, name)
    await tick(ticker)
    sched.clock(3 * HOUR)
    for name in NAMES:
        sched.call("pause_schedule", name)
    (good,) = sched.rows("select id::text from pgsched.schedules where name = 'z'")
    sched.conn.execute(
        "alter table pgsched.schedule_fires add constraint schedule_fires_test_broken"
        f" check (schedule_id = '{good.id}') not valid".encode()
    )

    await settle_what_lies_behind(backfiller)

    assert ledger(sched, "z") == ["MISSED"] * 3
