"""
What is wrong, or soon will be, and what to do: findings as data.

To add a check, write a function from a session to a `Finding`, list it below,
and give it a row in `docs/doctor.md`.  What it asks the database stands in
`diagnosis`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import psycopg

from pgsched.db import Session
from pgsched.doctor import clocks, schedules, server, sessions, storage, work
from pgsched.doctor.findings import Finding, plural
from pgsched.errors import Forbidden, PgschedError
from pgsched.visit import visit

__all__ = ["Finding", "examine", "plural"]

Check = Callable[[Session], Awaitable[Finding | Sequence[Finding]]]

# Each on its own: one that fails does not keep the others from being looked at.
CHECKS: dict[str, Check] = {
    "minor release": server.minor_release,
    "settings": storage.settings,
    "rights": sessions.rights,
    "clock": server.clock,
    "connections": sessions.connections,
    "transaction ids": storage.transaction_ids,
    "old snapshots": sessions.old_snapshots,
    "dead rows": storage.dead_rows,
    "invalid indexes": storage.invalid_indexes,
    "triggers": storage.triggers,
    "partitions": storage.partitions,
    "workers": server.workers,
    "health": work.signs,
    "broken schedules": schedules.broken_schedules,
    "overdue schedules": schedules.overdue_schedules,
    "zone data": clocks.zone_data,
    "zone names": clocks.zone_names,
    "zone release": clocks.zone_releases,
}


async def examine(
    dsn: str, *, is_pooled: bool = False, external_system_url: str | None = None
) -> list[Finding]:
    """
    Look at everything; raises nothing, since what goes wrong is a finding.

    Without a database, or with another schema than ours, there is not more to see.

    Args:
        is_pooled: Workers poll, and none is expected to listen.
        external_system_url: Of systems without an address of their own.
    """
    checks = CHECKS | {"external systems": partial(work.external_systems, url=external_system_url)}
    if not is_pooled:
        checks["notifications"] = partial(sessions.notifications, dsn)
        checks["listeners"] = sessions.listeners
    try:
        async with visit(dsn, is_pooled=is_pooled, autocommit=True) as session:
            findings = await _outcome("database", server.database, session)
            findings.append(await server.schema(dsn))
            if findings[-1].status != "ok":
                return findings
            findings += await _outcome("definitions", partial(server.definitions, dsn), session)
            for name, check in checks.items():
                findings += await _outcome(name, check, session)
    except PgschedError as exc:
        advice = "See whether it runs, and whether PGSCHED_DATABASE_URL leads to it."
        return [Finding("database", "error", str(exc), advice)]
    return findings


async def _outcome(name: str, check: Check, session: Session) -> list[Finding]:
    try:
        found = await check(session)
    except (Forbidden, psycopg.errors.InsufficientPrivilege) as exc:
        advice = "Give the role of PGSCHED_DATABASE_URL the group role pgsched_operator."
        return [Finding(name, "unknown", f"may not look: {_line(exc)}", advice)]
    except (PgschedError, psycopg.Error) as exc:
        advice = "Is the schema whole? See the finding definitions."
        return [Finding(name, "error", f"could not look: {_line(exc)}", advice)]
    return [found] if isinstance(found, Finding) else list(found)


def _line(exc: Exception) -> str:
    return " ".join(str(exc).split())
