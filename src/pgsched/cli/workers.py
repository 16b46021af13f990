"""`pgsched workers list`: the processes that claim and push."""

from __future__ import annotations

from datetime import datetime

import typer
from rich.table import Table

from pgsched import diagnosis, watching
from pgsched.cli import printing
from pgsched.cli.flags import AsJson, DatabaseUrl
from pgsched.cli.printing import ago, clean, coloured, span
from pgsched.cli.running import run
from pgsched.db import Connection
from pgsched.plain import plain
from pgsched.rows import WorkerStatus

# What a count stops at.
MOST = 2000


def list_(as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """List the workers: whether they live, what they claim from, and what they hold."""

    async def read(session: Connection) -> tuple[list[WorkerStatus], datetime]:
        return await watching.list_workers(session), await diagnosis.clock(session)

    workers, now = run(database_url, read)
    if as_json:
        printing.print_json({"workers": [plain(worker) for worker in workers]})
    elif workers:
        printing.print_rows(_rows(workers, now))
    else:
        typer.echo("no workers: start one with `pgsched worker`")


def _rows(workers: list[WorkerStatus], now: datetime) -> Table:
    rows = printing.table("Worker", "State", "Lease", "Up", "Holds", "Queues", "Version", "Id")
    for worker in workers:
        rows.add_row(
            clean(f"{worker.hostname}:{worker.pid}"),
            coloured(worker.state.lower()),
            f"ends {ago(worker.lease_expires_at, now)}",
            span(now - worker.started_at),
            held(worker),
            clean(queues_of(worker)),
            clean(worker.version),
            str(worker.id),
        )
    return rows


def held(worker: WorkerStatus) -> str:
    """How many tasks it is about to push."""
    return f"{worker.held_count:,}{'+' if worker.held_count >= MOST else ''}"


def queues_of(worker: WorkerStatus) -> str:
    """The queues it claims from."""
    return "all" if worker.queues is None else ", ".join(worker.queues)
