"""`pgsched schedules show`: all about one schedule, on one page."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from rich.table import Table

from pgsched import diagnosis, reading, words, zones
from pgsched.cli import printing
from pgsched.cli.flags import AsJson, DatabaseUrl, Name
from pgsched.cli.printing import ago, clean, coloured, length, utc
from pgsched.cli.running import run
from pgsched.cli.schedules import next_of, print_fires, times_of
from pgsched.db import Connection
from pgsched.errors import Invalid
from pgsched.plain import plain
from pgsched.schedules import Backfill, Schedule, ScheduleFire

# Of the ledger, and of the backfills.
FIRES = 5
BACKFILLS = 3


class _Page(NamedTuple):
    schedule: Schedule
    explanation: str
    fires: list[ScheduleFire]
    backfills: list[Backfill]
    now: datetime


async def _read(session: Connection, name: str) -> _Page:
    return _Page(
        await reading.get_schedule(session, name),
        await reading.explain_schedule(session, name),
        await reading.list_fires(session, name, limit=FIRES),
        await reading.list_backfills(session, name, limit=BACKFILLS),
        await diagnosis.clock(session),
    )


def show(name: Name, as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """Show one schedule: how it is set, why it fires or not, and its latest instants."""
    page = run(database_url, lambda session: _read(session, name))
    if as_json:
        printing.print_json(
            plain(page.schedule)
            | {
                "explanation": page.explanation,
                "fires": [plain(fire) for fire in page.fires],
                "backfills": [plain(backfill) for backfill in page.backfills],
            }
        )
        return
    console = printing.console()
    printing.print_rows(_facts(page.schedule, page.now))
    printing.print_sentences(page.explanation)
    for backfill in page.backfills:
        console.print(_backfill(backfill, page.now))
    if page.fires:
        console.print()
        print_fires(page.fires)


def _facts(schedule: Schedule, now: datetime) -> Table:
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold")
    rows.add_column(overflow="fold")
    rows.add_row("Schedule", clean(schedule.name))
    rows.add_row("State", coloured(schedule.state))
    rows.add_row("Runs", clean(times_of(schedule)))
    if said := _words(schedule):
        rows.add_row("", clean(said))
    rows.add_row("Next", _next(schedule, now))
    rows.add_row(
        "Definition",
        clean(f"{schedule.definition_name}, queue {schedule.queue}, priority {schedule.priority}"),
    )
    rows.add_row("Policies", _policies(schedule))
    if limits := _limits(schedule):
        rows.add_row("Limits", limits)
    if schedule.input_params:
        rows.add_row("Input", clean(schedule.input_params))
    rows.add_row("Runs made", f"{schedule.run_count:,}")
    created = f"{utc(schedule.created_at)} UTC by {clean(schedule.created_by)}"
    rows.add_row("Created", f"{created}; time changed {ago(schedule.changed_at, now)}")
    return rows


def _words(schedule: Schedule) -> str:
    try:
        return words.explain(schedule.cron_expr, schedule.timezone) if schedule.cron_expr else ""
    except Invalid:  # it is broken, and says so below
        return ""


def _next(schedule: Schedule, now: datetime) -> str:
    at = schedule.next_run_at
    if at is None:
        return next_of(schedule, now)
    text = f"{utc(at)} UTC, {next_of(schedule, now)}"
    if schedule.timezone in zones.names() - {"UTC"}:
        local = at.astimezone(zones.zone(schedule.timezone))
        text += f" ({local:%a %H:%M:%S} in {schedule.timezone})"
    return text


def _policies(schedule: Schedule) -> str:
    text = (
        f"overlap {schedule.overlap_policy}, misfire {schedule.misfire_policy},"
        f" grace {length(schedule.misfire_grace)}"
    )
    return f"{text}, jitter {length(schedule.jitter)}" if schedule.jitter else text


def _limits(schedule: Schedule) -> str:
    given = {
        "from": schedule.starts_at and f"{utc(schedule.starts_at)} UTC",
        "up to": schedule.ends_at and f"{utc(schedule.ends_at)} UTC",
        "at most": schedule.max_runs and f"{schedule.max_runs:,} runs",
    }
    return ", ".join(f"{word} {limit}" for word, limit in given.items() if limit)


def _backfill(backfill: Backfill, now: datetime) -> str:
    text = (
        f"Backfill of {utc(backfill.from_time)} to {utc(backfill.to_time)}, asked for"
        f" {ago(backfill.created_at, now)}: {backfill.status}, {backfill.run_count:,} runs of"
        f" {backfill.instant_count:,} instants"
    )
    return clean(f"{text}: {backfill.error_msg}" if backfill.error_msg else f"{text}.")
