"""`pgsched migrate`."""

from __future__ import annotations

from typing import Annotated

import psycopg
import typer

from pgsched import migrator
from pgsched.cli.flags import DatabaseUrl
from pgsched.cli.processes import settings_of
from pgsched.settings import Settings


def migrate(
    database_url: DatabaseUrl = None,
    status: Annotated[
        bool, typer.Option("--status", help="Only say what is applied, and what is not.")
    ] = False,
) -> None:
    """Bring the schema to this version."""
    settings = settings_of(database_url=database_url)
    if status:
        _print_status(settings)
        return
    done = migrator.migrate(settings.database_url)
    for migration in done:
        typer.echo(f"applied {migration.version:03d} {migration.name}")
    typer.echo(f"the schema is at {len(migrator.migrations()):03d}; {len(done)} applied just now")


def _print_status(settings: Settings) -> None:
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        ledger = migrator.applied(connection)
    for migration in migrator.migrations():
        state = "applied" if migration.version in ledger else "pending"
        typer.echo(f"{migration.version:03d} {migration.name:<14} {state}")
