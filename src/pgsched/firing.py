"""
What a tick makes of a schedule that is due: which instants run, which are missed.

Pure: time is what the database read, and the overlap policy is left to
`fire_schedules()`, which sees the tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from itertools import groupby

from pgsched import zones
from pgsched.due import DueSchedule
from pgsched.errors import Invalid
from pgsched.instants import Timing
from pgsched.models import Json

log = logging.getLogger(__name__)

# At most so many runs at once, however many instants an outage left; and so
# many rows of the ledger, before one stands for all.
BOUND = 100
# At most so many instants in one tick; the next one goes on from there.
SLICE = 2000


def tick_of(schedule: DueSchedule) -> dict[str, Json]:
    """What `fire_schedules()` is told; a schedule that cannot be read is switched off."""
    tick: dict[str, Json] = {
        "schedule_id": schedule.schedule_id,
        "expected": schedule.next_run_at,
        "revision": schedule.revision,
    }
    try:
        return tick | _advance(schedule)
    except Invalid as exc:
        log.warning("schedule switched off", extra={**_fields_of(schedule), "error": exc})
        return tick | {"error_msg": str(exc)}
    except Exception as exc:  # one that breaks us must not stop the others
        log.exception("schedule switched off by a fault", extra=_fields_of(schedule))
        return tick | {"error_msg": f"internal error: {type(exc).__name__}: {exc}"}


def _fields_of(schedule: DueSchedule) -> dict[str, str]:
    return {"schedule_id": schedule.schedule_id, "schedule": schedule.name}


def _advance(schedule: DueSchedule) -> dict[str, Json]:
    instants, following = _due(schedule)
    if len(instants) < SLICE:
        fires = list(_fires(schedule, instants, _run_count(schedule, instants)))
    else:  # the latest of them may still run; none before them will
        following = instants[-BOUND]
        instants = instants[:-BOUND]
        fires = list(_fires(schedule, instants, 0))
    is_ended = schedule.ends_at is not None and following > schedule.ends_at
    return {
        "fires": fires,
        "counts_from": instants[-1] if instants else None,
        "next_run_at": following + schedule.jitter,
        "is_ended": is_ended,
        "tz_version": zones.VERSION,
    }


def _due(schedule: DueSchedule) -> tuple[list[datetime], datetime]:
    """The instants that are due, at most SLICE, and the one that follows."""
    timing = Timing(schedule.cron_expr, schedule.every, schedule.timezone, schedule.anchor)
    end = _horizon(schedule)
    if schedule.ends_at is not None:
        end = min(end, schedule.ends_at)
    instants: list[datetime] = []
    for instant in timing.all_after(schedule.counts_from):
        if instant > end or len(instants) == SLICE:
            return instants, instant
        instants.append(instant)
    raise AssertionError("instants do not end")


def _horizon(schedule: DueSchedule) -> datetime:
    """The instants up to here are due: jitter is as if the clock were late."""
    return schedule.as_of - schedule.jitter


def _is_late(schedule: DueSchedule, instant: datetime) -> bool:
    return _horizon(schedule) - instant > schedule.misfire_grace


def _run_count(schedule: DueSchedule, instants: list[datetime]) -> int:
    """How many of these run: the last so many."""
    timely = sum(not _is_late(schedule, instant) for instant in instants)
    match schedule.misfire_policy:
        case "all":
            wanted = len(instants)
        case "latest":
            wanted = max(timely, 1)
        case _:
            wanted = timely
    return min(wanted, len(instants), BOUND)


def _fires(
    schedule: DueSchedule, instants: list[datetime], run_count: int
) -> Iterator[dict[str, Json]]:
    late = instants[: len(instants) - run_count]
    for is_late, group in groupby(late, lambda instant: _is_late(schedule, instant)):
        yield from missed(list(group), _reason(schedule, is_late))
    for instant in instants[len(late) :]:
        yield {"scheduled_time": instant, "outcome": "RUN"}


def _reason(schedule: DueSchedule, is_late: bool) -> str:
    if is_late and schedule.misfire_policy != "all":
        grace = f"{schedule.misfire_grace.total_seconds():g} s"
        return f"misfire_policy {schedule.misfire_policy}: no worker was there within {grace}"
    return f"more than {BOUND} instants were due at once, and the latest {BOUND} run"


def missed(instants: list[datetime], reason: str) -> Iterator[dict[str, Json]]:
    """Their entries in the ledger; many share one."""
    entry = {"outcome": "MISSED", "reason": reason}
    if len(instants) <= BOUND:
        for instant in instants:
            yield entry | {"scheduled_time": instant}
    else:
        yield entry | {
            "scheduled_time": instants[0],
            "folded_until": instants[-1],
            "folded_count": len(instants),
        }
