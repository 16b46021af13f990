"""The database, the schema in it, its clock, and whether anybody works."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg

from pgsched import diagnosis, drift, migrator
from pgsched.db import Session
from pgsched.doctor.findings import Finding, named
from pgsched.errors import MigrationError

# The majors that the tests run on.
OLDEST, NEWEST = 15, 18
# The release of 2026-02-12: UPDATE … FROM of a row that another session changes, locks after an
# aborted update, and notifications that nobody could read any more.
FIXED = {15: 16, 16: 12, 17: 8, 18: 2}
# Further apart, and two logs are hard to read side by side.
APART = timedelta(seconds=1)


async def database(session: Session) -> Finding:
    """That it answers, takes writes, and is of a version we know."""
    server = await diagnosis.server(session)
    major, seen = server.number // 10000, f"PostgreSQL {server.version} answers"
    if major < OLDEST:
        advice = f"pgsched needs PostgreSQL {OLDEST} or newer."
        return Finding("database", "error", seen, advice)
    if server.is_read_only:
        advice = "Let PGSCHED_DATABASE_URL lead to the primary, as with target_session_attrs."
        return Finding("database", "error", f"{seen}, and is read-only", advice)
    if major > NEWEST:
        advice = f"pgsched is tested up to PostgreSQL {NEWEST}: see whether there is a newer one."
        return Finding("database", "warning", seen, advice)
    return Finding("database", "ok", seen)


async def minor_release(session: Session) -> Finding:
    """That it has the fixes which pgsched needs."""
    server = await diagnosis.server(session)
    major, minor = divmod(server.number, 10000)
    fixed, seen = FIXED.get(major), f"PostgreSQL {server.version}"
    if fixed is None or minor >= fixed:
        return Finding("minor release", "ok", f"{seen} has the fixes we know of")
    advice = (
        f"Update to {major}.{fixed} or later. Before it UPDATE of a row that another session"
        " changes could go wrong, and so could the queue of notifications."
    )
    return Finding("minor release", "warning", seen, advice)


async def definitions(dsn: str, _: Session) -> Finding:
    """That what is in the catalog is what the migrations made."""
    faults, notes = await asyncio.to_thread(_inspect, dsn)
    if faults:
        advice = (
            "pgsched migrate --check lists all. What differs was changed by hand, or half-done."
        )
        return Finding("definitions", "error", named(faults), advice)
    return Finding("definitions", "ok", "; ".join(["as this version expects them", *notes]))


def _inspect(dsn: str) -> tuple[list[str], list[str]]:
    with psycopg.connect(dsn, prepare_threshold=None, application_name="pgsched") as connection:
        return drift.inspect(connection)


async def schema(dsn: str) -> Finding:
    """That it is the one of this version."""
    try:
        await asyncio.to_thread(migrator.require_current, dsn)
    except (MigrationError, psycopg.Error) as exc:
        seen, _, advice = " ".join(str(exc).split()).rpartition(": ")
        return Finding("schema", "error", seen or advice, f"{advice[:1].upper()}{advice[1:]}.")
    return Finding("schema", "ok", f"at {migrator.migrations()[-1].version:03d}")


async def clock(session: Session) -> Finding:
    """How far this machine's clock is from that of the database, which counts."""
    sent = datetime.now(UTC)
    there = await diagnosis.clock(session)
    received = datetime.now(UTC)
    # It was read at some time between the two.
    apart = max(sent - there, there - received, timedelta(0))
    if apart <= APART:
        return Finding("clock", "ok", "this machine and the database agree within a second")
    side = "behind" if there > received else "ahead of"
    return Finding(
        "clock",
        "warning",
        f"this machine is {apart.total_seconds():,.1f} s {side} the database",
        "Nothing breaks, since the clock of the database counts; but the times in the logs of"
        " this machine are off. Look at its time synchronisation.",
    )


async def workers(session: Session) -> Finding:
    """That there is one."""
    count = await diagnosis.live_workers(session)
    if count == 0:
        advice = "Start one: pgsched worker."
        return Finding(
            "workers", "error", "none is alive: nothing fires, nothing is pushed", advice
        )
    return Finding("workers", "ok", f"{count} alive")
