"""Cron expressions, read for those who write them; needs no database."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from pgsched import words
from pgsched.api.guard import JsonResponse
from pgsched.api.models import REFUSALS
from pgsched.api.parameters import Count
from pgsched.api.schedule_models import CronExplanation, CronRuns
from pgsched.arguments import Text, Time
from pgsched.preview import preview

router = APIRouter(prefix="/api/cron", tags=["cron"], responses=REFUSALS)


@router.get("/next", response_model=CronRuns)
async def cron_next(
    expr: Text,
    timezone: Text = "UTC",
    count: Count = 5,
    after: Annotated[Time | None, Query(alias="from")] = None,
) -> JsonResponse:
    """When an expression runs next, and what a change of the clocks does to it."""
    runs = preview(expr, timezone, count, after)
    return JsonResponse({"next": [run._asdict() for run in runs]})


@router.get("/explain", response_model=CronExplanation)
async def cron_explain(expr: Text, timezone: Text | None = None) -> JsonResponse:
    """What an expression means, in words."""
    return JsonResponse({"explanation": words.explain(expr, timezone)})
