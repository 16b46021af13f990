"""`pgsched config`: the settings that are in force, and where each comes from."""

from __future__ import annotations

import typer
from rich.table import Table
from rich.text import Text

from pgsched.cli import printing
from pgsched.cli.flags import AsJson, DatabaseUrl
from pgsched.cli.printing import clean
from pgsched.effective import Effective, effective, strange_variables

# Columns from which a description has room beside the value.
WIDE = 120


def config(as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """Print each setting, its value and where that comes from; exit 1 if one is wrong."""
    settings = effective(database_url=database_url)
    strange = list(strange_variables())
    if as_json:
        given = [setting._asdict() for setting in settings]
        printing.print_json({"settings": given, "strange_variables": strange})
    else:
        printing.print_rows(_rows(settings))
        for line in strange:
            printing.line(f"note: {line}")
    if any(setting.problem for setting in settings):
        raise typer.Exit(1)


def _rows(settings: list[Effective]) -> Table:
    console = printing.console()
    is_wide = console.is_terminal and console.width >= WIDE
    rows = printing.table("Setting", "Value", "From", *["Meaning"] * is_wide)
    for setting in settings:
        is_given = setting.origin != "default"
        rows.add_row(
            Text(setting.name, style="bold" if is_given else ""),
            Text(clean(setting.problem), style="bold red")
            if setting.problem
            else clean(_text(setting.value)),
            Text(clean(setting.origin), style="" if is_given else "dim"),
            *[Text(setting.description, style="dim")] * is_wide,
        )
    return rows


def _text(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return str(value).lower()
        case list():
            return ", ".join(map(str, value))
        case _:
            return str(value)
