"""The endpoints for operators: queues, external systems, and acts on many tasks."""

from __future__ import annotations

from fastapi import APIRouter

from pgsched import reading
from pgsched.api.guard import JsonResponse
from pgsched.api.models import REFUSALS
from pgsched.api.operating_models import (
    Breaker,
    BulkCounts,
    CancelManyBody,
    NoteBody,
    QueueBody,
    QueueId,
    QueueState,
    ReasonBody,
    RetryBody,
    SystemBody,
    SystemName,
)
from pgsched.api.services import Wired
from pgsched.db import Connection
from pgsched.plain import list_of, plain
from pgsched.queues import SystemStatus

router = APIRouter(prefix="/api", tags=["operators"], responses=REFUSALS)


@router.post("/external-systems", status_code=201, response_model=SystemName)
async def define_external_system(body: SystemBody, services: Wired) -> JsonResponse:
    """Create an external system, or change the one of that name."""
    async with services.transaction() as connection:
        await services.scheduler.define_external_system(connection, **body.arguments())
    return JsonResponse({"external_system": body.name}, 201)


@router.get("/external-systems", response_model=list_of("external_systems", SystemStatus))
async def list_external_systems(services: Wired) -> JsonResponse:
    """The external systems, and how their breakers are; keys are only named."""
    async with services.connection() as connection:
        found = await reading.list_external_systems(connection)
    return JsonResponse({"external_systems": [plain(row) for row in found]})


@router.post("/external-systems/{name:path}/open", response_model=Breaker)
async def open_breaker(name: str, services: Wired, body: ReasonBody | None = None) -> JsonResponse:
    """Claim nothing for an external system but, after some seconds, a probe."""
    async with services.transaction() as connection:
        await services.scheduler.open_breaker(connection, name, body.reason if body else None)
        return await _breaker(connection, name)


@router.post("/external-systems/{name:path}/close", response_model=Breaker)
async def close_breaker(name: str, services: Wired) -> JsonResponse:
    """Claim for an external system again."""
    async with services.transaction() as connection:
        await services.scheduler.close_breaker(connection, name)
        return await _breaker(connection, name)


@router.post("/queues", status_code=201, response_model=QueueId)
async def define_queue(body: QueueBody, services: Wired) -> JsonResponse:
    """Create a queue, or change the one of that name: where it leads, and its limits."""
    async with services.transaction() as connection:
        await services.scheduler.define_queue(connection, **body.arguments())
    return JsonResponse({"queue": body.name}, 201)


@router.post("/queues/{queue}/pause", response_model=QueueState)
async def pause_queue(queue: str, services: Wired, body: NoteBody | None = None) -> JsonResponse:
    """Stop claiming from a queue; what is under way goes on."""
    async with services.transaction() as connection:
        await services.scheduler.pause_queue(connection, queue, body.note if body else None)
    return JsonResponse({"queue": queue, "is_paused": True})


@router.post("/queues/{queue}/resume", response_model=QueueState)
async def resume_queue(queue: str, services: Wired) -> JsonResponse:
    """Claim from a paused queue again; its rate ramps up for ten seconds."""
    async with services.transaction() as connection:
        await services.scheduler.resume_queue(connection, queue)
    return JsonResponse({"queue": queue, "is_paused": False})


@router.post("/tasks/retry", response_model=BulkCounts)
async def retry_tasks(body: RetryBody, services: Wired) -> JsonResponse:
    """Retry what is FAILED or CANCELLED and has all that is given in common, or count it."""
    async with services.transaction() as connection:
        result = await services.scheduler.retry_tasks(connection, **body.arguments())
    return JsonResponse(result._asdict())


@router.post("/tasks/cancel", response_model=BulkCounts)
async def cancel_tasks(body: CancelManyBody, services: Wired) -> JsonResponse:
    """Cancel what is unfinished and has all that is given in common, or count it."""
    async with services.transaction() as connection:
        result = await services.scheduler.cancel_tasks(connection, **body.arguments())
    return JsonResponse(result._asdict())


async def _breaker(connection: Connection, name: str) -> JsonResponse:
    found = await reading.get_external_system(connection, name)
    given = {"breaker": found.breaker, "open_until": found.open_until}
    return JsonResponse({"external_system": name, **given})
