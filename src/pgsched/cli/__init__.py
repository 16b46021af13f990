"""The `pgsched` command: reads the settings, and wires the parts together."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import psycopg
import typer

from pgsched.cli import (
    backfill,
    config,
    control,
    cron,
    definitions,
    dev,
    doctor,
    outbox,
    processes,
    queues,
    schedules,
    schema,
    show,
    submit,
    systems,
    task_acts,
    task_page,
    tasks,
    top,
    trouble,
    workers,
)
from pgsched.cli.printing import clean
from pgsched.errors import PgschedError
from pgsched.failures import reason_of

app = typer.Typer(
    name="pgsched",
    help="A durable task scheduler in your own Postgres.",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
Verb = Callable[..., None]
ALONE: dict[str, Verb] = {
    "dev": dev.dev,
    "migrate": schema.migrate,
    "worker": processes.worker,
    "serve": processes.serve,
    "doctor": doctor.doctor,
    "config": config.config,
    "submit": submit.submit,
    "top": top.top,
}
SCHEDULES: dict[str, Verb] = {
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
TASKS: dict[str, Verb] = {
    "list": tasks.list_,
    "show": task_page.show,
    "explain": trouble.explain,
    "events": tasks.events,
    "stuck": trouble.stuck,
    "failures": trouble.failures,
    "cancel": task_acts.cancel,
    "retry": task_acts.retry,
}
DEFINITIONS: dict[str, Verb] = {
    "list": definitions.list_,
    "show": definitions.show,
    "set": definitions.set_,
}
QUEUES: dict[str, Verb] = {
    "list": queues.list_,
    "show": queues.show,
    "set": queues.set_,
    "pause": queues.pause,
    "resume": queues.resume,
}
SYSTEMS: dict[str, Verb] = {
    "list": systems.list_,
    "show": systems.show,
    "set": systems.set_,
    "open": systems.open_,
    "close": systems.close,
}
GROUPS: dict[str, tuple[str, dict[str, Verb]]] = {
    "tasks": ("See tasks, cancel them and try them again.", TASKS),
    "definitions": ("See and change what can be run.", DEFINITIONS),
    "schedules": ("See and change schedules.", SCHEDULES),
    "queues": ("See, limit and pause queues.", QUEUES),
    "systems": ("See and change external systems, and their breakers.", SYSTEMS),
    "workers": ("See the worker processes.", {"list": workers.list_}),
    "outbox": ("See what external systems are still to be told.", {"list": outbox.list_}),
    "cron": (
        "Read cron expressions; needs no database.",
        {"next": cron.next_, "explain": cron.explain},
    ),
}

for name, verb in ALONE.items():
    app.command(name)(verb)
for name, (about, verbs) in GROUPS.items():
    group = typer.Typer(help=about, no_args_is_help=True)
    for word, verb in verbs.items():
        group.command(word)(verb)
    app.add_typer(group, name=name)


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
        reason = " ".join(str(exc).split())
        sys.exit(clean(f"pgsched: no connection to the database: {reason}"))
    except psycopg.Error as exc:
        sys.exit(clean(f"pgsched: the database says: {reason_of(exc)}"))
    except KeyboardInterrupt:
        sys.exit(130)
