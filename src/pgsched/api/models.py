"""The bodies of requests and the shapes of answers; they are the OpenAPI document."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from pgsched.arguments import (
    CENTURY,
    DAY,
    YEAR,
    Backoff,
    DependencyFailure,
    Key,
    Name,
    Object,
    Priority,
    Retries,
    Rounds,
    Text,
    Time,
)
from pgsched.models import ScheduleType

# A number in a body is a number, and no text that looks like one.
Flag = Annotated[bool, Field(strict=True)]
Delay = Annotated[float, Field(strict=True, ge=0, le=CENTURY.total_seconds())]
Interval = Annotated[float, Field(strict=True, ge=0, le=YEAR.total_seconds())]
Pause = Annotated[float, Field(strict=True, ge=0, le=DAY.total_seconds())]
Timeout = Annotated[float, Field(strict=True, gt=0, le=CENTURY.total_seconds())]


class Body(BaseModel):
    """The body of a request; a field nobody knows is refused."""

    model_config = ConfigDict(extra="forbid")

    def arguments(self) -> dict[str, Any]:
        """What was given, by the names of Python: x_seconds is a timedelta x there."""
        given: dict[str, Any] = {}
        for name, value in self:
            if value is not None and name.endswith("_seconds"):
                given[name.removesuffix("_seconds")] = timedelta(seconds=value)
            elif value is not None:
                given[name] = value
        return given


class DefinitionBody(Body):
    """What can be run; what is left out takes its default, also when the definition exists."""

    name: Name
    content: Object | None = None
    queue: Text | None = None
    priority: Priority | None = None
    max_retries: Retries | None = None
    retry_delay_seconds: Pause | None = None
    retry_backoff: Backoff | None = None
    timeout_seconds: Timeout | None = None
    on_dependency_failure: DependencyFailure | None = None
    schedule_type: ScheduleType | None = None
    cron_expr: Text | None = None
    schedule_config: Object | None = None
    loop_config: Object | None = None
    input_params: Object | None = None


class TaskBody(Body):
    """A task, or the first round of a loop."""

    definition: Text
    schedule_type: Literal["IMMEDIATE", "DELAYED", "LOOP", "INTERVAL_LOOP", "LOOP_ONCE"] = (
        "IMMEDIATE"
    )
    delay_seconds: Delay | None = None
    scheduled_time: Time | None = None
    max_rounds: Rounds | None = None
    loop_interval_seconds: Interval | None = None
    input_params: Object | None = None
    trace_id: UUID | None = None
    priority: Priority | None = None
    queue: Text | None = None
    idempotency_key: Key | None = None
    depends_on: list[UUID] | None = None
    schedule_config: Object | None = None


class NewTaskBody(Body):
    """One task of a list."""

    definition: Text
    delay_seconds: Delay | None = None
    scheduled_time: Time | None = None
    input_params: Object | None = None
    trace_id: UUID | None = None
    priority: Priority | None = None
    queue: Text | None = None
    idempotency_key: Key | None = None
    schedule_config: Object | None = None


class TasksBody(Body):
    """Tasks that are scheduled all together, or not at all."""

    tasks: Annotated[list[NewTaskBody], Field(max_length=100_000)]


class CancelBody(Body):
    """Why, for the next reader."""

    reason: Text | None = None


class UpcomingThing(BaseModel):
    """A task or a schedule that comes due."""

    at: datetime
    kind: Literal["task", "schedule"]
    id: UUID
    name: str | None
    queue: str
    priority: int


class Upcoming(BaseModel):
    upcoming: list[UpcomingThing]


class Health(BaseModel):
    status: str


class DefinitionId(BaseModel):
    definition_id: UUID


class TaskId(BaseModel):
    task_id: UUID


class TaskIds(BaseModel):
    """In the order of the tasks."""

    task_ids: list[UUID]


class TaskState(BaseModel):
    """Where a task stands now."""

    task_id: UUID
    status: str


class Explanation(BaseModel):
    """Why a task runs or does not, a sentence a line."""

    task_id: UUID
    explanation: str


class LastRound(BaseModel):
    """The round that ends the loop; null when it had ended."""

    task_id: UUID
    last_round_id: UUID | None


class ReportResult(BaseModel):
    """What one report of a list came to; code and message only of one that was refused."""

    task_id: str | None
    status: str | None
    code: str | None = None
    message: str | None = None


class ReportResults(BaseModel):
    results: list[ReportResult]


class Problem(BaseModel):
    """Every error."""

    code: str
    message: str


# What any endpoint may answer.
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (403, 404, 408, 409, 413, 422, 503)
}
