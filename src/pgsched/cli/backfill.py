"""`pgsched schedules backfill`: run a schedule for time that has passed."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from pgsched import diagnosis, reading
from pgsched.cli.flags import DatabaseUrl, Name, Yes
from pgsched.cli.printing import line, utc
from pgsched.cli.running import ask, run
from pgsched.cli.values import time_of
from pgsched.control import MOST, ScheduleControl
from pgsched.db import Connection
from pgsched.errors import Conflict, Invalid, NotFound
from pgsched.schedules import Backfill, BackfillPreview

CONTROL = ScheduleControl()
# Seconds between two looks.
INTERVAL = 0.2
# Seconds without progress after which we say what may be wrong.
PATIENCE = 10.0

From = Annotated[
    datetime, typer.Option("--from", parser=time_of, metavar="TIME", help="First instant.")
]
To = Annotated[
    datetime, typer.Option("--to", parser=time_of, metavar="TIME", help="Last instant; passed.")
]
MaxInstants = Annotated[
    int, typer.Option(min=1, max=MOST, help="Refuse a range that holds more than this.")
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Leave it to the workers.")]


def backfill(
    name: Name,
    start: From,
    end: To,
    max_instants: MaxInstants = 1000,
    yes: Yes = False,
    no_wait: NoWait = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Run the instants of a range that have not run; says first what that comes to."""
    preview = run(database_url, lambda session: _preview(session, name, start, end))
    _print_preview(name, preview, max_instants)
    to_run = preview.instant_count - preview.run_count
    if to_run == 0:
        typer.echo("nothing to run")
        return
    if not yes:
        ask(f"run {to_run:,} now?")

    async def order(session: Connection) -> tuple[str, Backfill | None]:
        backfill_id = await CONTROL.backfill_schedule(
            session, name, start, end, max_instants=max_instants
        )
        total = preview.instant_count
        return backfill_id, None if no_wait else await _wait(session, name, backfill_id, total)

    backfill_id, done = run(database_url, order, autocommit=True)
    if done is None:
        line(f"backfill {backfill_id} waits for a worker; `pgsched schedules show` tells how far")
    elif done.status == "REFUSED":
        raise Conflict(f"backfill refused: {done.error_msg}")
    else:
        line(f"done: {done.run_count:,} runs made of {done.instant_count:,} instants")


async def _preview(
    session: Connection, name: str, start: datetime, end: datetime
) -> BackfillPreview:
    if end > await diagnosis.clock(session):
        raise Invalid(f"--to {end} is in the future, which the schedule runs by itself")
    return await CONTROL.preview_backfill(session, name, start, end)


def _print_preview(name: str, preview: BackfillPreview, most: int) -> None:
    if preview.first is None:
        line(f"{name} has no instant in that range")
        return
    line(
        f"{name} has {preview.instant_count:,} instants in that range,"
        f" of which {preview.run_count:,} have run"
    )
    line(f"first {utc(preview.first)} UTC")
    line(f"last  {utc(preview.last)} UTC")
    if preview.instant_count > most:
        raise Invalid(
            f"that is more than {most:,} instants: shorten the range, or allow more with"
            f" --max-instants, up to {MOST:,}"
        )


async def _wait(session: Connection, name: str, backfill_id: str, total: int) -> Backfill:
    """Until it is done or refused; what keeps it is said, and Ctrl-C leaves it to the workers."""
    columns = (TextColumn("backfill"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True, highlight=False)
    seen, since, is_told = -1, time.monotonic(), False
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        bar = progress.add_task("", total=total)
        while True:
            backfill = await _backfill(session, name, backfill_id)
            progress.update(bar, completed=backfill.instant_count)
            if backfill.status != "WAITING":
                return backfill
            if backfill.instant_count != seen:
                seen, since = backfill.instant_count, time.monotonic()
            if not is_told and (notice := await _notice(session, since)):
                text = f"{notice} It stays in the database; Ctrl-C ends the wait."
                console.print(text, soft_wrap=not console.is_terminal)
                is_told = True
            await asyncio.sleep(INTERVAL)


async def _backfill(session: Connection, name: str, backfill_id: str) -> Backfill:
    for backfill in await reading.list_backfills(session, name):
        if str(backfill.id) == backfill_id:
            return backfill
    raise NotFound(f"backfill {backfill_id} is gone: was the schedule deleted?")


async def _notice(session: Connection, since: float) -> str:
    if await diagnosis.live_workers(session) == 0:
        return "No worker is alive to run it: start one with `pgsched worker`."
    if time.monotonic() - since > PATIENCE:
        return f"No worker went on with it for {PATIENCE:.0f} s: read their logs."
    return ""
