"""`pgsched cron`: what an expression means; without a database."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer
from rich.padding import Padding

from pgsched import words, zones
from pgsched.cli import printing
from pgsched.cli.flags import AsJson
from pgsched.cli.printing import line, utc
from pgsched.cli.values import wall_time_of
from pgsched.preview import MAX_COUNT, Run, preview

Expr = Annotated[
    str, typer.Argument(metavar="EXPR", help="Five fields, six with the second first, or @daily.")
]
Zone = Annotated[str, typer.Option("--tz", help="IANA name of the zone it is read in.")]
Count = Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="As many runs.")]
Start = Annotated[
    datetime | None,
    typer.Option(
        "--from",
        parser=wall_time_of,
        metavar="TIME",
        help="Those after this time, by default now; without an offset it is one of the zone.",
    ),
]


def next_(
    expr: Expr, tz: Zone = "UTC", count: Count = 5, start: Start = None, as_json: AsJson = False
) -> None:
    """Show the next runs of an expression, and what a change of the clocks does to them."""
    if start is not None and start.tzinfo is None:
        start = start.replace(tzinfo=zones.zone(tz))
    runs = preview(expr, tz, count, start)
    if as_json:
        printing.print_json({"next": [run._asdict() for run in runs]})
        return
    width = printing.console().width
    for run in runs:
        at = _shown(run, tz)
        if run.note and len(f"{at}  {run.note}") > width:
            line(at)
            printing.console().print(Padding(f"^ {run.note}", (0, 0, 0, 4)))
        else:
            line(f"{at}  {run.note}" if run.note else at)


def _shown(run: Run, tz: str) -> str:
    local = f"{run.local:%a} {run.local.isoformat(' ')}"
    return local if tz == "UTC" else f"{local}  {utc(run.at)} UTC"


def explain(expr: Expr, tz: Zone = "UTC") -> None:
    """Say in words when an expression runs."""
    line(words.explain(expr, tz))
