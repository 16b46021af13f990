"""What a shell completes: the names of things, as far as the database tells them at once."""

from __future__ import annotations

from collections.abc import Callable

import typer

from pgsched.configuration import load_settings
from pgsched.errors import PgschedError
from pgsched.names import list_names

Completion = Callable[[typer.Context, str], list[str]]


def _names_of(kind: str) -> Completion:
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            settings = load_settings(database_url=ctx.params.get("database_url"))
        except PgschedError:  # a shell in the middle of a line has no use for an error
            return []
        return list_names(settings.database_url, kind, incomplete)

    return complete


definitions = _names_of("definition")
queues = _names_of("queue")
schedules = _names_of("schedule")
systems = _names_of("system")
