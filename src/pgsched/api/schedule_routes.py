"""The endpoints of schedules: to make them, to look at them, and to control them."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter
from pydantic import create_model

from pgsched import db, reading
from pgsched.api.guard import JsonResponse
from pgsched.api.models import REFUSALS, TaskId
from pgsched.api.next_runs import next_runs
from pgsched.api.parameters import Count, IdempotencyKey, Limit, add_key
from pgsched.api.schedule_models import (
    BackfillBody,
    BackfillCounts,
    BackfillId,
    DeletedSchedule,
    NextRuns,
    PauseBody,
    ScheduleBody,
    ScheduleId,
    ScheduleNow,
    TimeBody,
    TriggerBody,
)
from pgsched.api.services import Services, Wired
from pgsched.arguments import Time
from pgsched.db import Connection
from pgsched.errors import Invalid
from pgsched.models import ScheduleType
from pgsched.plain import list_of, plain, shape_of
from pgsched.schedules import Backfill, Schedule, ScheduleChange, ScheduleFire, ScheduleState

# Names hold slashes too.  The paths that end in a word come first: the one of
# the schedule alone takes all that is left.
ONE = "/{schedule:path}"
ExplainedSchedule = create_model(
    "ExplainedSchedule", __base__=shape_of(Schedule), explanation=(str, ...)
)
router = APIRouter(prefix="/api/schedules", tags=["schedules"], responses=REFUSALS)


@router.post("", status_code=201, response_model=ScheduleId)
async def make_schedule(body: ScheduleBody, services: Wired) -> JsonResponse:
    """Create a schedule, or replace the one of that name; the same again changes nothing."""
    given = body.arguments()
    definition = given.pop("definition")
    async with services.transaction() as connection:
        schedule_id = await services.lifecycle.schedule(
            connection, ScheduleType.CRON, definition, **given
        )
    return JsonResponse({"schedule_id": schedule_id}, 201)


@router.get("", response_model=list_of("schedules", Schedule))
async def list_schedules(services: Wired, state: ScheduleState | None = None) -> JsonResponse:
    """The schedules, or those in one state, by name."""
    async with services.connection() as connection:
        found = await reading.list_schedules(connection, state=state)
    return JsonResponse({"schedules": [plain(row) for row in found]})


@router.post(f"{ONE}/pause", response_model=ScheduleNow)
async def pause(schedule: str, services: Wired, body: PauseBody | None = None) -> JsonResponse:
    """Stop a schedule from firing, until somebody resumes it or until a given time."""
    given = body.arguments() if body else {}
    async with services.transaction() as connection:
        await services.control.pause_schedule(connection, schedule, **given)
        return await _now(connection, schedule)


@router.post(f"{ONE}/resume", response_model=ScheduleNow)
async def resume(schedule: str, services: Wired) -> JsonResponse:
    """Let a schedule fire again, from now on."""
    async with services.transaction() as connection:
        await services.control.resume_schedule(connection, schedule)
        return await _now(connection, schedule)


@router.post(f"{ONE}/trigger", status_code=201, response_model=TaskId)
async def trigger(
    schedule: str,
    services: Wired,
    body: TriggerBody | None = None,
    idempotency_key: IdempotencyKey = None,
) -> JsonResponse:
    """Run a schedule now, besides its time; also while it is paused."""
    given = body.arguments() if body else {}
    add_key(given, idempotency_key)
    async with services.transaction() as connection:
        task_id = await services.control.trigger_schedule(connection, schedule, **given)
    return JsonResponse({"task_id": task_id}, 201)


@router.post(
    f"{ONE}/backfill",
    status_code=202,
    response_model=BackfillId,
    responses={200: {"model": BackfillCounts, "description": "With preview: what it comes to."}},
)
async def backfill(schedule: str, services: Wired, body: BackfillBody) -> JsonResponse:
    """Have the instants of a range run that have not; a worker does so.  Or only count them."""
    async with services.transaction() as connection:
        await _require_past(connection, body)
        if body.preview:
            return await _count(services, connection, schedule, body)
        backfill_id = await services.control.backfill_schedule(
            connection, schedule, body.from_time, body.to_time, max_instants=body.max_instants
        )
    return JsonResponse({"backfill_id": backfill_id}, 202)


@router.get(f"{ONE}/backfills", response_model=list_of("backfills", Backfill))
async def list_backfills(schedule: str, services: Wired, limit: Limit = 100) -> JsonResponse:
    """The backfills of a schedule, the newest first, and how far they are."""
    async with services.connection() as connection:
        found = await reading.list_backfills(connection, schedule, limit=limit)
    return JsonResponse({"backfills": [plain(row) for row in found]})


@router.get(
    f"{ONE}/fires", response_model=list_of("fires", ScheduleFire, next=(datetime | None, ...))
)
async def list_fires(
    schedule: str, services: Wired, before: Time | None = None, limit: Limit = 100
) -> JsonResponse:
    """What became of its instants, the newest first; `next` is the `before` of the next page."""
    async with services.connection() as connection:
        found = await reading.list_fires(connection, schedule, before=before, limit=limit)
    after = _in_a_url(found[-1].scheduled_time) if len(found) == limit else None
    return JsonResponse({"fires": [plain(row) for row in found], "next": after})


@router.get(f"{ONE}/changes", response_model=list_of("changes", ScheduleChange))
async def list_changes(schedule: str, services: Wired, limit: Limit = 100) -> JsonResponse:
    """Who changed a schedule, the newest first; also of one that was deleted."""
    async with services.connection() as connection:
        found = await reading.list_changes(connection, schedule, limit=limit)
    return JsonResponse({"changes": [plain(row) for row in found]})


@router.get(f"{ONE}/next", response_model=NextRuns)
async def preview(schedule: str, services: Wired, count: Count = 5) -> JsonResponse:
    """The next runs, as far as anyone can tell beforehand."""
    async with services.connection() as connection:
        found = await reading.get_schedule(connection, schedule)
        now = await db.call(connection, "now")
        delay = await db.call(
            connection, "jitter_of", p_schedule_id=found.id, p_jitter=found.jitter
        )
    runs = [run.model_dump() for run in next_runs(found, now, delay, count)]
    return JsonResponse({"state": found.state, "next": runs})


@router.get(ONE, response_model=ExplainedSchedule)
async def get_schedule(schedule: str, services: Wired) -> JsonResponse:
    """One schedule, and why it fires or does not, in words."""
    async with services.connection() as connection:
        found = await reading.get_schedule(connection, schedule)
        explanation = await reading.explain_schedule(connection, str(found.id))
    return JsonResponse(plain(found) | {"explanation": explanation})


@router.patch(ONE, response_model=ScheduleNow)
async def reschedule(schedule: str, services: Wired, body: TimeBody) -> JsonResponse:
    """Change the time of a schedule, at once, and nothing else; a pause is kept."""
    async with services.transaction() as connection:
        await services.control.reschedule(connection, schedule, **body.arguments())
        return await _now(connection, schedule)


@router.delete(ONE, response_model=DeletedSchedule)
async def delete(schedule: str, services: Wired) -> JsonResponse:
    """Delete a schedule, and cancel its tasks that wait; the record of it stays."""
    async with services.transaction() as connection:
        found = await reading.get_schedule(connection, schedule)
        count = await services.control.delete_schedule(connection, found.id)
    return JsonResponse({"schedule_id": found.id, "cancelled_tasks": count})


async def _now(connection: Connection, schedule: str) -> JsonResponse:
    found = await reading.get_schedule(connection, schedule)
    return JsonResponse({"schedule_id": found.id, "state": found.state})


async def _require_past(connection: Connection, body: BackfillBody) -> None:
    """Also when it is only counted: what could not be run is not worth a count."""
    if body.from_time > body.to_time:
        raise Invalid(f"from: {body.from_time} must not be after `to`, {body.to_time}")
    if body.to_time > await db.call(connection, "now"):
        raise Invalid(
            f"to: {body.to_time} must not be in the future: what is yet to come the schedule"
            " runs by itself"
        )


async def _count(
    services: Services, connection: Connection, schedule: str, body: BackfillBody
) -> JsonResponse:
    counts = await services.control.preview_backfill(
        connection, schedule, body.from_time, body.to_time
    )
    found = counts._asdict()
    found["to_run"] = counts.instant_count - counts.run_count
    return JsonResponse({name: found[name] for name in BackfillCounts.model_fields})


def _in_a_url(at: datetime) -> str:
    """Without a plus, which means a blank there."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
