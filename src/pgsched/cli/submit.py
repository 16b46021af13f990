"""`pgsched submit`: schedule one task, and perhaps wait for its end."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pgsched import diagnosis, reading
from pgsched.cli import completion
from pgsched.cli.flags import DatabaseUrl, Input, Priority, Queue
from pgsched.cli.printing import clean, length, line
from pgsched.cli.running import run
from pgsched.cli.values import duration_of, time_of
from pgsched.db import Connection
from pgsched.errors import PgschedError
from pgsched.lifecycle import LifecycleService
from pgsched.models import ScheduledTask, ScheduleType, TaskStatus

SERVICE = LifecycleService()
# Seconds between two looks.
INTERVAL = 0.2

Definition = Annotated[
    str,
    typer.Argument(
        metavar="DEFINITION",
        help="What it runs: name or id of a definition.",
        autocompletion=completion.definitions,
    ),
]
Delay = Annotated[
    timedelta | None,
    typer.Option(parser=duration_of, metavar="DURATION", help="Run it so much later."),
]
At = Annotated[datetime | None, typer.Option(parser=time_of, metavar="TIME", help="Run it then.")]
Key = Annotated[str | None, typer.Option(help="Idempotency key: the same again is the same task.")]
DependsOn = Annotated[
    list[UUID] | None,
    typer.Option(metavar="ID", help="A task that must end first; may be given again."),
]
TraceId = Annotated[UUID | None, typer.Option(metavar="ID", help="The trace it belongs to.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for its end; exit 0 on SUCCESS alone.")]
Timeout = Annotated[
    timedelta | None,
    typer.Option(parser=duration_of, metavar="DURATION", help="Wait no longer than this."),
]


def submit(
    definition: Definition,
    input_params: Input = None,
    delay: Delay = None,
    at: At = None,
    priority: Priority = None,
    queue: Queue = None,
    key: Key = None,
    depends_on: DependsOn = None,
    trace_id: TraceId = None,
    wait: Wait = False,
    timeout: Timeout = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Schedule a task, now or later; prints its id."""
    if delay is not None and at is not None:
        raise typer.BadParameter("give one of --delay and --at, and not both")
    if timeout is not None and not wait:
        raise typer.BadParameter("--timeout is for --wait")
    given = {
        "input_params": input_params,
        "delay": delay,
        "scheduled_time": at,
        "priority": priority,
        "queue": queue,
        "idempotency_key": key,
        "depends_on": depends_on or None,
        "trace_id": trace_id,
    }
    later = delay is not None or at is not None
    kind = ScheduleType.DELAYED if later else ScheduleType.IMMEDIATE

    async def work(session: Connection) -> ScheduledTask | None:
        task_id = await SERVICE.schedule(session, kind, definition, **_known(given))
        line(task_id)
        return await _wait(session, task_id, timeout) if wait else None

    task = run(database_url, work, autocommit=True)
    if task is not None:
        _tell(task, timeout)


def _known(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


async def _wait(session: Connection, task_id: str, patience: timedelta | None) -> ScheduledTask:
    """The task once it has ended, or *patience* is over; Ctrl-C ends the wait alone."""
    console = Console(stderr=True, highlight=False, markup=False)
    deadline = None if patience is None else time.monotonic() + patience.total_seconds()
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    is_told = False
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        bar = progress.add_task("", total=None)
        while True:
            task = await reading.get_task(session, task_id)
            progress.update(bar, description=_where(task))
            is_late = deadline is not None and time.monotonic() >= deadline
            if task.finished_at is not None or is_late:
                return task
            if not is_told and await diagnosis.live_workers(session) == 0:
                text = "No worker is alive to run it: start one with `pgsched worker`."
                console.print(text, soft_wrap=not console.is_terminal)
                is_told = True
            await asyncio.sleep(INTERVAL)


def _where(task: ScheduledTask) -> str:
    parts = [str(task.status)]
    if task.pending_dependencies:
        parts.append(f"waits for {task.pending_dependencies:,} more")
    if task.attempt > 1:
        parts.append(f"attempt {task.attempt}")
    if task.progress is not None:
        parts.append(str(task.progress))
    return clean(", ".join(parts))


def _tell(task: ScheduledTask, timeout: timedelta | None) -> None:
    """The end of the wait, on stderr: stdout has the id alone."""
    if task.finished_at is None:
        waited = length(timeout or timedelta())
        raise PgschedError(f"task {task.id} is {task.status} after {waited}; it goes on")
    if task.status != TaskStatus.SUCCESS:
        raise PgschedError(f"task {task.id} is {task.status}: {task.error_msg or 'no error given'}")
    output = f": {task.output_ref}" if task.output_ref else ""
    typer.echo(clean(f"SUCCESS{output}"), err=True)
