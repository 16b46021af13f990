"""
Settle what lies behind: slice by slice.

Gaps are instants that a change of their schedule overtook: they are MISSED.
Backfills are those that somebody wants to run after all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from itertools import islice
from typing import TypeVar

import psycopg

from pgsched.database import Database
from pgsched.due import DueBackfill, DueGap
from pgsched.errors import Invalid, PgschedError, Unavailable
from pgsched.failures import is_outage, reason_of
from pgsched.firing import missed
from pgsched.instants import Timing
from pgsched.loops import wait
from pgsched.models import Json

log = logging.getLogger(__name__)

Due = TypeVar("Due", DueBackfill, DueGap)

# Instants at once.
SLICE = 1000


class Backfiller:
    """Any number of workers may: the database takes each slice once."""

    def __init__(self, database: Database, wake: asyncio.Event, interval: float) -> None:
        self._database = database
        self._wake = wake
        self._interval = interval

    async def step(self) -> float:
        """One slice of each gap and each backfill, or sleep until there is one."""
        self._wake.clear()
        gaps = await self._database.due_gaps()
        for gap in gaps:
            await self._close(await _computed(gap_step, gap))
        backfills = await self._database.due_backfills()
        for backfill in backfills:
            await self._run(await _computed(step_of, backfill))
        if not (gaps or backfills):
            await wait(self._wake, self._interval)
        return 0.05

    async def _close(self, step: dict[str, Json]) -> None:
        try:
            await self._database.close_gap(step)
        except (PgschedError, psycopg.Error) as exc:
            if not _is_final(exc, step):
                return
            fields = {"gap_id": step["gap_id"], "error": exc}
            log.warning("missed runs cannot be entered", extra=fields)
            await self._database.close_gap({**step, "fires": [], "is_done": True})

    async def _run(self, step: dict[str, Json]) -> None:
        try:
            await self._database.run_backfill(step)
        except (PgschedError, psycopg.Error) as exc:
            if not _is_final(exc, step):
                return
            refusal = {key: step[key] for key in ("backfill_id", "expected")}
            refusal["error_msg"] = f"it cannot run: {reason_of(exc)}"
            fields = {"backfill_id": step["backfill_id"], "error": exc}
            log.warning("backfill refused", extra=fields)
            await self._database.run_backfill(refusal)


def _is_final(exc: Exception, step: dict[str, Json]) -> bool:
    """Whether it will fail the same way again; an outage of the database is raised."""
    if is_outage(exc):
        raise exc
    if isinstance(exc, Unavailable):  # a lock or a deadlock, which passes
        names = "gap_id", "backfill_id"
        fields: dict[str, object] = {name: step[name] for name in names if name in step}
        log.warning("backfill left for later", extra={**fields, "error": exc})
        return False
    return True


async def _computed(step: Callable[[Due], dict[str, Json]], due: Due) -> dict[str, Json]:
    """Counting a long range can be slow, and pushes must not wait for it."""
    return await asyncio.to_thread(step, due)


def gap_step(gap: DueGap) -> dict[str, Json]:
    """The next slice of a gap, for `close_gap()`."""
    step: dict[str, Json] = {"gap_id": gap.id, "expected": gap.counts_from}
    try:
        due, following = _slice(gap)
    except Invalid as exc:  # what cannot be read has no instants
        log.debug("nothing was missed", extra={"gap_id": gap.id, "error": exc})
        return step | {"fires": [], "is_done": True}
    return step | {
        "fires": list(missed(due, gap.reason)),
        "counts_from": due[-1] if due else None,
        "is_done": following > gap.to_time,
    }


def step_of(backfill: DueBackfill) -> dict[str, Json]:
    """The next slice of a backfill, for `run_backfill()`; the first one counts the whole range."""
    step: dict[str, Json] = {"backfill_id": backfill.backfill_id, "expected": backfill.counts_from}
    try:
        if backfill.instant_count == 0:
            _require_bound(backfill)
        due, following = _slice(backfill)
    except Invalid as exc:
        fields = {"backfill_id": backfill.backfill_id, "error": exc}
        log.warning("backfill refused", extra=fields)
        return step | {"error_msg": str(exc)}
    return step | {"instants": due, "is_done": following > backfill.to_time}


def _timing(due: DueBackfill | DueGap) -> Timing:
    return Timing(due.cron_expr, due.every, due.timezone, due.anchor)


def _slice(due: DueBackfill | DueGap) -> tuple[list[datetime], datetime]:
    """The next instants of a range, at most SLICE, and the one that follows them."""
    instants = list(islice(_timing(due).all_after(due.counts_from), SLICE + 1))
    within = [instant for instant in instants[:SLICE] if instant <= due.to_time]
    return within, instants[len(within)]


def _require_bound(backfill: DueBackfill) -> None:
    due = _timing(backfill).between(backfill.counts_from, backfill.to_time)
    if next(islice(due, backfill.max_instants, None), None) is not None:
        raise Invalid(
            f"the range holds more than {backfill.max_instants} instants:"
            " make it shorter, or allow more with max_instants"
        )
