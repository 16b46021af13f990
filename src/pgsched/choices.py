"""The arguments of what operators do to queues, external systems and many tasks, as checked."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from pgsched.arguments import DAY, SECOND, ZERO, Id, Text, Time, plain_id


def plain_text(value: object) -> object:
    """A member of an enum as the text that it is; anything else as it is."""
    return str(value) if isinstance(value, str) else value


def escaping_something(pattern: str) -> str:
    """*pattern*, or a ValueError when its last character escapes what does not follow."""
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        raise ValueError("must not end with a single backslash, which escapes what follows it")
    return pattern


# Without a user or a password: keys are in the environment of the workers.
Url = Annotated[Text, Field(pattern=r"^https?://[^\s@/?#]+([/?#]\S*)?$")]
CompletionName = Annotated[Literal["callback", "response"], BeforeValidator(plain_text)]
PushedStatus = Annotated[
    Literal["PENDING", "SCHEDULED", "FAILED", "CANCELLED"], BeforeValidator(plain_text)
]
BatchSize = Annotated[int, Field(strict=True, ge=1, le=1000)]
Requests = Annotated[int, Field(strict=True, ge=1, le=1000)]
SHORTEST_REQUEST, LONGEST_REQUEST = SECOND / 10, 600 * SECOND
LONGEST_DELIVERY = 3650 * DAY

QueueName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,100}$")]
InFlight = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
Rate = Annotated[float, Field(strict=True, ge=0.0001, le=1_000_000)]
Burst = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]

RetriedStatus = Annotated[Literal["FAILED", "CANCELLED"], BeforeValidator(plain_text)]
CancelledStatus = Annotated[
    Literal["PENDING", "SCHEDULED", "DISPATCHED", "RUNNING"], BeforeValidator(plain_text)
]
ErrorPattern = Annotated[Text, AfterValidator(escaping_something)]
BulkLimit = Annotated[int, Field(strict=True, ge=1, le=10_000)]


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class SystemArguments(_Arguments):
    """Of define_external_system()."""

    name: Text
    base_url: Url | None = None
    api_key_env: Text | None = None
    completion: CompletionName | None = None
    request_timeout: Annotated[timedelta, Field(ge=SHORTEST_REQUEST, le=LONGEST_REQUEST)] | None = (
        None
    )
    delivery_timeout: Annotated[timedelta, Field(gt=ZERO, le=LONGEST_DELIVERY)] | None = None
    signing_secret_env: Text | None = None
    batch_size: BatchSize | None = None
    max_in_flight: Requests | None = None
    push_statuses: list[PushedStatus] | None = None


class QueueArguments(_Arguments):
    """Of define_queue()."""

    name: QueueName
    external_system: Text
    max_in_flight: InFlight | None = None
    rate_per_second: Rate | None = None
    burst: Burst | None = None


class PauseArguments(_Arguments):
    """Of pause_queue() and resume_queue()."""

    queue: Text
    note: Text | None = None


class BreakerArguments(_Arguments):
    """Of open_breaker() and close_breaker()."""

    external_system: Text
    reason: Text | None = None


class _FilterArguments(_Arguments):
    definition: Annotated[Text, BeforeValidator(plain_id)] | None = None
    queue: Text | None = None
    schedule: Annotated[Text, BeforeValidator(plain_id)] | None = None
    trace_id: Id | None = None
    error_like: ErrorPattern | None = None
    after: Time | None = None
    before: Time | None = None
    limit: BulkLimit
    is_preview: bool

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.after is not None and self.before is not None and self.after >= self.before:
            raise ValueError(f"after: {self.after} must be earlier than before, {self.before}")
        return self


class RetryArguments(_FilterArguments):
    """Of retry_tasks()."""

    status: RetriedStatus | None = None


class CancelArguments(_FilterArguments):
    """Of cancel_tasks()."""

    status: CancelledStatus | None = None
    reason: Text | None = None
