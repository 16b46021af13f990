"""`pgsched outbox list`: what the external systems have still to be told, or never will be."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table

from pgsched import diagnosis, operating_reading
from pgsched.cli import printing
from pgsched.cli.flags import AsJson, DatabaseUrl, Limit
from pgsched.cli.printing import ago, clean, coloured
from pgsched.cli.running import run
from pgsched.db import Connection
from pgsched.plain import plain
from pgsched.rows import StatusPush

GivenUp = Annotated[
    bool | None,
    typer.Option("--given-up/--waiting", help="Only those that were given up, or were not."),
]


def list_(
    given_up: GivenUp = None,
    limit: Limit = 100,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """List the status pushes that are still to be sent, and those given up with their error."""

    async def read(session: Connection) -> tuple[list[StatusPush], datetime]:
        found = await operating_reading.list_status_pushes(
            session, is_given_up=given_up, limit=limit
        )
        return found, await diagnosis.clock(session)

    pushes, now = run(database_url, read)
    if as_json:
        printing.print_json({"status_pushes": [plain(push) for push in pushes]})
    elif pushes:
        printing.print_rows(_rows(pushes, now))
    else:
        typer.echo("nothing to tell")


def _rows(pushes: list[StatusPush], now: datetime) -> Table:
    rows = printing.table("Task", "Became", "System", "Is", "Latest error")
    rows.columns[0].no_wrap = True
    for push in pushes:
        rows.add_row(
            str(push.task_id),
            coloured(push.status),
            clean(push.external_system or "-"),
            coloured(_state(push, now), "given up" if push.given_up_at else ""),
            clean(push.last_error or ""),
        )
    return rows


def _state(push: StatusPush, now: datetime) -> str:
    sent = f", sent {push.push_count}x" if push.push_count else ""
    if push.given_up_at is not None:
        return f"given up {ago(push.given_up_at, now)}{sent}"
    if push.worker_id is not None:
        return f"being sent{sent}"
    if push.due_at is not None and push.due_at > now:
        return f"due {ago(push.due_at, now)}{sent}"
    return f"due since {ago(push.created_at, now).removesuffix(' ago')}{sent}"
