"""Schedules and what became of their instants, for the tests of schedules."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any

from psycopg.types.json import Jsonb

from pgsched.backfiller import step_of
from pgsched.due import DueBackfill
from pgsched.instants import Timing
from tests.sql.sched import START, Sched, _dumps

MICROSECOND = timedelta(microseconds=1)


def cron(sched: Sched, expression: str = "* * * * *", /, **named: object) -> str:
    """A schedule of `job`, whose first instant is computed; its id."""
    schedule_id = str(sched.call("schedule_cron", "job", expression, **named))
    sched.tick_all()
    return schedule_id


def every(sched: Sched, interval: timedelta, /, **named: object) -> str:
    """The same, at an interval."""
    schedule_id = str(sched.call("schedule_every", "job", interval, **named))
    sched.tick_all()
    return schedule_id


def row_of(sched: Sched, schedule_id: str) -> Any:
    (row,) = sched.rows("select * from pgsched.schedules where id = %s", schedule_id)
    return row


def status_of(sched: Sched, schedule_id: str) -> Any:
    """The schedule as people see it."""
    (row,) = sched.rows("select * from pgsched.schedule_status where id = %s", schedule_id)
    return row


def ledger(sched: Sched, schedule_id: str | None = None) -> list[Any]:
    """The rows of the ledger in the order of their instants."""
    query = """
        select * from pgsched.schedule_fires
        where schedule_id = coalesce(%s, schedule_id)
        order by schedule_id, scheduled_time
    """
    return sched.rows(query, schedule_id)


def outcomes(sched: Sched, schedule_id: str | None = None) -> list[str]:
    return [fire.outcome for fire in ledger(sched, schedule_id)]


def times(sched: Sched, outcome: str = "RUN") -> list[datetime]:
    """The instants with rows of their own that ended so."""
    return [fire.scheduled_time for fire in ledger(sched) if fire.outcome == outcome]


def changes(sched: Sched, schedule_id: str) -> list[Any]:
    """The change log of a schedule in the order in which it was written."""
    query = """
        select * from pgsched.schedule_changes where schedule_id = %s
        order by xmin::text::bigint, cmin::text::bigint
    """
    return sched.rows(query, schedule_id)


def last_change(sched: Sched, schedule_id: str) -> Any:
    return changes(sched, schedule_id)[-1]


def instants(sched: Sched, schedule_id: str, after: datetime, until: datetime) -> list[datetime]:
    """All instants of a schedule after one time and up to another."""
    row = row_of(sched, schedule_id)
    anchor = row.starts_at or row.changed_at
    timing = Timing(row.cron_expr, row.every, row.timezone, anchor)
    return list(takewhile(lambda at: at <= until, timing.all_after(after)))


def account_of(
    sched: Sched, schedule_id: str, after: datetime, until: datetime
) -> tuple[list[datetime], list[datetime]]:
    """
    The instants of a range, and those that the ledger accounts for.

    A row that stands for many accounts for those of its range that have no row
    of their own, and must count as many.
    """
    fires = ledger(sched, schedule_id)
    single = [fire.scheduled_time for fire in fires if fire.folded_until is None]
    found = list(single)
    for fold in fires:
        if fold.folded_until is not None:
            within = instants(
                sched, schedule_id, fold.scheduled_time - MICROSECOND, fold.folded_until
            )
            covered = [at for at in within if at not in single]
            assert fold.folded_count == len(covered), fold
            found += covered
    return instants(sched, schedule_id, after, until), sorted(found)


def catch_up(sched: Sched) -> None:
    """What a worker would do until nothing is due: ticks, and gaps."""
    for _ in range(1000):
        sched.close_gaps()
        if not sched.tick_all():
            return
    raise AssertionError("there is always more")


def tick_at(sched: Sched, at: datetime) -> None:
    """Turn the clock, and do what a worker would."""
    sched.clock(at)
    catch_up(sched)


def update(sched: Sched, **columns: object) -> None:
    """A plain update of all schedules, as in psql."""
    given = [Jsonb(value) if isinstance(value, dict) else value for value in columns.values()]
    assignments = ", ".join(f"{name} = %s" for name in columns)
    sched.conn.execute(f"update pgsched.schedules set {assignments}".encode(), given)


def require_exact(sched: Sched, schedule_id: str) -> None:
    """Each instant since START up to counts_from is in the ledger, once."""
    catch_up(sched)
    until = row_of(sched, schedule_id).counts_from
    there, accounted = account_of(sched, schedule_id, START, until)
    assert there == accounted


def due_backfills(sched: Sched) -> list[DueBackfill]:
    query = f"select {', '.join(DueBackfill._fields)} from pgsched.due_backfills()"
    return [DueBackfill._make([str(row[0]), *row[1:]]) for row in sched.rows(query)]


def run_step(sched: Sched, step: dict[str, Any]) -> int:
    given = Jsonb(step, dumps=_dumps)
    return int(sched.value("select pgsched.run_backfill(%s)", given))


def run_backfills(sched: Sched) -> int:
    """What a worker would do with backfills that wait; how many tasks that made."""
    count = 0
    sched.close_gaps()
    while due := due_backfills(sched):
        count += sum(run_step(sched, step_of(backfill)) for backfill in due)
    return count


def backfill(sched: Sched, schedule: str, start: datetime, end: datetime, **named: object) -> Any:
    """Ask for a backfill and have it run; its row."""
    made = sched.call("backfill_schedule", schedule, start, end, **named)
    run_backfills(sched)
    return backfill_of(sched, made)


def backfill_of(sched: Sched, backfill_id: str) -> Any:
    (row,) = sched.rows("select * from pgsched.schedule_backfills where id = %s", backfill_id)
    return row


def bring_to(sched: Sched, status: str) -> Any:
    """Have the one task that is due reach an unfinished status; what was claimed, if it was."""
    if status == "PENDING":
        return None
    claimed = sched.claim_one()
    if status != "SCHEDULED":
        sched.settle(claimed)
    if status == "RUNNING":
        sched.report(claimed.id, "RUNNING", claimed.attempt)
    assert sched.status(claimed.id) == status
    return claimed
