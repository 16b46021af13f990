"""`pgsched dev`: everything on this machine, in one process tree."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from pgsched.cli import printing
from pgsched.cli.printing import clean

WIDTH = len("executor")
COLOURS = {
    "dev": "bold",
    "postgres": "blue",
    "api": "cyan",
    "worker": "green",
    "executor": "magenta",
}
Data = Annotated[
    Path | None,
    typer.Option(file_okay=False, help="Directory of the server; default: that of `make db`."),
]


def dev(data: Data = None) -> None:
    """Run Postgres, a worker, the API and an executor, for development; Ctrl-C ends them all."""
    from pgsched import dev as development

    console = printing.console()

    def say(name: str, line: str) -> None:
        console.print(
            Text.assemble((f"{name:<{WIDTH}} | ", COLOURS.get(name, "")), clean(line)),
            soft_wrap=True,
        )

    asyncio.run(development.run(data, say))
