"""`pgsched queues`: limits and pauses, and what is in them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table

from pgsched import diagnosis, operating_reading, reading
from pgsched.cli import completion, printing
from pgsched.cli.flags import AsJson, DatabaseUrl
from pgsched.cli.printing import ago, clean, coloured, line, span, utc
from pgsched.cli.running import found, run
from pgsched.db import Connection
from pgsched.plain import plain
from pgsched.queues import BreakerState, QueueStatus
from pgsched.rows import QueueDetails
from pgsched.scheduler import SchedulerService

SERVICE = SchedulerService()
# What a count stops at.
MOST = 10_000
# What `set` sets.
SETTINGS = {"external_system", "max_in_flight", "rate_per_second", "burst"}

Queue = Annotated[
    str,
    typer.Argument(metavar="QUEUE", help="Name of the queue.", autocompletion=completion.queues),
]
System = Annotated[
    str,
    typer.Option(
        "--system", help="The external system it leads to.", autocompletion=completion.systems
    ),
]
MaxInFlight = Annotated[
    int | None, typer.Option(min=1, max=1_000_000, help="Tasks under way; default: no limit.")
]
Rate = Annotated[
    float | None, typer.Option(min=0.0001, max=1_000_000, help="Claimed per second; or no limit.")
]
Burst = Annotated[
    int | None, typer.Option(min=1, max=1_000_000, help="At once after a lull; needs --rate.")
]
Note = Annotated[str | None, typer.Option(help="Why, for the next reader.")]


def list_(as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """List the queues: what is due in them, later, waiting and under way."""

    async def read(session: Connection) -> tuple[list[QueueStatus], datetime]:
        return await reading.list_queues(session), await diagnosis.clock(session)

    queues, now = run(database_url, read)
    if as_json:
        printing.print_json({"queues": [plain(queue) for queue in queues]})
        return
    rows = printing.table("Queue", "State", "Due", "Late", "Later", "Waiting", "In flight", "Limit")
    for column in rows.columns[2:7]:
        column.justify = "right"
    for queue in queues:
        state = state_of(queue)
        counts = (queue.later_count, queue.waiting_count, queue.in_flight_count)
        rows.add_row(
            clean(queue.queue),
            coloured(state),
            count(queue.due_count),
            late(queue, now),
            *map(count, counts),
            limit_of(queue),
        )
    printing.print_rows(rows)


def state_of(queue: QueueStatus) -> str:
    """Why nothing, or little, is claimed from it; else ok."""
    if queue.is_paused:
        return "paused"
    if queue.breaker != BreakerState.CLOSED:
        return queue.breaker.value
    return "ramping" if queue.is_ramping else "ok"


def count(number: int) -> str:
    """With a + where counting stopped."""
    return f"{number:,}+" if number >= MOST else f"{number:,}"


def late(queue: QueueStatus, now: datetime) -> str:
    """For how long the oldest has been due."""
    since = queue.oldest_due_since
    return "" if since is None or since > now else span(now - since)


def limit_of(queue: QueueStatus) -> str:
    """As '20, 5/s'; empty without limits."""
    most = "" if queue.max_in_flight is None else f"{queue.max_in_flight:,}"
    rate = "" if queue.rate_per_second is None else f"{queue.rate_per_second:g}/s"
    return ", ".join(filter(None, (most, rate)))


def show(queue: Queue, as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """Show one queue: its limits and its pause, what is in it, and why it is claimed or not."""

    async def read(session: Connection) -> tuple[QueueDetails, str, datetime]:
        details = await operating_reading.get_queue(session, queue)
        explanation = await reading.explain_queue(session, queue)
        return details, explanation, await diagnosis.clock(session)

    details, explanation, now = run(database_url, read)
    if as_json:
        printing.print_json(plain(details) | {"explanation": explanation})
    else:
        printing.print_rows(_facts(details, now))
        printing.print_sentences(explanation)


def _facts(queue: QueueDetails, now: datetime) -> Table:
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold")
    rows.add_column(overflow="fold")
    rows.add_row("Queue", clean(queue.queue))
    rows.add_row("State", coloured(_why(queue, now), state_of(queue)))
    rows.add_row("Leads to", clean(queue.external_system))
    burst = "" if queue.burst is None else f", {queue.burst:,} at once"
    rows.add_row("Limits", f"{limit_of(queue)}{burst}" or "none")
    waits = f", the oldest for {text}" if (text := late(queue, now)) else ""
    rows.add_row("Due", f"{count(queue.due_count)}{waits}")
    rows.add_row("Later", count(queue.later_count))
    rows.add_row("Waiting", f"{count(queue.waiting_count)} for other tasks")
    rows.add_row(
        "In flight",
        f"{count(queue.in_flight_count)}: {count(queue.scheduled_count)} SCHEDULED,"
        f" {count(queue.dispatched_count)} DISPATCHED, {count(queue.running_count)} RUNNING",
    )
    if queue.resumed_at is not None:
        rows.add_row("Resumed", f"{utc(queue.resumed_at)} UTC, {ago(queue.resumed_at, now)}")
    return rows


def _why(queue: QueueDetails, now: datetime) -> str:
    state = state_of(queue)
    if queue.is_paused and queue.pause_note:
        return clean(f"{state}: {queue.pause_note}")
    if queue.open_until is None:
        return state
    probe = f"a probe {ago(queue.open_until, now)}" if queue.open_until > now else "a probe is due"
    breaker = f"the breaker of {queue.external_system} is {queue.breaker}, {probe}"
    return clean(f"{state}; {breaker}: {queue.open_reason or 'no reason given'}")


def set_(
    queue: Queue,
    system: System = "default",
    max_in_flight: MaxInFlight = None,
    rate: Rate = None,
    burst: Burst = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Create a queue, or change it; a limit that is left out is none."""
    if burst is not None and rate is None:
        raise typer.BadParameter("--burst is of a --rate, and needs one")

    async def put(session: Connection) -> tuple[QueueDetails | None, QueueDetails]:
        before = await found(session, operating_reading.get_queue(session, queue))
        await SERVICE.define_queue(
            session,
            queue,
            system,
            max_in_flight=max_in_flight,
            rate_per_second=rate,
            burst=burst,
        )
        return before, await operating_reading.get_queue(session, queue)

    before, after = run(database_url, put)
    but = QueueDetails.model_fields.keys() - SETTINGS
    limits = limit_of(after) or "none"
    line(
        f"{printing.done(before, after, but)} {queue}, which leads to {after.external_system};"
        f" limits: {limits}"
    )


def pause(queue: Queue, note: Note = None, database_url: DatabaseUrl = None) -> None:
    """Stop claiming from a queue; what is under way goes on."""
    run(database_url, lambda session: SERVICE.pause_queue(session, queue, note))
    line(f"{queue} is paused until resumed{f': {note}' if note else ''}")


def resume(queue: Queue, database_url: DatabaseUrl = None) -> None:
    """Claim from a paused queue again; its rate ramps up for ten seconds."""

    async def change(session: Connection) -> bool:
        before = await operating_reading.get_queue(session, queue)
        await SERVICE.resume_queue(session, queue)
        return before.is_paused

    was_paused = run(database_url, change)
    line(f"{queue} is claimed from again" if was_paused else f"{queue} was not paused")
