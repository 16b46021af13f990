"""Other sessions: who keeps dead rows, who listens, and how many there are."""

from __future__ import annotations

from datetime import timedelta

import psycopg

from pgsched import diagnosis
from pgsched.db import Session
from pgsched.diagnosis import sessions
from pgsched.doctor.findings import Finding, duration, named, plural

# A claim goes past the dead rows of so long without being slow.
OLD = timedelta(minutes=5)
OLD_TRANSACTIONS = 1_000_000
# Shares.
CROWDED = 0.9
BACKED_UP = 0.1


async def rights(session: Session) -> Finding:
    """Whether all that the others ask for can be seen."""
    role = await sessions.role(session)
    if await sessions.sees_all(session):
        return Finding("rights", "ok", f"{role} sees all sessions")
    seen = f"{role} does not see what sessions of other roles do: snapshots, names of applications"
    return Finding("rights", "unknown", seen, f"grant pg_monitor to {role};")


async def old_snapshots(session: Session) -> Finding:
    """Nobody has had a snapshot for long: what died since then cannot be removed."""
    name = "old snapshots"
    found = [
        *await sessions.old_sessions(session, OLD),
        *await sessions.prepared_transactions(session, OLD),
    ]
    found.sort(key=lambda holder: holder.age, reverse=True)
    holders = [f"{holder.what} for {duration(holder.age)}" for holder in found]
    holders += await sessions.lagging_standbys(session, OLD_TRANSACTIONS)
    if holders:
        advice = (
            "Dead rows of all tables stay until they end. A session: end its transaction, or"
            " select pg_terminate_backend(pid). A prepared one: commit prepared or rollback"
            " prepared. A slot that nobody reads: select pg_drop_replication_slot(name)."
        )
        return Finding(name, "warning", named(holders), advice)
    if not await sessions.sees_all(session):
        return Finding(name, "unknown", "only its own sessions can be seen", "See rights.")
    return Finding(name, "ok", f"none older than {duration(OLD)}")


async def connections(session: Session) -> Finding:
    """There is room for more."""
    taken, most = await sessions.connections(session)
    seen = f"{taken} of {most} taken"
    if taken < CROWDED * most:
        return Finding("connections", "ok", seen)
    advice = "Raise max_connections, or have fewer clients: a worker takes up to 10, an API 10."
    return Finding("connections", "warning", seen, advice)


async def notifications(dsn: str, session: Session) -> Finding:
    """What is sent by NOTIFY arrives, and no listener keeps the queue full."""
    name = "notifications"
    try:
        arrives = await sessions.hears(dsn, session)
    except (psycopg.Error, TimeoutError) as exc:
        return Finding(name, "error", f"LISTEN failed: {exc}", "Workers poll, once a second.")
    if not arrives:
        advice = (
            "Workers poll, once a second. PGSCHED_DATABASE_URL may lead through a pooler in"
            " transaction mode: let it lead to Postgres, or set PGSCHED_POLL_ONLY=true."
        )
        return Finding(name, "error", "a session that listens hears nothing", advice)
    usage = await sessions.notification_queue_usage(session)
    if usage > BACKED_UP:
        advice = (
            "When it is full, commits that notify fail. Some session has done LISTEN and is in a"
            " transaction since: find it in pg_stat_activity by xact_start, and end it."
        )
        return Finding(name, "error", f"{usage:.1%} of the queue is taken", advice)
    return Finding(name, "ok", "they arrive, and the queue is empty")


async def listeners(session: Session) -> Finding:
    """Each worker has a session that listens."""
    workers = await diagnosis.live_workers(session)
    listening = await sessions.listeners(session)
    seen = f"{plural(listening, 'session')} for {plural(workers, 'worker')}"
    if listening >= workers:
        return Finding("listeners", "ok", seen)
    if not await sessions.sees_all(session):
        return Finding("listeners", "unknown", "only its own sessions can be seen", "See rights.")
    advice = (
        "Who has none polls, once a second. Unless PGSCHED_POLL_ONLY is set there: see its log,"
        " and whether a firewall cuts idle connections."
    )
    return Finding("listeners", "warning", seen, advice)
