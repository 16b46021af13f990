"""`pgsched schedules set`, `pause`, `trigger` …: what operators do to schedules."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from pgsched import reading
from pgsched.cli import completion
from pgsched.cli.flags import (
    Cron,
    DatabaseUrl,
    EndsAt,
    Every,
    Grace,
    Input,
    Jitter,
    MaxRuns,
    Misfire,
    Name,
    Overlap,
    Priority,
    Queue,
    StartsAt,
    Yes,
    Zone,
)
from pgsched.cli.printing import line, utc
from pgsched.cli.running import ask, run
from pgsched.cli.schedules import times_of, why_not
from pgsched.cli.values import time_of
from pgsched.control import ScheduleControl
from pgsched.db import Connection
from pgsched.doctor import plural
from pgsched.errors import NotFound
from pgsched.scheduler import SchedulerService
from pgsched.schedules import Schedule, ScheduleState

CONTROL = ScheduleControl()
# What `set` sets.
SETTINGS = (
    *("definition_id", "cron_expr", "every", "timezone", "overlap_policy", "misfire_policy"),
    *("misfire_grace", "jitter", "starts_at", "ends_at", "max_runs", "queue", "priority"),
    "input_params",
)

Definition = Annotated[
    str,
    typer.Option(
        help="What it runs: name or id of the definition.",
        autocompletion=completion.definitions,
    ),
]
NewName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the schedule.")]


def set_(
    name: NewName,
    definition: Definition,
    cron: Cron = None,
    tz: Zone = None,
    every: Every = None,
    overlap: Overlap = None,
    misfire: Misfire = None,
    grace: Grace = None,
    jitter: Jitter = None,
    starts_at: StartsAt = None,
    ends_at: EndsAt = None,
    max_runs: MaxRuns = None,
    queue: Queue = None,
    priority: Priority = None,
    input_params: Input = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Create a schedule, or replace the one of that name; what is left out takes its default."""
    _require_one_time(cron, every, tz)
    options = {
        "name": name,
        "overlap_policy": overlap and overlap.value,
        "misfire_policy": misfire and misfire.value,
        "misfire_grace": grace,
        "jitter": jitter,
        "starts_at": starts_at,
        "ends_at": ends_at,
        "max_runs": max_runs,
        "queue": queue,
        "priority": priority,
        "input_params": input_params,
    }
    when = {"cron_expression": cron, "timezone": tz or "UTC"} if every is None else {"every": every}
    before, after = run(
        database_url, lambda session: _put(session, name, definition, {**when, **options})
    )
    line(f"{_done(before, after)} {name}, which runs {_times(after)}{_but(after)}")


def _require_one_time(cron: object, every: object, tz: object) -> None:
    if (cron is None) == (every is None):
        raise typer.BadParameter("give one of --cron and --every, and not both")
    if tz is not None and every is not None:
        raise typer.BadParameter("--tz is not for --every, which is elapsed time")


async def _put(
    session: Connection, name: str, definition: str, given: dict[str, Any]
) -> tuple[Schedule | None, Schedule]:
    """The schedule as it was, if it was there, and as it is now."""
    service, before = SchedulerService(), await _found(session, name)
    method = service.schedule_every if "every" in given else service.schedule_cron
    await method(session, definition, **given)
    return before, await reading.get_schedule(session, name)


async def _found(session: Connection, name: str) -> Schedule | None:
    try:
        async with session.transaction():
            return await reading.get_schedule(session, name)
    except NotFound:
        return None


def _done(before: Schedule | None, after: Schedule) -> str:
    if before is None:
        return "created"
    same = all(getattr(before, field) == getattr(after, field) for field in SETTINGS)
    return "nothing to change in" if same else "changed"


def _times(schedule: Schedule) -> str:
    return times_of(schedule) if schedule.every else f"at {times_of(schedule)}"


def _but(schedule: Schedule) -> str:
    return f"; but it {why}" if (why := why_not(schedule)) else ""


def reschedule(
    name: Name,
    cron: Cron = None,
    every: Every = None,
    tz: Zone = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Change the time of a schedule, at once; a broken or ended one starts again."""
    if cron is None and every is None and tz is None:
        raise typer.BadParameter("give --cron, --every or --tz: there is nothing to change")
    if cron is not None:
        _require_one_time(cron, every, None)

    async def change(session: Connection) -> Schedule:
        await CONTROL.reschedule(session, name, cron_expression=cron, every=every, timezone=tz)
        return await reading.get_schedule(session, name)

    schedule = run(database_url, change)
    line(f"{schedule.name} runs {_times(schedule)}{_but(schedule)}")


Note = Annotated[str | None, typer.Option(help="Why, for the next reader.")]
Until = Annotated[
    datetime | None,
    typer.Option(
        parser=time_of, metavar="TIME", help="When the pause ends by itself; else by `resume`."
    ),
]


def pause(
    name: Name, note: Note = None, until: Until = None, database_url: DatabaseUrl = None
) -> None:
    """Stop a schedule from firing; what falls into the pause is not missed."""

    async def change(session: Connection) -> Schedule:
        await CONTROL.pause_schedule(session, name, note, until)
        return await reading.get_schedule(session, name)

    schedule = run(database_url, change)
    line(f"{schedule.name} {why_not(schedule)}")


def resume(name: Name, database_url: DatabaseUrl = None) -> None:
    """Let a schedule fire again, from now on."""

    async def change(session: Connection) -> tuple[Schedule, Schedule]:
        before = await reading.get_schedule(session, name)
        await CONTROL.resume_schedule(session, name)
        return before, await reading.get_schedule(session, name)

    before, after = run(database_url, change)
    if before.state == ScheduleState.ACTIVE:
        line(f"{after.name} was not paused")
    else:
        why = f": {before.error_msg}" if before.state == ScheduleState.BROKEN else ""
        line(f"{after.name} is {after.state}; it was {before.state}{why}")


def trigger(name: Name, input_params: Input = None, database_url: DatabaseUrl = None) -> None:
    """Run a schedule now, besides its time, also while it is paused; prints the task's id."""
    line(
        run(
            database_url,
            lambda session: CONTROL.trigger_schedule(session, name, input_params),
        )
    )


def delete(name: Name, yes: Yes = False, database_url: DatabaseUrl = None) -> None:
    """Delete a schedule, and cancel its tasks that wait; its ledger and its changes stay."""
    schedule = run(database_url, lambda session: reading.get_schedule(session, name))
    if not yes:
        made = plural(schedule.run_count, "run")
        last = f", the latest {utc(schedule.last_run_at)} UTC" if schedule.last_run_at else ""
        line(f"{schedule.name} is {schedule.state}, runs {_times(schedule)}; {made}{last}")
        ask("delete it?")
    cancelled = run(
        database_url, lambda session: CONTROL.delete_schedule(session, str(schedule.id))
    )
    line(f"deleted {schedule.name}; {plural(cancelled, 'waiting task')} cancelled")
