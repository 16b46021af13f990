"""The arguments and flags that several commands about tasks take."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

import typer

from pgsched.cli import completion
from pgsched.cli.values import time_of

TaskId = Annotated[UUID, typer.Argument(metavar="ID", help="Id of the task.")]
TaskIds = Annotated[
    list[UUID] | None, typer.Argument(metavar="[ID]...", help="Ids of the tasks, or flags.")
]

# What tasks have in common

OfDefinition = Annotated[
    str | None,
    typer.Option(
        "--definition",
        help="Only those of this definition: its name or id.",
        autocompletion=completion.definitions,
    ),
]
OfQueue = Annotated[
    str | None,
    typer.Option("--queue", help="Only those of this queue.", autocompletion=completion.queues),
]
OfSchedule = Annotated[
    str | None,
    typer.Option(
        "--schedule",
        help="Only those of this schedule: its name or id.",
        autocompletion=completion.schedules,
    ),
]
OfTrace = Annotated[
    UUID | None, typer.Option("--trace", metavar="ID", help="Only those of this trace.")
]
ErrorLike = Annotated[
    str | None,
    typer.Option(
        "--error-like", metavar="PATTERN", help="Only those whose error is LIKE this, as '%50%'."
    ),
]
After = Annotated[
    datetime | None, typer.Option("--after", parser=time_of, metavar="TIME", help="Then or later.")
]
Before = Annotated[
    datetime | None, typer.Option("--before", parser=time_of, metavar="TIME", help="Earlier.")
]
Most = Annotated[int, typer.Option("--limit", min=1, max=100_000, help="Not more than so many.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count; change nothing.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Why, for the next reader.")]
