"""What operators do to queues, external systems and many tasks, in the caller's transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Unpack

from pydantic import BaseModel

from pgsched import db
from pgsched.arguments import checked
from pgsched.choices import (
    BreakerArguments,
    CancelArguments,
    PauseArguments,
    QueueArguments,
    RetryArguments,
    SystemArguments,
)
from pgsched.db import Session
from pgsched.errors import Conflict, Invalid
from pgsched.options import SystemOptions, TaskFilter
from pgsched.queues import BulkResult

FILTERS = tuple(TaskFilter.__annotations__)


class OperatorControl:
    """
    The part of SchedulerService that is for operators; never commits.

    Raises:
        NotFound: The queue, external system, definition or schedule does not exist.
        Conflict: Not possible in the state things are in.
        Invalid: An argument is wrong; the message names it.
        Unavailable: The database cannot be reached.
    """

    async def define_external_system(
        self,
        session: Session,
        name: str,
        base_url: str | None = None,
        **options: Unpack[SystemOptions],
    ) -> None:
        """
        Create an external system, or change the one of that name; workers follow by themselves.

        What is left out takes its default, also when it exists.  Without a
        *base_url* it is the external_system_url of the workers.
        """
        given = {"name": name, "base_url": base_url, **options}
        await _call(session, "define_external_system", SystemArguments, given)

    async def define_queue(
        self,
        session: Session,
        name: str,
        external_system: str = "default",
        *,
        max_in_flight: int | None = None,
        rate_per_second: float | None = None,
        burst: int | None = None,
    ) -> None:
        """
        Create a queue, or change the one of that name; a limit that is None is none.

        *max_in_flight* of its tasks may be SCHEDULED, DISPATCHED or RUNNING at
        once, *rate_per_second* be claimed in a second, and *burst* at once after a lull.
        """
        if burst is not None and rate_per_second is None:
            raise Invalid("burst: is of a rate_per_second, and needs one")
        given = {
            "name": name,
            "external_system": external_system,
            "max_in_flight": max_in_flight,
            "rate_per_second": rate_per_second,
            "burst": burst,
        }
        await _call(session, "define_queue", QueueArguments, given)

    async def pause_queue(self, session: Session, queue: str, note: str | None = None) -> None:
        """Stop claiming from a queue; what is under way goes on."""
        await _call(session, "pause_queue", PauseArguments, {"queue": queue, "note": note})

    async def resume_queue(self, session: Session, queue: str) -> None:
        """Claim from a paused queue again; its rate ramps up for ten seconds."""
        await _call(session, "resume_queue", PauseArguments, {"queue": queue})

    async def open_breaker(
        self, session: Session, external_system: str, reason: str | None = None
    ) -> datetime:
        """
        Claim nothing for an external system but, after some seconds, a probe.

        Returns when that is.  A breaker that is open stays as it is.
        """
        given = {"external_system": external_system, "reason": reason}
        until: datetime | None = await _call(session, "open_breaker", BreakerArguments, given)
        if until is None:
            raise Conflict(f"external system {external_system!r} is locked by another session")
        return until

    async def close_breaker(self, session: Session, external_system: str) -> bool:
        """Claim for an external system again; returns whether its breaker was open."""
        given = {"external_system": external_system}
        return bool(await _call(session, "close_breaker", BreakerArguments, given))

    async def retry_tasks(
        self,
        session: Session,
        *,
        limit: int = 1000,
        is_preview: bool = False,
        **options: Unpack[TaskFilter],
    ) -> BulkResult:
        """
        Retry up to *limit* FAILED or CANCELLED tasks that have all of *options* in common.

        after and before say when they finished.  A preview only counts.
        """
        given = {"limit": limit, "is_preview": is_preview}
        return await _act(session, "retry_tasks", RetryArguments, options, given)

    async def cancel_tasks(
        self,
        session: Session,
        *,
        reason: str | None = None,
        limit: int = 1000,
        is_preview: bool = False,
        **options: Unpack[TaskFilter],
    ) -> BulkResult:
        """
        Cancel up to *limit* unfinished tasks that have all of *options* in common.

        after and before say when they were made.  A preview only counts.
        """
        given = {"reason": reason, "limit": limit, "is_preview": is_preview}
        return await _act(session, "cancel_tasks", CancelArguments, options, given)


async def _call(
    session: Session, function: str, kind: type[BaseModel], given: dict[str, Any]
) -> Any:
    return await db.call(session, function, **checked(given, kind))


async def _act(
    session: Session,
    function: str,
    kind: type[BaseModel],
    options: TaskFilter,
    given: dict[str, Any],
) -> BulkResult:
    if all(value is None for value in options.values()):
        raise Invalid(f"give at least one of {', '.join(FILTERS)}: all tasks are seldom meant")
    row = await db.call_row(session, function, **checked({**options, **given}, kind))
    return BulkResult(*row)
