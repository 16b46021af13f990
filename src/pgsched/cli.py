"""The `pgsched` command: reads the settings, and wires the parts together."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import psycopg
import typer

from pgsched import migrator
from pgsched.errors import PgschedError
from pgsched.settings import Settings, load_settings

app = typer.Typer(
    name="pgsched",
    help="A durable task scheduler in your own Postgres.",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)

DatabaseUrl = Annotated[
    str | None,
    typer.Option("--database-url", help="Connection string; default: PGSCHED_DATABASE_URL."),
]


@app.command()
def migrate(
    database_url: DatabaseUrl = None,
    status: Annotated[
        bool, typer.Option("--status", help="Only say what is applied, and what is not.")
    ] = False,
) -> None:
    """Bring the schema to this version."""
    settings = _settings(database_url=database_url)
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


@app.command()
def worker(
    database_url: DatabaseUrl = None,
    external_system_url: Annotated[
        str | None,
        typer.Option(help="Where tasks are pushed to; default: PGSCHED_EXTERNAL_SYSTEM_URL."),
    ] = None,
    push_slots: Annotated[int | None, typer.Option(help="Pushes at the same time.")] = None,
    queues: Annotated[
        str | None, typer.Option(help="Only these queues, separated by commas.")
    ] = None,
) -> None:
    """Claim due tasks and push them, until SIGTERM or Ctrl-C."""
    from pgsched import worker as process

    process.main(
        _settings(
            database_url=database_url,
            external_system_url=external_system_url,
            push_slots=push_slots,
            queues=queues,
        )
    )


@app.command()
def serve(
    database_url: DatabaseUrl = None,
    host: Annotated[str | None, typer.Option(help="Default: PGSCHED_API_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Default: PGSCHED_API_PORT.")] = None,
) -> None:
    """Serve the HTTP API (needs the extra `server`)."""
    from pgsched import api

    api.main(_settings(database_url=database_url, api_host=host, api_port=port))


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """A durable task scheduler in your own Postgres."""
    if version:
        from pgsched.worker import version as installed

        typer.echo(installed())
        raise typer.Exit


def _settings(**flags: object) -> Settings:
    settings = load_settings(**{name: value for name, value in flags.items() if value is not None})
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )
    # The pool tells of each attempt; our own loops tell of the outage.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    return settings


def main() -> None:
    """Run the command; what goes wrong on purpose is one line on stderr and exit 1."""
    try:
        app(prog_name="pgsched")
    except PgschedError as exc:
        sys.exit(f"pgsched: {exc}")
    except psycopg.OperationalError as exc:
        sys.exit(f"pgsched: no connection to the database: {exc}".strip())
    except psycopg.Error as exc:
        sys.exit(f"pgsched: the database says: {exc}".strip())
    except KeyboardInterrupt:
        sys.exit(130)
