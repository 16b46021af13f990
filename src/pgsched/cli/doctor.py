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
from pgsched.settings import Settings


def doctor(as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """Look at the server, the schema, the workers, the work and the zones; exit 1 on an error."""
    settings = load_settings(database_url=database_url)
    try:
        findings = asyncio.run(_examine(settings))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if as_json:
        printing.print_json({"findings": [finding._asdict() for finding in findings]})
    else:
        _print(findings)
    if any(finding.status == "error" for finding in findings):
        raise typer.Exit(1)


async def _examine(settings: Settings) -> list[Finding]:
    return await examine(
        settings.database_url,
        is_pooled=settings.poll_only,
        external_system_url=settings.external_system_url,
    )


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
    parts = [plural(bad.count("error"), "error"), plural(bad.count("warning"), "warning")]
    if unknown := bad.count("unknown"):
        parts.append(f"{unknown} not seen")
    summary = ", ".join(parts) if bad else "all is well"
    typer.echo(f"\n{summary}")
