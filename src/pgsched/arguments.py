"""
The arguments of the SQL functions, checked before a call.

A mistake that Postgres finds aborts the caller's transaction; one found here
does not, and is always named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from pgsched.errors import Invalid
from pgsched.models import Json, ScheduleType
from pgsched.storing import storable

# Beyond these Python cannot read what Postgres stores.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 1, 1, tzinfo=UTC)
CENTURY = timedelta(days=36525)
YEAR = timedelta(days=366)
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
ZERO = timedelta(0)


def plain_id(value: object) -> object:
    """An id as text; anything else as it is."""
    return str(value) if isinstance(value, UUID) else value


def no_number(value: object) -> object:
    """*value*, or a ValueError when it is a number, which would be taken for seconds since 1970."""
    is_no_date = isinstance(value, str) and not re.match(r"\d{4}-", value)
    if is_no_date or isinstance(value, int | float):
        raise ValueError("must be a time of ISO 8601 with its offset, as 2026-03-29T02:30:00+01:00")
    return value


Text = Annotated[str, Field(min_length=1), AfterValidator(storable)]
Name = Annotated[Text, Field(max_length=200)]
Key = Annotated[Text, Field(max_length=255)]
Id = Annotated[UUID, Field(strict=False)]
Object = Annotated[dict[str, Json], AfterValidator(storable)]
Priority = Annotated[int, Field(strict=True, ge=-9, le=9)]
Retries = Annotated[int, Field(strict=True, ge=0, le=100)]
Rounds = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
Runs = Annotated[int, Field(strict=True, ge=1, le=2**63 - 1)]
Instants = Annotated[int, Field(strict=True, ge=1, le=100_000)]
Backoff = Literal["fixed", "exponential"]
DependencyFailure = Literal["cancel", "run"]
Overlap = Literal["skip", "queue_one", "allow"]
Misfire = Literal["latest", "all", "none"]
Time = Annotated[AwareDatetime, Field(ge=EARLIEST, lt=LATEST), BeforeValidator(no_number)]


class Arguments(BaseModel):
    """Every argument there is, by its name in SQL without the p_."""

    model_config = ConfigDict(extra="forbid", strict=True)

    # A definition
    name: Name | None = None
    content: Object | None = None
    max_retries: Retries | None = None
    retry_delay: Annotated[timedelta, Field(ge=ZERO, le=DAY)] | None = None
    retry_backoff: Backoff | None = None
    timeout: Annotated[timedelta, Field(gt=ZERO, le=CENTURY)] | None = None
    schedule_type: Annotated[ScheduleType, Field(strict=False)] | None = None
    cron_expr: Text | None = None
    loop_config: Object | None = None
    is_temporary: bool | None = None
    on_dependency_failure: DependencyFailure | None = None

    # A task, or a schedule; what is not None here may be left out, but not be None
    definition: Annotated[Text, BeforeValidator(plain_id)] = ""
    input_params: Object | None = None
    schedule_config: Object | None = None
    trace_id: Id | None = None
    priority: Priority | None = None
    queue: Text | None = None
    idempotency_key: Key | None = None
    depends_on: Annotated[list[Id], AfterValidator(lambda ids: ids or None)] | None = None
    delay: Annotated[timedelta, Field(ge=ZERO, le=CENTURY)] | None = None
    scheduled_time: Time | None = None
    max_rounds: Rounds | None = None
    loop_interval: Annotated[timedelta, Field(ge=ZERO, le=YEAR)] | None = None

    # A schedule
    cron_expression: Text = ""
    timezone: Text = "UTC"
    every: Annotated[timedelta, Field(ge=SECOND, le=YEAR)] = SECOND
    overlap_policy: Overlap | None = None
    misfire_policy: Misfire | None = None
    misfire_grace: Annotated[timedelta, Field(ge=SECOND, le=YEAR)] | None = None
    jitter: Annotated[timedelta, Field(ge=ZERO, le=DAY)] | None = None
    starts_at: Time | None = None
    ends_at: Time | None = None
    max_runs: Runs | None = None

    # What is there already
    task_id: Id = UUID(int=0)
    reason: Text | None = None
    schedule: Annotated[Text, BeforeValidator(plain_id)] = ""
    note: Text | None = None
    until: Time | None = None
    from_time: Time = EARLIEST
    to_time: Time = EARLIEST
    max_instants: Instants = 1000


def checked(arguments: dict[str, Any], kind: type[BaseModel] = Arguments) -> dict[str, Any]:
    """
    The arguments that are not None, by their names in SQL.

    Raises:
        Invalid: One is wrong; the message names it.
    """
    try:
        given = kind(**arguments)
    except ValidationError as exc:
        raise Invalid(explain(exc.errors())) from None
    passed = given.model_fields_set
    return {f"p_{name}": value for name, value in given if name in passed and value is not None}


def explain(errors: Iterable[Any], skip: int = 0) -> str:
    """The first ten that pydantic found, each with its field but for the first *skip* parts."""
    return "; ".join(
        ": ".join(filter(None, (".".join(map(str, error["loc"][skip:])), error["msg"])))
        for error in islice(errors, 10)
    )
