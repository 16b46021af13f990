"""The bodies and answers of the endpoints of queues, external systems and many tasks."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field

from pgsched.api.models import Body, Flag
from pgsched.arguments import Text, Time
from pgsched.choices import (
    LONGEST_DELIVERY,
    LONGEST_REQUEST,
    SHORTEST_REQUEST,
    BatchSize,
    BulkLimit,
    Burst,
    CancelledStatus,
    CompletionName,
    ErrorPattern,
    InFlight,
    PushedStatus,
    QueueName,
    Rate,
    Requests,
    RetriedStatus,
    Url,
)
from pgsched.queues import BreakerState

RequestTimeout = Annotated[
    float,
    Field(strict=True, ge=SHORTEST_REQUEST.total_seconds(), le=LONGEST_REQUEST.total_seconds()),
]
DeliveryTimeout = Annotated[float, Field(strict=True, gt=0, le=LONGEST_DELIVERY.total_seconds())]


class SystemBody(Body):
    """An external system; what is left out takes its default, also when it exists."""

    name: Text
    base_url: Url | None = None
    api_key_env: Text | None = Field(None, description="The name of a variable, never the key.")
    signing_secret_env: Text | None = Field(None, description="The name of a variable as well.")
    completion: CompletionName | None = None
    request_timeout_seconds: RequestTimeout | None = None
    delivery_timeout_seconds: DeliveryTimeout | None = None
    batch_size: BatchSize | None = None
    max_in_flight: Requests | None = None
    push_statuses: list[PushedStatus] | None = None


class QueueBody(Body):
    """A queue; a limit that is left out is none, also when the queue exists."""

    name: QueueName
    external_system: Text = "default"
    max_in_flight: InFlight | None = None
    rate_per_second: Rate | None = None
    burst: Burst | None = None


class NoteBody(Body):
    """Why, for the next reader."""

    note: Text | None = None


class ReasonBody(Body):
    """Why, for the next reader."""

    reason: Text | None = None


class FilterBody(Body):
    """What the tasks have in common; at least one of the first eight is needed."""

    definition: Text | None = None
    queue: Text | None = None
    schedule: Text | None = None
    trace_id: UUID | None = None
    error_like: ErrorPattern | None = None
    after: Time | None = None
    before: Time | None = None
    limit: BulkLimit = 1000
    preview: Flag = False

    def arguments(self) -> dict[str, Any]:
        given = super().arguments()
        given["is_preview"] = given.pop("preview")
        return given


class RetryBody(FilterBody):
    """Which tasks to retry; `after` and `before` say when they finished."""

    status: RetriedStatus | None = None


class CancelManyBody(FilterBody):
    """Which tasks to cancel; `after` and `before` say when they were made."""

    status: CancelledStatus | None = None
    reason: Text | None = None


class SystemName(BaseModel):
    external_system: str


class QueueId(BaseModel):
    queue: str


class QueueState(BaseModel):
    """Whether tasks are claimed from a queue, as far as its pause goes."""

    queue: str
    is_paused: bool


class Breaker(BaseModel):
    """Whether tasks are claimed for an external system."""

    external_system: str
    breaker: BreakerState
    open_until: datetime | None = Field(description="From then on, one task at a time.")


class BulkCounts(BaseModel):
    """What came of it; of a preview, `matched` alone, which stops at 100,000."""

    matched: int
    done: int
    refused: int
