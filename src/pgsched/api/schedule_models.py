"""The bodies and answers of the endpoints of schedules."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field

from pgsched.api.models import Body, Flag, Pause
from pgsched.arguments import (
    YEAR,
    Instants,
    Key,
    Misfire,
    Object,
    Overlap,
    Priority,
    Runs,
    Text,
    Time,
)
from pgsched.schedules import ScheduleState

Every = Annotated[float, Field(strict=True, ge=1, le=YEAR.total_seconds())]


class ScheduleBody(Body):
    """A schedule; one of the same name is replaced, and what is left out takes its default."""

    definition: Text
    cron_expression: Text | None = None
    every_seconds: Every | None = None
    timezone: Text | None = None
    name: Text | None = None
    input_params: Object | None = None
    priority: Priority | None = None
    queue: Text | None = None
    schedule_config: Object | None = None
    overlap_policy: Overlap | None = None
    misfire_policy: Misfire | None = None
    misfire_grace_seconds: Every | None = None
    jitter_seconds: Pause | None = None
    starts_at: Time | None = None
    ends_at: Time | None = None
    max_runs: Runs | None = None
    trace_id: UUID | None = None


class TimeBody(Body):
    """When a schedule runs; what is left out stays as it is."""

    cron_expression: Text | None = None
    every_seconds: Every | None = None
    timezone: Text | None = None


class PauseBody(Body):
    """Why, for the next reader, and until when; without a time, until somebody resumes it."""

    note: Text | None = None
    until: Time | None = None


class TriggerBody(Body):
    """Laid over the input_params of the schedule, key by key."""

    input_params: Object | None = None
    idempotency_key: Key | None = None


class BackfillBody(Body):
    """A range of time that has passed, both ends included; with `preview` it is only counted."""

    from_time: Time = Field(alias="from")
    to_time: Time = Field(alias="to")
    max_instants: Instants = 1000
    preview: Flag = False


class ScheduleId(BaseModel):
    schedule_id: UUID


class ScheduleNow(BaseModel):
    """Whether a schedule fires now."""

    schedule_id: UUID
    state: ScheduleState


class DeletedSchedule(BaseModel):
    """What a deletion has taken along: the tasks of the schedule that nobody had claimed."""

    schedule_id: UUID
    cancelled_tasks: int


class BackfillId(BaseModel):
    backfill_id: UUID


class BackfillCounts(BaseModel):
    """What a backfill would come to: the instants of the range, and those of them to run."""

    instant_count: int
    run_count: int = Field(description="Of these, have run already.")
    to_run: int
    first: datetime | None
    last: datetime | None


class NextRun(BaseModel):
    """An instant, and when the schedule fires for it: later by the schedule's own jitter."""

    at: datetime
    fires_at: datetime
    local: datetime = Field(description="The instant by the clocks of the schedule's zone.")
    note: str | None = Field(description="What a change of the clocks does to it.")


class NextRuns(BaseModel):
    """The next runs of a schedule; none unless it is active, or paused until a given time."""

    state: ScheduleState
    next: list[NextRun]


class CronRun(BaseModel):
    """A run of a cron expression."""

    at: datetime
    local: datetime = Field(description="The same by the clocks of the zone.")
    note: str | None = Field(description="What a change of the clocks does to it.")


class CronRuns(BaseModel):
    next: list[CronRun]


class CronExplanation(BaseModel):
    explanation: str
