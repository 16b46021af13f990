"""`pgsched schedules list`, `fires` and `changes`: what there is, and what became of it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

import typer

from pgsched import diagnosis, reading
from pgsched.cli import printing
from pgsched.cli.flags import AsJson, DatabaseUrl, Limit, Name
from pgsched.cli.printing import ago, clean, coloured, utc
from pgsched.cli.running import run
from pgsched.db import Connection
from pgsched.models import Json
from pgsched.plain import plain
from pgsched.schedules import Schedule, ScheduleChange, ScheduleFire, ScheduleState

State = Annotated[
    ScheduleState | None, typer.Option(case_sensitive=False, help="Only those in this state.")
]

# Later than this is late.
LATE = timedelta(minutes=1)
# Of all that a new schedule says, what tells it from others.
TELLING = {"cron_expr", "every", "timezone"}
# What the word for the change says already.
IMPLIED = {"is_active"}


def list_(state: State = None, as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """List the schedules: whether they fire, when next, and how it went."""

    async def read(session: Connection) -> tuple[list[Schedule], datetime]:
        found = await reading.list_schedules(session, state=state)
        return found, await diagnosis.clock(session)

    schedules, now = run(database_url, read)
    if as_json:
        printing.print_json({"schedules": [plain(schedule) for schedule in schedules]})
    elif schedules:
        print_list(schedules, now)
    else:
        typer.echo("no schedules" if state is None else f"no schedule is {state}")


def print_list(schedules: list[Schedule], now: datetime) -> None:
    """A line for each schedule; below, why those do not fire that do not."""
    rows = printing.table("Name", "State", "Runs", "Next", "Latest")
    for schedule in schedules:
        rows.add_row(
            clean(schedule.name),
            coloured(schedule.state),
            clean(times_of(schedule)),
            coloured(next_of(schedule, now), "error" if _is_late(schedule, now) else ""),
            coloured(*_latest(schedule, now)),
        )
    printing.print_rows(rows)
    for schedule in schedules:
        if why := why_not(schedule):
            printing.console().print(f"\n{clean(schedule.name)} {why}")
    if any(_is_late(schedule, now) for schedule in schedules):
        typer.echo("\nSome are late: `pgsched doctor` may know why.")


def times_of(schedule: Schedule) -> str:
    """As '0 8 * * * Europe/Paris', or 'every 5m'."""
    if schedule.every is not None:
        return f"every {printing.length(schedule.every)}"
    return f"{schedule.cron_expr} {schedule.timezone}"


def next_of(schedule: Schedule, now: datetime) -> str:
    """As 'in 9h 24m' or '5m late'."""
    if schedule.next_run_at is None:
        return "soon" if schedule.state == ScheduleState.ACTIVE else "-"
    if schedule.next_run_at > now:
        return ago(schedule.next_run_at, now)
    if _is_late(schedule, now):
        return f"{printing.span(now - schedule.next_run_at)} late"
    return "now"


def why_not(schedule: Schedule) -> str:
    """Why it does not fire, if so."""
    match schedule.state:
        case ScheduleState.PAUSED:
            until = schedule.paused_until
            note = f": {clean(schedule.pause_note)}" if schedule.pause_note else ""
            return f"is paused {f'until {utc(until)} UTC' if until else 'until resumed'}{note}"
        case ScheduleState.BROKEN:
            return f"is switched off: {clean(schedule.error_msg)}"
        case _:
            return ""


def _is_late(schedule: Schedule, now: datetime) -> bool:
    return schedule.next_run_at is not None and now - schedule.next_run_at > LATE


def _latest(schedule: Schedule, now: datetime) -> tuple[str, str]:
    """What became of the latest instant, and the word for it."""
    if schedule.last_outcome is None or schedule.last_fire_at is None:
        return "-", ""
    has_run = schedule.last_outcome == "RUN"
    word = (schedule.last_task_status or "RUN") if has_run else schedule.last_outcome
    often = f" {schedule.idle_count:,}x" if schedule.idle_count > 1 else ""
    return f"{word}{often} {ago(schedule.last_fire_at, now)}", word


# The ledger


def fires(
    name: Name, limit: Limit = 20, as_json: AsJson = False, database_url: DatabaseUrl = None
) -> None:
    """Show what became of the instants of a schedule."""
    found = run(database_url, lambda session: reading.list_fires(session, name, limit=limit))
    if as_json:
        printing.print_json({"fires": [plain(fire) for fire in found]})
    elif found:
        print_fires(found)
    else:
        typer.echo("no instant yet")


def print_fires(found: list[ScheduleFire]) -> None:
    """A row for each entry of the ledger."""
    rows = printing.table("Instant (UTC)", "Outcome", "Task, or why not")
    for fire in found:
        rows.add_row(utc(fire.scheduled_time), coloured(fire.outcome), clean(_became(fire)))
    printing.print_rows(rows)


def _became(fire: ScheduleFire) -> str:
    if fire.task_id is not None:
        return f"{fire.task_id}{f' {fire.reason}' if fire.reason else ''}"
    if fire.folded_until is None:
        return fire.reason or ""
    return f"{fire.folded_count:,} instants up to {utc(fire.folded_until)}: {fire.reason}"


# Who changed it


def changes(
    name: Name, limit: Limit = 20, as_json: AsJson = False, database_url: DatabaseUrl = None
) -> None:
    """Show who changed a schedule, also one that was deleted."""
    found = run(database_url, lambda session: reading.list_changes(session, name, limit=limit))
    if as_json:
        printing.print_json({"changes": [plain(change) for change in found]})
        return
    rows = printing.table("At (UTC)", "Change", "By", "What")
    for change in found:
        rows.add_row(
            utc(change.at), change.change, clean(change.changed_by), clean("; ".join(_what(change)))
        )
    printing.print_rows(rows)


def _what(change: ScheduleChange) -> list[str]:
    old, new = change.old_values or {}, change.new_values or {}
    keys = sorted({**old, **new}.keys() - IMPLIED)
    if change.change in ("CREATED", "DELETED"):
        keys = [key for key in keys if key in TELLING]
    shown = []
    for key in keys:
        before, after = old.get(key), new.get(key)
        if before is None and after is not None:
            shown.append(f"{key}: {_short(after)}")
        elif change.change == "DELETED" and before is not None:
            shown.append(f"{key}: {_short(before)}")
        elif before != after:
            shown.append(f"{key}: {_short(before)} → {_short(after)}")
    return shown


def _short(value: Json) -> str:
    return "none" if value is None else str(value)
