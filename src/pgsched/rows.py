"""Rows that people read beside tasks: events, links, status pushes, workers, what ended lately."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from pgsched.queues import QueueStatus


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True, extra="ignore")


class TaskEvent(_Row):
    """One row of `task_events`."""

    id: UUID
    at: datetime
    task_id: UUID
    event: str
    attempt: int | None
    delivery_count: int | None
    message: str | None
    response_time: timedelta | None
    created_by: str


class TaskLink(_Row):
    """A task that another one has to do with."""

    id: UUID
    status: str
    definition_name: str | None
    round_index: int
    scheduled_time: datetime
    finished_at: datetime | None
    error_msg: str | None


class StatusPush(_Row):
    """One row of `status_pushes`, with the names of what its ids mean."""

    sequence: int
    task_id: UUID
    queue: str
    external_system: str | None
    definition_name: str | None
    status: str
    attempt: int
    error_msg: str | None
    created_at: datetime
    due_at: datetime | None
    worker_id: UUID | None
    push_count: int
    last_error: str | None
    given_up_at: datetime | None


class WorkerStatus(_Row):
    """One row of `worker_status`."""

    id: UUID
    state: Literal["ALIVE", "LOST"]
    hostname: str
    pid: int
    version: str
    queues: list[str] | None
    started_at: datetime
    lease_since: datetime
    lease_expires_at: datetime
    held_count: int

    @property
    def is_alive(self) -> bool:
        """Whether its lease holds."""
        return self.state == "ALIVE"


class QueueDetails(QueueStatus):
    """A queue, and what `queue_stats` does not say of it."""

    burst: int | None
    pause_note: str | None
    resumed_at: datetime | None


class QueueEnds(_Row):
    """What ended in one queue in the *seconds* before now."""

    queue: str
    done_count: int
    failed_count: int
    cancelled_count: int
    seconds: float


class StartLatency(_Row):
    """How long tasks waited from when they were due until they were accepted; in seconds."""

    p50_seconds: float | None
    p99_seconds: float | None
    task_count: int


class FailureKind(_Row):
    """Tasks of one definition that FAILED alike; ids and long numbers in the error are left out."""

    definition_name: str | None
    queue: str
    error: str
    failed_count: int
    latest_at: datetime


class StuckTask(_Row):
    """One row of `stuck_tasks`."""

    id: UUID
    status: str
    queue: str
    definition_name: str | None
    since: datetime
    stuck_for: timedelta
    reason: str
    attempt: int
    retry_count: int
    worker_id: UUID | None
    error_msg: str | None


class RecentFailure(_Row):
    """One row of `recent_failures`."""

    fingerprint: str
    definition_name: str | None
    queue: str
    failed_count: int
    retrying_count: int
    first_at: datetime
    last_at: datetime
    last_task_id: UUID
    last_error: str | None
