"""The words of pgsched as Python types: enums, and frozen rows."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from pgsched.storing import storable, without_nul

# What jsonb holds.
Json = Any


class ScheduleType(StrEnum):
    """When, and how often, a task is meant to run."""

    IMMEDIATE = "IMMEDIATE"  # now
    DELAYED = "DELAYED"  # once, later
    CRON = "CRON"  # made by a schedule
    LOOP = "LOOP"  # round after round
    INTERVAL_LOOP = "INTERVAL_LOOP"  # round after round, spaced
    LOOP_ONCE = "LOOP_ONCE"  # one round of a loop, on demand


class TaskStatus(StrEnum):
    """Where a task stands; `docs/state_machine.md` draws the arrows."""

    PENDING = "PENDING"  # waits until it is due
    SCHEDULED = "SCHEDULED"  # claimed by a worker, on its way out
    DISPATCHED = "DISPATCHED"  # accepted by the external system
    RUNNING = "RUNNING"  # reported as under way
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class Completion(StrEnum):
    """When a push to an external system counts as the task's end."""

    CALLBACK = "callback"  # accepted now, reported later
    RESPONSE = "response"  # a 2xx is SUCCESS


class ClaimedTask(NamedTuple):
    """
    A task as a worker holds it, in the column order of `claim_due_tasks()`.

    `attempt` names the execution and fences reports; `delivery_count` names
    this delivery and fences the worker's settle.  `hold_seconds` is how long
    the worker may keep it before it is given to another.  `is_probe` says that
    the breaker of its external system is open, and waits for how this one goes.
    Ids are text and the jsonb columns JSON that was never parsed: both are only
    passed on.
    """

    id: str
    attempt: int
    delivery_count: int
    sequence: int
    queue: str
    hold_seconds: float
    priority: int
    execute_after: datetime
    scheduled_time: datetime
    definition_id: str
    definition_name: str
    content: Json
    trace_id: str
    schedule_id: str | None
    input_params: Json
    schedule_config: Json
    round_index: int
    retry_count: int
    is_probe: bool = False


class ExternalSystem(NamedTuple):
    """One row of `external_systems`, with the environment already read."""

    name: str
    base_url: str
    api_key: str | None
    completion: Completion
    request_timeout: timedelta
    secrets: tuple[bytes, ...] = ()  # to sign with; none: unsigned
    batch_size: int = 1  # tasks in one request at most
    max_in_flight: int | None = None  # requests at a time; None: the worker's push_slots
    is_open: bool = False  # its breaker: only probes are pushed

    def is_like(self, other: ExternalSystem) -> bool:
        """Whether both are reached, and take tasks, in the same way."""
        return self._replace(is_open=other.is_open) == other


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class TaskDefinition(_Row):
    """What can be run."""

    id: UUID
    name: str
    content: Json
    queue: str
    schedule_type: ScheduleType
    cron_expr: str | None
    schedule_config: Json
    loop_config: Json
    input_params: Json
    priority: int
    max_retries: int
    retry_delay: timedelta
    retry_backoff: str
    timeout: timedelta
    on_dependency_failure: str
    is_active: bool
    is_temporary: bool
    created_at: datetime
    updated_at: datetime


class ScheduledTask(_Row):
    """A task: unfinished, or (with `finished_at`) its record."""

    id: UUID
    definition_id: UUID
    definition_name: str | None = None
    schedule_id: UUID | None
    trace_id: UUID
    queue: str
    status: TaskStatus
    schedule_type: ScheduleType
    scheduled_time: datetime
    execute_after: datetime
    priority: int
    round_index: int
    input_params: Json
    schedule_config: Json
    depends_on: list[UUID] | None = None
    pending_dependencies: int
    on_dependency_failure: str | None = None
    loop_id: UUID | None
    next_task_id: UUID | None
    max_retries: int
    retry_count: int
    attempt: int
    lapsed_attempt: int | None
    delivery_count: int
    lost_count: int
    undelivered_since: datetime | None
    worker_id: UUID | None
    started_at: datetime | None
    dispatched_at: datetime | None
    deadline_at: datetime | None
    cancelled_at: datetime | None
    progress: Json
    error_msg: str | None
    output_ref: str | None
    created_by: str
    created_at: datetime
    finished_at: datetime | None = None
    external_status_pushed: bool


class TaskInstance(ScheduledTask):
    """The record of a finished task."""

    finished_at: datetime


class Target(NamedTuple):
    """A queue and where it leads; see `dispatch_targets()`."""

    queue: str
    external_system: str
    base_url: str | None
    api_key_env: str | None
    signing_secret_env: str | None
    completion: str
    request_timeout: timedelta
    batch_size: int
    max_in_flight: int | None
    is_open: bool
    is_limited: bool
    is_paused: bool


class ReportAnswer(NamedTuple):
    """What one report came to: the task's status now, or a code and why."""

    report_index: int
    task_id: str
    status: str | None
    code: str | None
    message: str | None


class StatusReport(BaseModel):
    """
    What an executor says about a task; `attempt` None is the current one.

    Only the shape is checked here.  What is too long, too late or unheard of
    is the database's to refuse, which leaves an event of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task_id: UUID
    status: Literal["RUNNING", "SUCCESS", "FAILED", "CANCELLED"]
    attempt: int | None = Field(None, ge=1, le=2**31 - 1)
    output_ref: str | None = None
    error_msg: str | None = None
    progress: Annotated[Json, AfterValidator(storable)] = None
    next_input: Annotated[dict[str, Json] | None, AfterValidator(storable)] = None
    stop_loop: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _strip(cls, given: Any) -> Any:
        return without_nul(given)
