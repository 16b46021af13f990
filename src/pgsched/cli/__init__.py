"""The `pgsched` command: reads the settings, and wires the parts together."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import psycopg
import typer

from pgsched.cli import backfill, control, cron, doctor, processes, schedules, schema, show
from pgsched.cli.printing import clean
from pgsched.errors import PgschedError

app = typer.Typer(
    name="pgsched",
    help="A durable task scheduler in your own Postgres.",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
for command in (schema.migrate, processes.worker, processes.serve, doctor.doctor):
    app.command()(command)

_schedules = typer.Typer(help="See and change schedules.", no_args_is_help=True)
VERBS: dict[str, Callable[..., None]] = {
    "list": schedules.list_,
    "show": show.show,
    "set": control.set_,
    "reschedule": control.reschedule,
    "pause": control.pause,
    "resume": control.resume,
    "trigger": control.trigger,
    "backfill": backfill.backfill,
    "fires": schedules.fires,
    "changes": schedules.changes,
    "delete": control.delete,
}
for name, verb in VERBS.items():
    _schedules.command(name)(verb)
app.add_typer(_schedules, name="schedules")

_cron = typer.Typer(help="Read cron expressions; needs no database.", no_args_is_help=True)
_cron.command("next")(cron.next_)
_cron.command("explain")(cron.explain)
app.add_typer(_cron, name="cron")


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """A durable task scheduler in your own Postgres."""
    if version:
        from pgsched.build import version as installed

        typer.echo(installed())
        raise typer.Exit


def main() -> None:
    """Run the command; what goes wrong on purpose is one line on stderr and exit 1."""
    try:
        app(prog_name="pgsched")
    except PgschedError as exc:
        sys.exit("\n".join(clean(text) for text in f"pgsched: {exc}".splitlines()))
    except psycopg.OperationalError as exc:
        sys.exit(f"pgsched: no connection to the database: {exc}".strip())
    except psycopg.Error as exc:
        sys.exit(f"pgsched: the database says: {exc}".strip())
    except KeyboardInterrupt:
        sys.exit(130)
