"""`pgsched worker` and `pgsched serve`: what runs until it is told to stop."""

from __future__ import annotations

from typing import Annotated

import typer

from pgsched import logs
from pgsched.cli.flags import DatabaseUrl
from pgsched.configuration import load_settings
from pgsched.settings import Settings


def worker(
    database_url: DatabaseUrl = None,
    external_system_url: Annotated[
        str | None,
        typer.Option(help="Where tasks are pushed to; default: PGSCHED_EXTERNAL_SYSTEM_URL."),
    ] = None,
    push_slots: Annotated[
        int | None, typer.Option(help="Requests at the same time, to each system.")
    ] = None,
    queues: Annotated[
        str | None, typer.Option(help="Only these queues, separated by commas.")
    ] = None,
) -> None:
    """Claim due tasks and push them, until SIGTERM or Ctrl-C."""
    from pgsched import worker as process

    process.main(
        settings_of(
            database_url=database_url,
            external_system_url=external_system_url,
            push_slots=push_slots,
            queues=queues,
        )
    )


def serve(
    database_url: DatabaseUrl = None,
    host: Annotated[str | None, typer.Option(help="Default: PGSCHED_API_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Default: PGSCHED_API_PORT.")] = None,
) -> None:
    """Serve the HTTP API (needs the extra `server`)."""
    from pgsched import api

    api.main(settings_of(database_url=database_url, api_host=host, api_port=port))


def settings_of(**flags: object) -> Settings:
    """The settings, with *flags* over them; and the log as they say."""
    settings = load_settings(**{name: value for name, value in flags.items() if value is not None})
    logs.configure(settings)
    return settings
