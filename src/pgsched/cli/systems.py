"""`pgsched systems`: external systems and their circuit breakers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.table import Table

from pgsched import diagnosis, reading
from pgsched.cli import completion, printing
from pgsched.cli.flags import AsJson, DatabaseUrl
from pgsched.cli.printing import ago, clean, coloured, length, line, utc
from pgsched.cli.running import found, run
from pgsched.cli.values import duration_of, names_of
from pgsched.db import Connection
from pgsched.plain import plain
from pgsched.queues import BreakerState, SystemStatus
from pgsched.scheduler import SchedulerService

SERVICE = SchedulerService()
# What `set` sets.
SETTINGS = {
    *("base_url", "api_key_env", "signing_secret_env", "completion", "request_timeout"),
    *("delivery_timeout", "batch_size", "max_in_flight", "push_statuses"),
}


class Completes(StrEnum):
    """When a push counts as the task's end."""

    CALLBACK = "callback"
    RESPONSE = "response"


System = Annotated[
    str,
    typer.Argument(
        metavar="SYSTEM", help="Name of the external system.", autocompletion=completion.systems
    ),
]
Url = Annotated[str | None, typer.Option(help="Default: that of the workers.")]
KeyEnv = Annotated[
    str | None, typer.Option(metavar="VARIABLE", help="Variable of the workers with its key.")
]
SecretEnv = Annotated[
    str | None, typer.Option(metavar="VARIABLE", help="Variable with the secrets to sign with.")
]
CompletionFlag = Annotated[
    Completes | None, typer.Option("--completion", help="Default: callback.")
]
RequestTimeout = Annotated[
    timedelta | None,
    typer.Option(parser=duration_of, metavar="DURATION", help="Of one push; default: 30s."),
]
DeliveryTimeout = Annotated[
    timedelta | None,
    typer.Option(
        parser=duration_of, metavar="DURATION", help="A task is undeliverable after; default: 24h."
    ),
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Tasks in one request; default: 1.")
]
MaxInFlight = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Requests of one worker at a time.")
]
PushStatuses = Annotated[
    # As an object: typer takes a list for an option that may be repeated.
    Any,
    typer.Option(
        parser=names_of,
        metavar="LIST",
        help="What it is told of, as FAILED,CANCELLED; or none.",
    ),
]
Reason = Annotated[str | None, typer.Option(help="Why, for the next reader.")]


def list_(as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """List the external systems, and how their breakers are."""

    async def read(session: Connection) -> tuple[list[SystemStatus], datetime]:
        return await reading.list_external_systems(session), await diagnosis.clock(session)

    systems, now = run(database_url, read)
    if as_json:
        printing.print_json({"external_systems": [plain(system) for system in systems]})
        return
    rows = printing.table("System", "Breaker", "Address", "Completion", "Batch", "Requests")
    for system in systems:
        rows.add_row(
            clean(system.name),
            coloured(system.breaker),
            clean(system.base_url or "of the workers"),
            system.completion,
            str(system.batch_size),
            "" if system.max_in_flight is None else str(system.max_in_flight),
        )
    printing.print_rows(rows)
    for system in systems:
        if system.breaker != BreakerState.CLOSED:
            printing.console().print(f"\n{clean(system.name)} is {breaker_of(system, now)}")


def breaker_of(system: SystemStatus, now: datetime) -> str:
    """As 'open since 2m, a probe in 4s: HTTP 503'."""
    if system.open_until is None:
        return system.breaker
    since = f" since {utc(system.opened_at)} UTC" if system.opened_at else ""
    is_later = system.open_until > now
    probe = f"a probe {ago(system.open_until, now)}" if is_later else "a probe is due"
    return clean(f"{system.breaker}{since}, {probe}: {system.open_reason or 'no reason given'}")


def show(system: System, as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """Show one external system; keys are only named."""

    async def read(session: Connection) -> tuple[SystemStatus, datetime]:
        status = await reading.get_external_system(session, system)
        return status, await diagnosis.clock(session)

    status, now = run(database_url, read)
    if as_json:
        printing.print_json(plain(status))
    else:
        printing.print_rows(_facts(status, now))


def _facts(system: SystemStatus, now: datetime) -> Table:
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold")
    rows.add_column(overflow="fold")
    rows.add_row("System", clean(system.name))
    rows.add_row("Breaker", coloured(breaker_of(system, now), system.breaker))
    rows.add_row("Address", clean(system.base_url or "PGSCHED_EXTERNAL_SYSTEM_URL of the workers"))
    rows.add_row("Completion", system.completion)
    rows.add_row(
        "Timeouts",
        f"{length(system.request_timeout)} a push, {length(system.delivery_timeout)} a delivery",
    )
    requests = system.max_in_flight or "PGSCHED_PUSH_SLOTS"
    rows.add_row("Requests", f"up to {system.batch_size} in one, {requests} at a time")
    told = system.push_statuses
    rows.add_row("Told of", "the default" if told is None else ", ".join(told) or "nothing")
    rows.add_row("Key in", clean(system.api_key_env or "none"))
    rows.add_row("Signed by", clean(system.signing_secret_env or "nothing"))
    return rows


def set_(
    system: System,
    url: Url = None,
    api_key_env: KeyEnv = None,
    signing_secret_env: SecretEnv = None,
    completes: CompletionFlag = None,
    request_timeout: RequestTimeout = None,
    delivery_timeout: DeliveryTimeout = None,
    batch_size: BatchSize = None,
    max_in_flight: MaxInFlight = None,
    push_statuses: PushStatuses = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Create an external system, or change it; what is left out takes its default."""
    given: dict[str, Any] = {
        "api_key_env": api_key_env,
        "signing_secret_env": signing_secret_env,
        "completion": completes and completes.value,
        "request_timeout": request_timeout,
        "delivery_timeout": delivery_timeout,
        "batch_size": batch_size,
        "max_in_flight": max_in_flight,
        "push_statuses": push_statuses,
    }

    async def put(session: Connection) -> tuple[SystemStatus | None, SystemStatus]:
        before = await found(session, reading.get_external_system(session, system))
        await SERVICE.define_external_system(session, system, url, **given)
        return before, await reading.get_external_system(session, system)

    before, after = run(database_url, put)
    but = SystemStatus.model_fields.keys() - SETTINGS
    line(f"{printing.done(before, after, but)} {system}")


def open_(system: System, reason: Reason = None, database_url: DatabaseUrl = None) -> None:
    """Claim nothing for it but, after some seconds, a task as a probe."""
    _change(database_url, system, lambda session: SERVICE.open_breaker(session, system, reason))


def close(system: System, database_url: DatabaseUrl = None) -> None:
    """Claim for it again; its rate ramps up for ten seconds."""
    _change(database_url, system, lambda session: SERVICE.close_breaker(session, system))


def _change(
    database_url: str | None, system: str, act: Callable[[Connection], Awaitable[object]]
) -> None:
    async def change(session: Connection) -> tuple[SystemStatus, datetime]:
        await act(session)
        status = await reading.get_external_system(session, system)
        return status, await diagnosis.clock(session)

    status, now = run(database_url, change)
    line(f"{system} is {breaker_of(status, now)}")
