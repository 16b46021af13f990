"""`pgsched tasks explain`, `stuck` and `failures`: why tasks do not get on."""

from __future__ import annotations

from datetime import datetime

import typer
from rich.console import RenderableType
from rich.table import Table

from pgsched import diagnosis, reading, watching
from pgsched.cli import printing
from pgsched.cli.flags import AsJson, DatabaseUrl, Limit
from pgsched.cli.printing import ago, clean, coloured, line, span
from pgsched.cli.running import run
from pgsched.cli.task_flags import TaskId
from pgsched.db import Connection
from pgsched.plain import plain
from pgsched.rows import RecentFailure, StuckTask

# From so many columns on there is room for everything.
WIDE = 120


def explain(task_id: TaskId, as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """Say in words why a task runs or does not, how it ended, and what to do."""
    said = run(database_url, lambda session: reading.explain_task(session, task_id))
    if as_json:
        printing.print_json({"task_id": str(task_id), "explanation": said})
        return
    for sentence in said.splitlines():
        line(sentence)


def stuck(limit: Limit = 100, as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """List unfinished tasks that do not get on, and why, those stuck for longest first."""
    tasks = run(database_url, lambda session: watching.list_stuck_tasks(session, limit=limit))
    if as_json:
        printing.print_json({"tasks": [plain(task) for task in tasks]})
    elif tasks:
        printing.print_rows(_stuck(tasks))
    else:
        typer.echo("no task is stuck")


def _stuck(tasks: list[StuckTask]) -> Table:
    is_wide = printing.console().width >= WIDE
    rows = printing.table("Task", *["Status", "Queue"] * is_wide, "For", "Why")
    rows.columns[0].no_wrap = rows.columns[-2].no_wrap = True
    for task in tasks:
        more: list[RenderableType] = [coloured(task.status), clean(task.queue)]
        rows.add_row(str(task.id), *more * is_wide, span(task.stuck_for), clean(task.reason))
    return rows


def failures(limit: Limit = 100, as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """List why tasks failed in the latest 24 hours, those alike together, the latest first."""

    async def read(session: Connection) -> tuple[list[RecentFailure], datetime]:
        found = await watching.list_recent_failures(session, limit=limit)
        return found, await diagnosis.clock(session)

    found, now = run(database_url, read)
    if as_json:
        printing.print_json({"failures": [plain(failure) for failure in found]})
    elif found:
        printing.print_rows(_failures(found, now))
    else:
        typer.echo("no task failed in the latest 24 hours")


def _failures(found: list[RecentFailure], now: datetime) -> Table:
    is_wide = printing.console().width >= WIDE
    more = ["Queue", "Latest task"] * is_wide
    rows = printing.table("Failed", "Retrying", "Latest", "Definition", "Error", *more)
    for column in (*rows.columns[:3], *rows.columns[6:]):
        column.no_wrap = True
    for column in rows.columns[:2]:
        column.justify = "right"
    for failure in found:
        more = [clean(failure.queue), str(failure.last_task_id)] * is_wide
        rows.add_row(
            f"{failure.failed_count:,}",
            f"{failure.retrying_count:,}",
            ago(failure.last_at, now),
            clean(failure.definition_name or "-"),
            clean(failure.fingerprint or "-"),
            *more,
        )
    return rows
