"""How answers look: tables and lines for people, and one JSON document for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

import typer
from pydantic import BaseModel
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

# Columns where no terminal tells: a row stays a line, for grep.
PIPED_WIDTH = 200
UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def console() -> Console:
    """For stdout as it is now; what it prints is never read as markup."""
    is_free = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(
        width=PIPED_WIDTH if is_free else None, markup=False, emoji=False, highlight=False
    )


def print_rows(rows: RenderableType) -> None:
    """Print *rows*; without the blanks that would follow in a file."""
    out = console()
    if out.is_terminal:
        out.print(rows)
        return
    with out.capture() as captured:
        out.print(rows)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def table(*columns: str) -> Table:
    """Its cells are folded where the terminal is narrow: nothing is left out."""
    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def print_json(document: dict[str, Any]) -> None:
    """Print *document*, which may hold times, dates and ids."""
    text = json.dumps(document, indent=2, ensure_ascii=False, default=_json)
    # What JSON may hold as it is, a terminal may obey.
    typer.echo("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


def _json(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def clean(text: object) -> str:
    """*text* without what could move the cursor of a terminal, or colour it."""
    return "".join(char if char.isprintable() else " " for char in str(text))


def line(text: object) -> None:
    """Print one line, unbroken."""
    typer.echo(clean(text))


def print_sentences(text: str) -> None:
    """Print what the database says in words, below what was printed before."""
    out = console()
    out.print()
    for sentence in text.splitlines():
        out.print(clean(sentence))


def utc(at: datetime | None) -> str:
    """As 2026-03-29 01:00:00, in UTC."""
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def span(duration: timedelta) -> str:
    """The two largest units, as 9h 24m."""
    left = int(abs(duration).total_seconds())
    parts = []
    for size, unit in UNITS:
        if left >= size:
            parts.append(f"{left // size}{unit}")
            left %= size
        elif parts:
            break
    return " ".join(parts[:2]) or "0s"


def ago(at: datetime, now: datetime) -> str:
    """As 'in 9h 24m' or '2m ago'."""
    return f"in {span(at - now)}" if at > now else f"{span(now - at)} ago"


def length(duration: timedelta) -> str:
    """All of it, as 1d 2h 30m or 0.5s."""
    seconds = duration.total_seconds()
    if seconds != int(seconds):
        return f"{seconds:g}s"
    parts, left = [], int(seconds)
    for size, unit in UNITS:
        if left >= size:
            parts.append(f"{left // size}{unit}")
            left %= size
    return " ".join(parts) or "0s"


STYLES = {
    "PAUSED": "yellow",
    "BROKEN": "bold red",
    "ENDED": "dim",
    "SKIPPED": "yellow",
    "MISSED": "yellow",
    "FAILED": "red",
    "CANCELLED": "yellow",
    "RUNNING": "cyan",
    "open": "bold red",
    "probing": "yellow",
    "paused": "yellow",
    "ramping": "yellow",
    "lost": "bold red",
    "given up": "red",
    "ok": "green",
    "unknown": "cyan",
    "warning": "yellow",
    "error": "bold red",
}


def coloured(text: str, word: str | None = None) -> Text:
    """*text* in the colour of the state or outcome *word*, which is *text* by default."""
    return Text(clean(text), style=STYLES.get(word or text, ""))


def done(before: BaseModel | None, after: BaseModel, but: Collection[str] = ()) -> str:
    """What a `set` did: created, changed or nothing; fields of *but* do not count."""
    if before is None:
        return "created"
    fields = type(after).model_fields.keys() - set(but)
    same = all(getattr(before, field) == getattr(after, field) for field in fields)
    return "nothing to change in" if same else "changed"
