"""`pgsched migrate`."""

from __future__ import annotations

from typing import Annotated

import psycopg
import typer

from pgsched import drift, ledger, migrations, migrator
from pgsched.cli import printing
from pgsched.cli.flags import AsJson, DatabaseUrl
from pgsched.cli.processes import settings_of


def migrate(
    database_url: DatabaseUrl = None,
    status: Annotated[
        bool, typer.Option("--status", help="Only list what is applied, and what is not.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Only compare the schema with this version; exit 1 if it differs."
        ),
    ] = False,
    as_json: AsJson = False,
    as_bundle: Annotated[
        bool, typer.Option("--print", help="Only print the SQL, for psql; needs no database.")
    ] = False,
    first: Annotated[
        int | None, typer.Option("--from", metavar="N", help="With --print: from this number on.")
    ] = None,
    retries: Annotated[
        int,
        typer.Option(
            min=0, max=1000, help="Try a file so often again that met another session's lock."
        ),
    ] = 0,
) -> None:
    """Bring the schema to this version."""
    if first is not None and not as_bundle:
        raise typer.BadParameter("goes with --print", param_hint="'--from'")
    if as_json and not (status or check):
        raise typer.BadParameter("goes with --status or --check", param_hint="'--json'")
    if as_bundle and (status or check):
        raise typer.BadParameter("goes with neither --status nor --check", param_hint="'--print'")
    if as_bundle:
        typer.echo(migrations.bundle(1 if first is None else first), nl=False)
        return
    dsn = settings_of(database_url=database_url).database_url
    if status or check:
        _look(dsn, status=status, check=check, as_json=as_json)
    else:
        _migrate(dsn, retries)


def _migrate(dsn: str, retries: int) -> None:
    done = migrator.migrate(dsn, retries=retries, say=_say)
    last = migrator.migrations()[-1]
    typer.echo(f"the schema is at {last.version:03d}; {len(done)} applied just now")


def _say(text: str) -> None:
    typer.echo(printing.clean(text), err=text.startswith("warning:"))


def _look(dsn: str, *, status: bool, check: bool, as_json: bool) -> None:
    entries: list[ledger.Entry] = []
    faults: list[str] = []
    notes: list[str] = []
    with psycopg.connect(
        dsn, autocommit=True, prepare_threshold=None, connect_timeout=10
    ) as connection:
        if status:
            entries = ledger.entries(ledger.read(connection), migrations.migrations())
        if check:
            faults, notes = drift.inspect(connection)
    if as_json:
        listed = {"migrations": [_plain(entry) for entry in entries]} if status else {}
        compared = {"faults": faults, "notes": notes} if check else {}
        printing.print_json({**listed, **compared})
    else:
        if status:
            _print_entries(entries)
        if check:
            _print_faults(faults, notes)
    if faults:
        raise typer.Exit(1)


def _plain(entry: ledger.Entry) -> dict[str, object]:
    row = entry.row
    return {
        "version": entry.version,
        "name": entry.name,
        "state": entry.state,
        "is_breaking": entry.is_breaking,
        "checksum": row and row.checksum,
        "applied_at": row and row.applied_at,
        "applied_by": row and row.applied_by,
    }


def _print_entries(entries: list[ledger.Entry]) -> None:
    rows = printing.table("Version", "Name", "State", "Applied (UTC)", "By")
    for entry in entries:
        at = printing.utc(entry.row.applied_at) if entry.row else ""
        rows.add_row(
            f"{entry.version:03d}",
            printing.clean(entry.name),
            printing.coloured(entry.state + (" (breaking)" if entry.is_breaking else "")),
            at,
            printing.clean(entry.row.applied_by if entry.row else ""),
        )
    printing.print_rows(rows)


def _print_faults(faults: list[str], notes: list[str]) -> None:
    for text in (*faults, *(f"note: {note}" for note in notes)):
        printing.line(text)
    if not faults:
        printing.line("the schema is what this version expects")
