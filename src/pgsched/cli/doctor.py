"""`pgsched doctor`: what is wrong, and what to do."""

from __future__ import annotations

import asyncio

import typer
from rich.table import Table
from rich.text import Text

from pgsched.cli import printing
from pgsched.cli.flags import AsJson, DatabaseUrl
from pgsched.cli.printing import clean, coloured
from pgsched.configuration import load_settings
from pgsched.doctor import Finding, examine, plural


def doctor(as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """Look at the database, the zones, the workers and the schedules; exit 1 if one is wrong."""
    settings = load_settings(database_url=database_url)
    try:
        findings = asyncio.run(examine(settings.database_url, is_pooled=settings.poll_only))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if as_json:
        printing.print_json({"findings": [finding._asdict() for finding in findings]})
    else:
        _print(findings)
    if any(finding.status == "error" for finding in findings):
        raise typer.Exit(1)


def _print(findings: list[Finding]) -> None:
    rows = Table.grid(padding=(0, 2))
    rows.add_column()
    rows.add_column(no_wrap=True)
    rows.add_column(overflow="fold")
    for finding in findings:
        rows.add_row(coloured(finding.status), finding.name, clean(finding.seen))
        if finding.advice:
            rows.add_row("", "", Text(f"→ {clean(finding.advice)}", style="bold"))
    printing.print_rows(rows)
    bad = [finding.status for finding in findings if finding.status != "ok"]
    errors, warnings = bad.count("error"), bad.count("warning")
    summary = f"{plural(errors, 'error')}, {plural(warnings, 'warning')}" if bad else "all is well"
    typer.echo(f"\n{summary}")
