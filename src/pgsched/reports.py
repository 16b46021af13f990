"""What the external system says: made into reports, and sent until no lock is in the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import ValidationError

from pgsched.arguments import explain
from pgsched.errors import Invalid
from pgsched.models import Json, ReportAnswer, StatusReport

# A task that another session has locked is tried again this long, in seconds.
LOCKED_WAIT = 5.0
FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.2

Send = Callable[[list[dict[str, Json]]], Awaitable[list[ReportAnswer]]]


def report_of(fields: object) -> StatusReport:
    """
    A report from its fields.

    Raises:
        Invalid: A field is wrong; the message names it.
    """
    try:
        return StatusReport.model_validate(fields)
    except ValidationError as exc:
        raise Invalid(explain(exc.errors())) from None


async def report_until_unlocked(send: Send, reports: list[StatusReport]) -> list[ReportAnswer]:
    """
    Have *send* apply the reports; one answer each, in their order.

    Those whose task is locked are sent again, and are PS409 in the end.
    """
    bodies: list[dict[str, Any]] = [report.model_dump(exclude_none=True) for report in reports]
    answers = await send(bodies)
    deadline, pause = time.monotonic() + LOCKED_WAIT, FIRST_PAUSE
    while locked := [i for i, answer in enumerate(answers) if answer.code == "LOCKED"]:
        if time.monotonic() >= deadline:
            return [a._replace(code="PS409") if a.code == "LOCKED" else a for a in answers]
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
        for i, answer in zip(locked, await send([bodies[i] for i in locked]), strict=True):
            answers[i] = answer._replace(report_index=i)
    return answers
