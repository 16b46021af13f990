"""What the external system reports, one by one or in a list."""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.types import Receive, Scope, Send

from pgsched.api.guard import GRANTED, STATUS, JsonResponse, problem
from pgsched.api.models import REFUSALS, ReportResults, TaskState
from pgsched.api.services import wired
from pgsched.errors import Invalid
from pgsched.models import Json, ReportAnswer, StatusReport
from pgsched.reports import report_of, report_until_unlocked

MAX_REPORTS = 10_000


class LeanRoute(APIRoute):
    """Hands the request to the endpoint as it is, which leaves more time for reports."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)  # says which ones are allowed
            return
        request = Request(scope, receive)
        response: Response = await self.endpoint(request, **request.path_params)
        await response(scope, receive, send)


router = APIRouter(tags=["reports"], route_class=LeanRoute)

# Bodies are read by hand: a list takes what is right in it.
_FIELDS = StatusReport.model_json_schema()["properties"]
_LIST_ITEM = {"type": "object", "properties": _FIELDS, "required": ["task_id", "status"]}
_SINGLE = {"type": "object", "properties": _FIELDS, "required": ["status"]}

_ATTEMPT = {
    "name": "attempt",
    "in": "query",
    "description": "As in callback_url; counts when the body has none.",
    "schema": {"type": "integer"},
}


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    "/api/tasks/{task_id}/status",
    response_model=TaskState,
    responses=REFUSALS,
    openapi_extra=_body(_SINGLE) | {"parameters": [_ATTEMPT]},
)
async def report_status(request: Request, task_id: str) -> JsonResponse:
    """Report RUNNING, SUCCESS, FAILED or CANCELLED.  A 409 means: stop working on it."""
    given = _read(await request.body())
    if not isinstance(given, dict):
        raise Invalid("body: must be a JSON object")
    if given.setdefault("task_id", task_id) != task_id:
        raise Invalid(f"task_id: the body names {given['task_id']}, the path {task_id}")
    granted = request.scope.get(GRANTED)
    asked = request.query_params.get("attempt") or None
    if asked is not None and not re.fullmatch(r"-?\d+", asked, re.ASCII):
        raise Invalid("attempt: must be an integer, also where that of the body counts")
    if given.get("attempt") is None:
        given["attempt"] = asked or granted
    report = report_of(given)
    if granted is not None and report.attempt != granted:
        why = f"the token is good for attempt {granted}, and not for attempt {report.attempt}"
        return problem(403, "FORBIDDEN", why)
    (answer,) = await report_until_unlocked(wired(request).gatherer.send, [report])
    if answer.code is not None:
        return problem(STATUS[answer.code], answer.code, answer.message or "")
    return JsonResponse({"task_id": answer.task_id, "status": answer.status})


@router.post(
    "/api/tasks/status",
    response_model=ReportResults,
    responses=REFUSALS,
    openapi_extra=_body({"type": "array", "items": _LIST_ITEM}),
)
async def report_statuses(request: Request) -> JsonResponse:
    """Report on many tasks: one result each, in their order; one refused is no harm to the rest."""
    given = _read(await request.body())
    if not isinstance(given, list) or len(given) > MAX_REPORTS:
        raise Invalid(f"body: must be a JSON array of at most {MAX_REPORTS} reports")
    results: list[dict[str, Json] | None] = []
    reports: list[StatusReport] = []
    for item in given:
        try:
            reports.append(report_of(item))
            results.append(None)
        except Invalid as exc:
            results.append(_malformed(item, str(exc)))
    send = wired(request).report
    answers = iter(await report_until_unlocked(send, reports) if reports else [])
    return JsonResponse({"results": [result or _result(next(answers)) for result in results]})


def _read(body: bytes) -> Any:
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as exc:
        raise Invalid(f"body: is not JSON: {exc}") from None


def _result(answer: ReportAnswer) -> dict[str, Json]:
    result = {"task_id": answer.task_id, "status": answer.status}
    if answer.code is not None:
        result |= {"code": answer.code, "message": answer.message}
    return result


def _malformed(item: Any, message: str) -> dict[str, Json]:
    given = item.get("task_id") if isinstance(item, dict) else None
    task_id = given if isinstance(given, str) else None
    return {"task_id": task_id, "status": None, "code": Invalid.code, "message": message}
