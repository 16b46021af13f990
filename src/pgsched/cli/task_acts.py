"""`pgsched tasks cancel` and `retry`: a few tasks by their ids, or many by what they share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from pgsched.cli.acting import MOST, Act, How, act_on
from pgsched.cli.flags import AsJson, DatabaseUrl, Yes
from pgsched.cli.task_flags import (
    After,
    Before,
    DryRun,
    ErrorLike,
    Most,
    OfDefinition,
    OfQueue,
    OfSchedule,
    OfTrace,
    Reason,
    TaskIds,
)
from pgsched.scheduler import SchedulerService

SERVICE = SchedulerService()


class Unfinished(StrEnum):
    """What can be cancelled."""

    PENDING = "PENDING"
    SCHEDULED = "SCHEDULED"
    DISPATCHED = "DISPATCHED"
    RUNNING = "RUNNING"


class Unsuccessful(StrEnum):
    """What can be retried."""

    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


_CANCEL = Act("cancel", "cancelled", SERVICE.cancel_tasks, SERVICE.cancel_task, Unfinished)
_RETRY = Act("retry", "retried", SERVICE.retry_tasks, SERVICE.retry_task, Unsuccessful)

OfUnfinished = Annotated[
    Unfinished | None, typer.Option("--status", case_sensitive=False, help="Only those.")
]
OfUnsuccessful = Annotated[
    Unsuccessful | None, typer.Option("--status", case_sensitive=False, help="Only those.")
]


def cancel(
    task_ids: TaskIds = None,
    status: OfUnfinished = None,
    queue: OfQueue = None,
    definition: OfDefinition = None,
    schedule: OfSchedule = None,
    trace: OfTrace = None,
    error_like: ErrorLike = None,
    after: After = None,
    before: Before = None,
    reason: Reason = None,
    limit: Most = MOST,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Cancel unfinished tasks; --after and --before say when they were made."""
    filters = {
        "status": status and status.value,
        "queue": queue,
        "definition": definition,
        "schedule": schedule,
        "trace_id": trace,
        "error_like": error_like,
        "after": after,
        "before": before,
    }
    how = How(limit, dry_run, yes, as_json, database_url)
    act_on(_CANCEL, task_ids or [], filters, {"reason": reason}, how)


def retry(
    task_ids: TaskIds = None,
    status: OfUnsuccessful = None,
    queue: OfQueue = None,
    definition: OfDefinition = None,
    schedule: OfSchedule = None,
    trace: OfTrace = None,
    error_like: ErrorLike = None,
    after: After = None,
    before: Before = None,
    limit: Most = MOST,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Run FAILED or CANCELLED tasks again; --after and --before say when they ended."""
    filters = {
        "status": status and status.value,
        "queue": queue,
        "definition": definition,
        "schedule": schedule,
        "trace_id": trace,
        "error_like": error_like,
        "after": after,
        "before": before,
    }
    how = How(limit, dry_run, yes, as_json, database_url)
    act_on(_RETRY, task_ids or [], filters, {}, how)
