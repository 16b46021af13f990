"""`pgsched tasks list` and `events`: what there is, and what became of it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

import typer
from rich.table import Table

from pgsched import diagnosis, reading, task_reading
from pgsched.cli import printing
from pgsched.cli.flags import AsJson, DatabaseUrl, Limit
from pgsched.cli.printing import ago, clean, coloured, length, span, utc
from pgsched.cli.running import run
from pgsched.cli.task_flags import OfDefinition, OfQueue, OfTrace, TaskId
from pgsched.cli.values import duration_of
from pgsched.db import Connection
from pgsched.models import ScheduledTask, TaskStatus
from pgsched.plain import plain
from pgsched.rows import TaskEvent

# From so many columns on a list has the errors as well, cut to what is left.
WIDE = 120
TAKEN = 100

Status = Annotated[
    TaskStatus | None, typer.Option(case_sensitive=False, help="Only those in this status.")
]
Since = Annotated[
    timedelta | None,
    typer.Option(parser=duration_of, metavar="DURATION", help="Only those made so lately."),
]


def list_(
    status: Status = None,
    queue: OfQueue = None,
    definition: OfDefinition = None,
    trace: OfTrace = None,
    since: Since = None,
    limit: Limit = 20,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """List tasks, unfinished and finished, the newest first."""

    async def read(session: Connection) -> tuple[list[ScheduledTask], datetime]:
        now = await diagnosis.clock(session)
        found = await task_reading.find_tasks(
            session,
            status=status,
            queue=queue,
            definition=definition,
            trace_id=trace,
            since=None if since is None else now - since,
            limit=limit,
        )
        return found, now

    tasks, now = run(database_url, read)
    if as_json:
        printing.print_json({"tasks": [plain(task) for task in tasks]})
    elif tasks:
        printing.print_rows(_rows(tasks, now))
    else:
        typer.echo("no such task")


def _rows(tasks: list[ScheduledTask], now: datetime) -> Table:
    width = printing.console().width
    is_wide = width >= WIDE
    rows = printing.table("Task", "Status", "Definition", "When", *["Latest error"] * is_wide)
    rows.columns[0].no_wrap = True
    for task in tasks:
        error = [clean(short(task.error_msg or "", width - TAKEN))] * is_wide
        name = clean(task.definition_name or "-")
        rows.add_row(str(task.id), coloured(task.status), name, when(task, now), *error)
    return rows


def when(task: ScheduledTask, now: datetime) -> str:
    """As 'in 5m', 'due 3s ago', 'for 12s' while it is under way, or 'ended 2m ago'."""
    if task.finished_at is not None:
        return f"ended {ago(task.finished_at, now)}"
    if task.status == TaskStatus.PENDING and task.pending_dependencies:
        return f"waits for {task.pending_dependencies:,}"
    if task.status == TaskStatus.PENDING:
        is_due = task.execute_after <= now
        return f"due {ago(task.execute_after, now)}" if is_due else ago(task.execute_after, now)
    return f"for {span(now - task.started_at)}" if task.started_at else "on its way"


def short(text: str, most: int) -> str:
    """The first line of *text*, up to *most* characters."""
    first = text.partition("\n")[0]
    return first if len(first) <= most else f"{first[: most - 1]}…"


def events(
    task_id: TaskId, limit: Limit = 100, as_json: AsJson = False, database_url: DatabaseUrl = None
) -> None:
    """Show what happened to a task off the happy path, in its order."""

    async def read(session: Connection) -> list[TaskEvent]:
        await reading.get_task(session, str(task_id))
        return await task_reading.list_events(session, task_id, limit=limit)

    found = run(database_url, read)
    if as_json:
        printing.print_json({"events": [plain(event) for event in found]})
    elif found:
        print_events(found)
    else:
        typer.echo("no event: it did not leave the happy path")


def print_events(found: list[TaskEvent]) -> None:
    """A row for each event."""
    rows = printing.table("At (UTC)", "Event", "Attempt", "What")
    for event in found:
        took = f" (after {length(event.response_time)})" if event.response_time else ""
        attempt = "" if event.attempt is None else str(event.attempt)
        what = clean(f"{event.message or ''}{took}".strip())
        rows.add_row(utc(event.at), coloured(event.event), attempt, what)
    printing.print_rows(rows)
