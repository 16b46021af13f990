"""How each schedule type is run, and what it takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from pgsched.arguments import CENTURY
from pgsched.db import Session
from pgsched.errors import Invalid
from pgsched.models import Json, ScheduleType, TaskDefinition
from pgsched.options import PolicyOptions, TaskOptions
from pgsched.scheduler import SchedulerService

SHORT_NAMES = {"ONCE": ScheduleType.IMMEDIATE, "DELAY": ScheduleType.DELAYED}


class Timing(PolicyOptions, total=False):
    """When and how often; which of these a schedule type takes, WAYS tells."""

    delay: timedelta | None
    scheduled_time: datetime | None
    cron_expression: str | None
    every: timedelta | None
    timezone: str | None
    max_rounds: int | None
    loop_interval: timedelta | None


class Run(Timing, TaskOptions, total=False):
    """Everything that can be said about a run."""

    input_params: dict[str, Json] | None
    name: str | None


class _Way(NamedTuple):
    """How a schedule type is run, and what it takes beyond what all take."""

    method: Callable[..., Awaitable[str]]
    takes: frozenset[str]


async def _schedule(
    scheduler: SchedulerService, session: Session, definition: str | UUID, **given: Any
) -> str:
    """By cron expression, or every so often."""
    if "every" not in given:
        return await scheduler.schedule_cron(session, definition, **given)
    if strange := sorted(given.keys() & {"cron_expression", "timezone"}):
        raise Invalid(f"{', '.join(strange)}: not together with `every`, which is elapsed time")
    return await scheduler.schedule_every(session, definition, **given)


_COMMON = {"input_params", "priority", "queue", "schedule_config"}
_TASK = frozenset(_COMMON | {"trace_id", "idempotency_key", "depends_on"})
_LOOP = _Way(SchedulerService.schedule_loop, _TASK | {"max_rounds", "loop_interval"})

WAYS: dict[ScheduleType, _Way] = {
    ScheduleType.IMMEDIATE: _Way(SchedulerService.schedule_immediate, _TASK),
    ScheduleType.DELAYED: _Way(
        SchedulerService.schedule_delayed, _TASK | {"delay", "scheduled_time"}
    ),
    ScheduleType.CRON: _Way(
        _schedule,
        frozenset(_COMMON | {"cron_expression", "every", "timezone", "name", "trace_id"})
        | PolicyOptions.__annotations__.keys(),
    ),
    ScheduleType.LOOP: _LOOP,
    ScheduleType.INTERVAL_LOOP: _LOOP,
    ScheduleType.LOOP_ONCE: _Way(SchedulerService.trigger_loop_once, _TASK),
}


def schedule_type_of(value: ScheduleType | str, field: str = "schedule_type") -> ScheduleType:
    """The type of that name; ONCE and DELAY are short for IMMEDIATE and DELAYED."""
    try:
        return SHORT_NAMES.get(value) or ScheduleType(value)
    except (ValueError, TypeError):
        known = ", ".join([*SHORT_NAMES, *ScheduleType])
        raise Invalid(f"{field}: must be one of {known}, not {value!r}") from None


def own_timing(definition: TaskDefinition, run: Run) -> dict[str, Any]:
    """When a definition says it runs, where *run* does not."""
    config = parsed(definition.schedule_config)
    match definition.schedule_type:
        case ScheduleType.CRON:
            own: dict[str, Any] = {}
            if not run.get("every"):
                own |= {
                    "cron_expression": definition.cron_expr,
                    "timezone": config.get("timezone"),
                }
            if definition.is_temporary:
                own["name"] = own_name(definition.name, str(definition.id))
            return own
        case ScheduleType.DELAYED if not (run.get("delay") or run.get("scheduled_time")):
            seconds = config.get("delay_seconds")
            if not (isinstance(seconds, int | float) and 0 <= seconds <= CENTURY.total_seconds()):
                raise Invalid("delay: missing, and the schedule_config has no delay_seconds either")
            return {"delay": timedelta(seconds=seconds)}
        case _:
            return {}


def own_name(name: str, definition_id: str) -> str:
    """Of a schedule, unlike that of any definition: temporary ones may share a name."""
    return f"{name} {definition_id}"


def parsed(value: Json) -> dict[str, Any]:
    """What jsonb holds, on a connection that hands it on unparsed as well."""
    parsed: dict[str, Any] = orjson.loads(orjson.dumps(value))
    return parsed
