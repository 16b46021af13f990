"""`pgsched tasks show`: all about one task, on one page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import typer
from rich.table import Table

from pgsched import diagnosis, reading, task_reading
from pgsched.cli import printing
from pgsched.cli.flags import AsJson, DatabaseUrl
from pgsched.cli.printing import ago, clean, coloured, utc
from pgsched.cli.running import run
from pgsched.cli.task_flags import TaskId
from pgsched.cli.tasks import print_events, short, when
from pgsched.db import Connection
from pgsched.models import Json, ScheduledTask
from pgsched.plain import plain
from pgsched.rows import TaskEvent, TaskLink

# Of an error in a table.
SHORT = 60


class _Page(NamedTuple):
    task: ScheduledTask
    explanation: str
    events: list[TaskEvent]
    dependencies: list[TaskLink]
    dependents: list[TaskLink]
    rounds: list[TaskLink]
    now: datetime


async def _read(session: Connection, task_id: TaskId) -> _Page:
    task = await reading.get_task(session, str(task_id))
    return _Page(
        task,
        await reading.explain_task(session, task.id),
        await task_reading.list_events(session, task.id),
        await task_reading.list_dependencies(session, task),
        await task_reading.list_dependents(session, task.id),
        await task_reading.list_rounds(session, task),
        await diagnosis.clock(session),
    )


def show(task_id: TaskId, as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """Show one task: its times, why it runs or not, its events, what it waits for, its loop."""
    page = run(database_url, lambda session: _read(session, task_id))
    parts: dict[str, Sequence[TaskEvent | TaskLink]] = {
        "events": page.events,
        "dependencies": page.dependencies,
        "dependents": page.dependents,
        "rounds": page.rounds,
    }
    if as_json:
        lists = {name: [plain(row) for row in rows] for name, rows in parts.items()}
        printing.print_json(plain(page.task) | {"explanation": page.explanation} | lists)
        return
    printing.print_rows(_facts(page.task, page.now))
    printing.print_sentences(page.explanation)
    if page.events:
        typer.echo()
        print_events(page.events)
    _print_links("Was to wait for", page.dependencies, page.now)
    _print_links("Waits for it", page.dependents, page.now)
    _print_links("Round of its loop", page.rounds, page.now)


def _facts(task: ScheduledTask, now: datetime) -> Table:
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold")
    rows.add_column(overflow="fold")
    rows.add_row("Task", str(task.id))
    rows.add_row("Status", coloured(f"{task.status}, {when(task, now)}", task.status))
    name = task.definition_name or f"{task.definition_id}, which was deleted"
    rows.add_row("Definition", clean(name))
    rows.add_row(
        "Runs as", clean(f"{task.schedule_type}, queue {task.queue}, priority {task.priority}")
    )
    rows.add_row("Attempts", _attempts(task))
    for word, at in _times(task).items():
        if at is not None:
            rows.add_row(word, f"{utc(at)} UTC, {ago(at, now)}")
    for word, value in _rest(task).items():
        if value:
            rows.add_row(word, clean(value))
    return rows


def _attempts(task: ScheduledTask) -> str:
    parts = [
        f"attempt {task.attempt}",
        f"{task.retry_count} of {task.max_retries} retries used",
        f"claimed {task.delivery_count}x",
    ]
    if task.lost_count:
        parts.append(f"lost {task.lost_count}x in a row")
    return ", ".join(parts)


def _times(task: ScheduledTask) -> dict[str, datetime | None]:
    is_moved = task.execute_after != task.scheduled_time
    return {
        "Made": task.created_at,
        "Scheduled": task.scheduled_time,
        "Due": task.execute_after if is_moved else None,
        "Deferred": task.undelivered_since,
        "Accepted": task.dispatched_at,
        "Started": task.started_at,
        "Deadline": task.deadline_at,
        "Cancelled": task.cancelled_at,
        "Finished": task.finished_at,
    }


def _rest(task: ScheduledTask) -> dict[str, str | None]:
    waits = task.on_dependency_failure
    return {
        "Error": task.error_msg,
        "Progress": _json(task.progress),
        "Output": task.output_ref,
        "Input": _json(task.input_params),
        "Config": _json(task.schedule_config),
        "Made by": task.created_by,
        "Trace": str(task.trace_id),
        "Schedule": str(task.schedule_id or ""),
        "Loop": f"{task.loop_id}, round {task.round_index}" if task.loop_id else "",
        "Worker": str(task.worker_id or ""),
        "Waits": f"for {task.pending_dependencies:,} more; when one fails: {waits}"
        if waits
        else "",
        "Told": "" if task.external_status_pushed else "its external system does not know all yet",
    }


def _json(value: Json) -> str:
    return "" if value in (None, {}) else json.dumps(value, ensure_ascii=False)


def _print_links(title: str, links: list[TaskLink], now: datetime) -> None:
    if not links:
        return
    rows = printing.table(title, "Status", "Definition", "Round", "When")
    rows.columns[0].no_wrap = True
    for link in links:
        ended = link.finished_at
        at = ago(link.scheduled_time, now) if ended is None else f"ended {ago(ended, now)}"
        if link.error_msg:
            at = f"{at}: {short(link.error_msg, SHORT)}"
        name = clean(link.definition_name or "-")
        status = coloured(link.status)
        rows.add_row(str(link.id), status, name, str(link.round_index), clean(at))
    typer.echo()
    printing.print_rows(rows)
