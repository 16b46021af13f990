"""`pgsched definitions`: what can be run."""

from __future__ import annotations

import json
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.table import Table

from pgsched import reading
from pgsched.cli import completion, printing
from pgsched.cli.flags import AsJson, Cron, DatabaseUrl, Input
from pgsched.cli.printing import clean, coloured, length, line, utc
from pgsched.cli.running import found, run
from pgsched.cli.values import duration_of, object_of
from pgsched.db import Connection
from pgsched.doctor import plural
from pgsched.models import Json, ScheduleType, TaskDefinition
from pgsched.plain import plain
from pgsched.scheduler import SchedulerService

SERVICE = SchedulerService()
# What `set` does not set.
UNSET = {"id", "is_active", "is_temporary", "created_at", "updated_at"}


class Backoff(StrEnum):
    """How the pause before a retry grows."""

    FIXED = "fixed"
    EXPONENTIAL = "exponential"


class DependencyFailure(StrEnum):
    """What becomes of its tasks when one that they wait for fails."""

    CANCEL = "cancel"
    RUN = "run"


Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="Name or id of the definition.",
        autocompletion=completion.definitions,
    ),
]
NewName = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="Name of the definition.", autocompletion=completion.definitions
    ),
]
Content = Annotated[
    dict[str, Any] | None,
    typer.Option(parser=object_of, metavar="JSON", help="What the executor needs to run it."),
]
Queue = Annotated[
    str | None, typer.Option(help="Default: default.", autocompletion=completion.queues)
]
Priority = Annotated[int | None, typer.Option(min=-9, max=9, help="Default: 0.")]
Retries = Annotated[int | None, typer.Option(min=0, max=100, help="Default: 3.")]
Pause = Annotated[
    timedelta | None,
    typer.Option(parser=duration_of, metavar="DURATION", help="Before a retry; default: 60s."),
]
Grows = Annotated[Backoff | None, typer.Option(help="Of that pause; default: exponential.")]
Timeout = Annotated[
    timedelta | None,
    typer.Option(parser=duration_of, metavar="DURATION", help="Of one attempt; default: 1h."),
]
OnFailure = Annotated[
    DependencyFailure | None,
    typer.Option("--on-dependency-failure", help="When what a task waits for fails."),
]
Kind = Annotated[
    ScheduleType | None,
    typer.Option("--type", case_sensitive=False, help="How it is meant to run."),
]
ScheduleConfig = Annotated[
    dict[str, Any] | None,
    typer.Option(parser=object_of, metavar="JSON", help="Options of its runs."),
]
LoopConfig = Annotated[
    dict[str, Any] | None,
    typer.Option(parser=object_of, metavar="JSON", help="Options of its loops."),
]


def list_(as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """List what can be run, but for what was defined for a single time."""
    definitions = run(database_url, reading.list_definitions)
    if as_json:
        printing.print_json({"definitions": [plain(definition) for definition in definitions]})
        return
    if not definitions:
        typer.echo("no definitions")
        return
    rows = printing.table("Name", "Queue", "Priority", "Retries", "Timeout", "Type")
    for each in definitions:
        name = clean(each.name) if each.is_active else f"{clean(each.name)} (not active)"
        rows.add_row(
            coloured(name, "" if each.is_active else "PAUSED"),
            each.queue,
            str(each.priority),
            str(each.max_retries),
            length(each.timeout),
            each.schedule_type,
        )
    printing.print_rows(rows)


def show(name: Name, as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """Show one definition."""
    definition = run(database_url, lambda session: reading.get_definition(session, name))
    if as_json:
        printing.print_json(plain(definition))
    else:
        printing.print_rows(_facts(definition))


def _facts(definition: TaskDefinition) -> Table:
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold")
    rows.add_column(overflow="fold")
    said = {
        "Definition": f"{definition.name}{'' if definition.is_active else ', which is not active'}",
        "Id": str(definition.id),
        "Runs as": definition.schedule_type,
        "Queue": f"{definition.queue}, priority {definition.priority}",
        "Retries": _retries(definition),
        "Timeout": length(definition.timeout),
        "Dependencies": f"when one fails: {definition.on_dependency_failure}",
        "Cron": definition.cron_expr,
        "Content": _json(definition.content),
        "Input": _json(definition.input_params),
        "Config": _json(definition.schedule_config),
        "Loop": _json(definition.loop_config),
        "Changed": f"{utc(definition.updated_at)} UTC; made {utc(definition.created_at)} UTC",
    }
    for word, value in said.items():
        if value:
            rows.add_row(word, clean(value))
    return rows


def _retries(definition: TaskDefinition) -> str:
    retries = plural(definition.max_retries, "retry").replace("retrys", "retries")
    return f"{retries}, after {length(definition.retry_delay)}, {definition.retry_backoff}"


def _json(value: Json) -> str:
    return "" if value in (None, {}) else json.dumps(value, ensure_ascii=False)


def set_(
    name: NewName,
    content: Content = None,
    queue: Queue = None,
    priority: Priority = None,
    max_retries: Retries = None,
    retry_delay: Pause = None,
    retry_backoff: Grows = None,
    timeout: Timeout = None,
    on_failure: OnFailure = None,
    kind: Kind = None,
    cron: Cron = None,
    schedule_config: ScheduleConfig = None,
    loop_config: LoopConfig = None,
    input_params: Input = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Define what can be run, or change it; what is left out takes its default."""
    given: dict[str, Any] = {
        "content": content,
        "queue": queue,
        "priority": priority,
        "max_retries": max_retries,
        "retry_delay": retry_delay,
        "retry_backoff": retry_backoff and retry_backoff.value,
        "timeout": timeout,
        "on_dependency_failure": on_failure and on_failure.value,
        "schedule_type": kind and kind.value,
        "cron_expr": cron,
        "schedule_config": schedule_config,
        "loop_config": loop_config,
        "input_params": input_params,
    }

    async def put(session: Connection) -> tuple[TaskDefinition | None, TaskDefinition]:
        before = await found(session, reading.get_definition(session, name))
        definition_id = await SERVICE.define_task(session, name, **given)
        return before, await reading.get_definition(session, definition_id)

    _tell(name, *run(database_url, put))


def _tell(name: str, before: TaskDefinition | None, after: TaskDefinition) -> None:
    line(f"{printing.done(before, after, UNSET)} {name}, {after.id}")
