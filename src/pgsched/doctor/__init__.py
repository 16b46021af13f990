"""
What is wrong, or soon will be, and what to do: findings as data.

To add a check, write a function from a session to a `Finding`, and list it
below.  What it asks the database stands in `diagnosis.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import psycopg

from pgsched.db import Session
from pgsched.doctor import clocks, schedules, server
from pgsched.doctor.findings import Finding, plural
from pgsched.errors import PgschedError
from pgsched.visit import visit

__all__ = ["Finding", "examine", "plural"]

# Each on its own: one that fails does not keep the others from being looked at.
CHECKS: tuple[Callable[[Session], Awaitable[Finding]], ...] = (
    server.workers,
    server.clock,
    schedules.broken_schedules,
    schedules.overdue_schedules,
    clocks.zone_data,
    clocks.zone_names,
    clocks.zone_releases,
)


async def examine(dsn: str, *, is_pooled: bool = False) -> list[Finding]:
    """
    Look at everything; raises nothing, since what goes wrong is a finding.

    Without a database, or with another schema than ours, there is not more to see.
    """
    try:
        async with visit(dsn, is_pooled=is_pooled, autocommit=True) as session:
            findings = [await _outcome(server.database, session), await server.schema(dsn)]
            if findings[-1].status == "ok":
                findings += [await _outcome(check, session) for check in CHECKS]
    except PgschedError as exc:
        advice = "See whether it runs, and whether PGSCHED_DATABASE_URL leads to it."
        return [Finding("database", "error", str(exc), advice)]
    return findings


async def _outcome(check: Callable[[Session], Awaitable[Finding]], session: Session) -> Finding:
    try:
        return await check(session)
    except (PgschedError, psycopg.Error) as exc:
        seen = f"could not look: {' '.join(str(exc).split())}"
        advice = "The role of PGSCHED_DATABASE_URL may lack the right to see it."
        return Finding(check.__name__.replace("_", " "), "error", seen, advice)
