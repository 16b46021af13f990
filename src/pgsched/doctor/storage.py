"""Tables, indexes and partitions, and the settings that keep them well."""

from __future__ import annotations

from datetime import UTC, timedelta

from pgsched import diagnosis
from pgsched.db import Session
from pgsched.diagnosis import storage
from pgsched.diagnosis.storage import Kept
from pgsched.doctor.findings import Finding, named, plural

MANY_DEAD = 100_000
# Ids before Postgres takes no more writes: 2,100 million.
OLD_ID, TOO_OLD_ID = 1_000_000_000, 1_800_000_000
# Partitions are made 30 days ahead; and dropped some time after they are past.
AHEAD = timedelta(days=7)
GRACE = timedelta(days=2)
# What should be on.
SETTINGS = ("autovacuum", "track_counts", "fsync", "full_page_writes", "synchronous_commit")


async def dead_rows(session: Session) -> Finding:
    """Vacuum keeps up with the tables that change most."""
    found = await storage.bloated(session, MANY_DEAD)
    if not found:
        return Finding("dead rows", "ok", "few, in the tables that change most")
    tables = [
        f"{name} has {dead:,} dead and {live:,} live, "
        + (f"vacuumed {at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if at else "never vacuumed")
        for name, dead, live, at in found
    ]
    advice = (
        f"Is there an old snapshot, see there, or autovacuum off? Then: vacuum analyze"
        f" pgsched.{found[0].name};"
    )
    return Finding("dead rows", "warning", "; ".join(tables), advice)


async def settings(session: Session) -> Finding:
    """Those of the server that tasks depend on."""
    wrong = [f"{name} is off" for name in await storage.switched_off(session, SETTINGS)]
    wrong += [
        f"autovacuum_enabled is false for {table}"
        for table in await storage.tables_without_autovacuum(session)
    ]
    if not wrong:
        return Finding("settings", "ok", "autovacuum and flushing are on")
    advice = (
        "Without autovacuum or track_counts tables bloat. Without fsync, full_page_writes or"
        " synchronous_commit a crash of the machine loses tasks that were committed."
    )
    return Finding("settings", "warning", ", ".join(wrong), advice)


async def invalid_indexes(session: Session) -> Finding:
    """None was left half-built."""
    found = await storage.invalid_indexes(session)
    if not found:
        return Finding("invalid indexes", "ok", "none")
    advice = "Each costs writes and serves no query: reindex index concurrently NAME; or drop it."
    return Finding("invalid indexes", "error", named(found), advice)


async def triggers(session: Session) -> Finding:
    """All fire."""
    found = await storage.disabled_triggers(session)
    if not found:
        return Finding("triggers", "ok", "all are enabled")
    advice = "Enable them again: workers are not woken, or checks are not made."
    return Finding("triggers", "error", f"disabled: {named(found)}", advice)


async def transaction_ids(session: Session) -> Finding:
    """Postgres has enough of them left."""
    age = await storage.oldest_id(session)
    seen = f"the oldest is {age:,} back"
    if age < OLD_ID:
        return Finding("transaction ids", "ok", seen)
    advice = "At 2.1 thousand million Postgres takes no more writes: vacuum freeze the database."
    return Finding("transaction ids", "warning" if age < TOO_OLD_ID else "error", seen, advice)


async def partitions(session: Session) -> Finding:
    """They are there for what comes, and gone when they are past."""
    now = await diagnosis.clock(session)
    found = await storage.record(session, GRACE)
    missing = [table.name for table in found if not table.is_there_today]
    wrong = [problem for table in found for problem in _problems(table)]
    short = [t.name for t in found if t.until is None or t.until < now + AHEAD]
    wrong += [f"none is made ahead for {named(short)}"] * bool(short)
    if not wrong:
        ahead = min(t.until for t in found if t.until)
        return Finding("partitions", "ok", f"made until {ahead.astimezone(UTC):%Y-%m-%d}")
    advice = (
        "Workers make and drop them, once a minute: see that one is alive, or call"
        " pgsched.maintain(). What the default partition holds stays there until it is past its"
        " retention; nothing is lost."
    )
    return Finding("partitions", "error" if missing else "warning", "; ".join(wrong), advice)


def _problems(table: Kept) -> list[str]:
    problems = []
    if not table.is_there_today:
        problems.append(f"{table.name} has none for today")
    if table.netted:
        more = " or more" * (table.netted >= 1000)
        rows = plural(table.netted, "row")
        problems.append(f"{table.name}_default holds {rows}{more}")
    if table.overdue:
        problems.append(f"past the retention: {named(table.overdue)}")
    return problems
