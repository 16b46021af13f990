"""Schedules as people see them, and what became of their instants: frozen rows."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal, NamedTuple
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from pgsched.models import Json, TaskStatus


class ScheduleState(StrEnum):
    """Whether a schedule fires, and why not."""

    ACTIVE = "ACTIVE"
    PAUSED = "PAUSED"  # until somebody resumes it, or until paused_until
    BROKEN = "BROKEN"  # error_msg says what could not be read
    ENDED = "ENDED"  # by ends_at or max_runs


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class Schedule(_Row):
    """One row of the view `schedule_status`; the comments on the table's columns explain each."""

    id: UUID
    name: str
    state: ScheduleState
    definition_id: UUID
    definition_name: str
    cron_expr: str | None
    every: timedelta | None
    timezone: str | None
    next_run_at: datetime | None
    last_run_at: datetime | None
    last_task_id: UUID | None
    last_task_status: TaskStatus | None
    run_count: int
    idle_count: int
    last_outcome: str | None
    last_fire_at: datetime | None
    last_reason: str | None
    paused_at: datetime | None
    paused_until: datetime | None
    pause_note: str | None
    ended_at: datetime | None
    error_msg: str | None
    overlap_policy: str
    misfire_policy: str
    misfire_grace: timedelta
    jitter: timedelta
    starts_at: datetime | None
    ends_at: datetime | None
    max_runs: int | None
    input_params: Json
    schedule_config: Json
    queue: str
    priority: int
    trace_id: UUID | None
    is_own: bool
    created_by: str
    created_at: datetime
    changed_at: datetime
    tz_version: str | None


class ScheduleFire(_Row):
    """What became of one instant, or of `folded_count` of them up to `folded_until`."""

    scheduled_time: datetime
    outcome: Literal["RUN", "SKIPPED", "MISSED"]
    reason: str | None
    task_id: UUID | None
    folded_until: datetime | None
    folded_count: int


class ScheduleChange(_Row):
    """Who changed a schedule when, from what to what."""

    at: datetime
    change: str
    changed_by: str
    old_values: Json
    new_values: Json


class Backfill(_Row):
    """A request to run a schedule for time that has passed, and how far it is."""

    id: UUID
    schedule_id: UUID
    from_time: datetime
    to_time: datetime
    max_instants: int
    status: Literal["WAITING", "DONE", "REFUSED"]
    instant_count: int
    run_count: int
    error_msg: str | None
    created_by: str
    created_at: datetime
    finished_at: datetime | None


class BackfillPreview(NamedTuple):
    """What a backfill of a range would come to."""

    instant_count: int  # in the range
    run_count: int  # of these, have run already
    first: datetime | None
    last: datetime | None
