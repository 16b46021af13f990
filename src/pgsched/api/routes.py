"""The endpoints for those who schedule, and for those who look after it."""

from __future__ import annotations

from typing import cast
from uuid import UUID

from fastapi import APIRouter, HTTPException, Request, Response

from pgsched import reading
from pgsched.api.guard import JsonResponse, problem
from pgsched.api.models import (
    REFUSALS,
    CancelBody,
    DefinitionBody,
    DefinitionId,
    Explanation,
    Health,
    LastRound,
    Problem,
    TaskBody,
    TaskId,
    TaskIds,
    TasksBody,
    TaskState,
    Upcoming,
)
from pgsched.api.parameters import IdempotencyKey, Limit, add_key
from pgsched.api.services import Wired
from pgsched.models import ScheduledTask, TaskDefinition, TaskStatus
from pgsched.options import NewTask
from pgsched.plain import list_of, plain, shape_of
from pgsched.queues import QueueStatus

router = APIRouter(prefix="/api", responses=REFUSALS)
health = APIRouter(prefix="/health", tags=["health"])
metrics = APIRouter(tags=["metrics"])


@router.post("/definitions", status_code=201, response_model=DefinitionId)
async def define(body: DefinitionBody, services: Wired) -> JsonResponse:
    """Define what can be run, or change the definition of that name."""
    async with services.transaction() as connection:
        definition_id = await services.scheduler.define_task(connection, **body.arguments())
    return JsonResponse({"definition_id": definition_id}, 201)


@router.get("/definitions", response_model=list_of("definitions", TaskDefinition))
async def list_definitions(services: Wired) -> JsonResponse:
    """The definitions that are not temporary, by name."""
    async with services.connection() as connection:
        found = await reading.list_definitions(connection)
    return JsonResponse({"definitions": [plain(definition) for definition in found]})


@router.get("/definitions/{name_or_id:path}", response_model=shape_of(TaskDefinition))
async def get_definition(name_or_id: str, services: Wired) -> JsonResponse:
    """One definition, temporary or not."""
    async with services.connection() as connection:
        return JsonResponse(plain(await reading.get_definition(connection, name_or_id)))


@router.post("/tasks", status_code=201, response_model=TaskId)
async def schedule(
    body: TaskBody,
    services: Wired,
    idempotency_key: IdempotencyKey = None,
) -> JsonResponse:
    """Schedule a task, or the first round of a loop."""
    given = body.arguments()
    add_key(given, idempotency_key)
    definition, kind = given.pop("definition"), given.pop("schedule_type")
    async with services.transaction() as connection:
        task_id = await services.lifecycle.schedule(connection, kind, definition, **given)
    return JsonResponse({"task_id": task_id}, 201)


@router.post("/tasks/bulk", status_code=201, response_model=TaskIds)
async def schedule_many(body: TasksBody, services: Wired) -> JsonResponse:
    """Schedule many tasks, all or none; an error names the first that is wrong by its index."""
    given = [cast("NewTask", task.arguments()) for task in body.tasks]
    async with services.transaction() as connection:
        task_ids = await services.scheduler.schedule_many(connection, given)
    return JsonResponse({"task_ids": task_ids}, 201)


@router.get("/tasks", response_model=list_of("tasks", ScheduledTask, next=(UUID | None, ...)))
async def list_tasks(
    services: Wired,
    status: TaskStatus | None = None,
    queue: str | None = None,
    trace_id: UUID | None = None,
    before: UUID | None = None,
    limit: Limit = 100,
) -> JsonResponse:
    """Tasks, the newest first; `next` is the `before` of the next page, null on the last."""
    async with services.connection() as connection:
        found = await reading.list_tasks(
            connection,
            status=status,
            queue=queue,
            trace_id=str(trace_id) if trace_id else None,
            before=str(before) if before else None,
            limit=limit,
        )
    after = found[-1].id if len(found) == limit else None
    return JsonResponse({"tasks": [plain(task) for task in found], "next": after})


@router.get("/tasks/bulk", include_in_schema=False)
@router.get("/tasks/cancel", include_in_schema=False)
@router.get("/tasks/retry", include_in_schema=False)
@router.get("/tasks/status", include_in_schema=False)
async def read_what_is_only_posted_to() -> None:
    """So that these words are not taken for the id of a task."""
    raise HTTPException(405)


@router.get("/tasks/{task_id}", response_model=shape_of(ScheduledTask))
async def get_task(task_id: UUID, services: Wired) -> JsonResponse:
    """One task, unfinished or finished."""
    async with services.connection() as connection:
        return JsonResponse(plain(await reading.get_task(connection, str(task_id))))


@router.get("/tasks/{task_id}/explanation", response_model=Explanation)
async def explain_task(task_id: UUID, services: Wired) -> JsonResponse:
    """Why a task runs or does not, how it ended, and what to do; a sentence a line."""
    async with services.connection() as connection:
        said = await reading.explain_task(connection, task_id)
    return JsonResponse({"task_id": task_id, "explanation": said})


@router.post("/tasks/{task_id}/cancel", response_model=TaskState)
async def cancel(task_id: UUID, services: Wired, body: CancelBody | None = None) -> JsonResponse:
    """Cancel an unfinished task."""
    reason = body.reason if body else None
    async with services.transaction() as connection:
        status = await services.scheduler.cancel_task(connection, task_id, reason)
    return JsonResponse({"task_id": task_id, "status": status})


@router.post("/tasks/{task_id}/retry", response_model=TaskState)
async def retry(task_id: UUID, services: Wired) -> JsonResponse:
    """Run a FAILED or CANCELLED task again, as a new attempt with a fresh budget."""
    async with services.transaction() as connection:
        status = await services.scheduler.retry_task(connection, task_id)
    return JsonResponse({"task_id": task_id, "status": status})


@router.post("/tasks/{task_id}/stop-loop", response_model=LastRound)
async def stop_loop(task_id: UUID, services: Wired) -> JsonResponse:
    """End the loop that this task is a round of."""
    async with services.transaction() as connection:
        last = await services.scheduler.stop_loop(connection, task_id)
    return JsonResponse({"task_id": task_id, "last_round_id": last})


@router.get("/queues", response_model=list_of("queues", QueueStatus))
async def queues(services: Wired) -> JsonResponse:
    """Limits and breakers, what is due, later and under way; counts stop at 10,000."""
    async with services.connection() as connection:
        found = await reading.list_queues(connection)
    return JsonResponse({"queues": [plain(row) for row in found]})


@router.get("/upcoming", response_model=Upcoming)
async def upcoming(services: Wired) -> JsonResponse:
    """The next 100 things to come due."""
    async with services.connection() as connection:
        return JsonResponse({"upcoming": await reading.list_rows(connection, "upcoming")})


@health.get("/live", response_model=Health)
async def live() -> JsonResponse:
    """The process answers; says nothing of the database."""
    return JsonResponse({"status": "live"})


@health.get("/ready", response_model=Health, responses={503: {"model": Problem}})
async def ready(services: Wired) -> JsonResponse:
    """The database answers, takes writes, and has the schema of this version."""
    if reason := await services.unready_because():
        return problem(503, "UNAVAILABLE", reason)
    return JsonResponse({"status": "ready"})


@metrics.get("/metrics", response_class=Response)
async def show_metrics(request: Request, services: Wired) -> Response:
    """For Prometheus: requests, reports, and what there is in the database, at most 5 s old."""
    body, content_type = await services.metrics.render(request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": content_type})
