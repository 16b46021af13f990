"""What may be said of a task, a definition, a schedule and their like, as keywords."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Required, TypedDict
from uuid import UUID

from pgsched.models import Json


class RunOptions(TypedDict, total=False):
    """What may be said of every task, also of one in a list."""

    trace_id: UUID | str | None
    priority: int | None
    queue: str | None
    idempotency_key: str | None
    schedule_config: dict[str, Json] | None


class TaskOptions(RunOptions, total=False):
    """
    What every way to schedule a single task takes.

    depends_on: Ids of tasks that exist; it is due when all of them are SUCCESS.
    """

    depends_on: list[UUID | str] | list[UUID] | list[str] | None


class NewTask(RunOptions, total=False):
    """
    One task of a list.

    definition: A name or an id.
    delay: From now, 0 to 36525 days; without it and scheduled_time, now.
    scheduled_time: With a zone; one in the past is due now.
    """

    definition: Required[str | UUID]
    input_params: dict[str, Json] | None
    delay: timedelta | None
    scheduled_time: datetime | None


class DeliveryOptions(TypedDict, total=False):
    """What a definition says about the way of its tasks."""

    queue: str | None
    priority: int | None
    max_retries: int | None
    retry_delay: timedelta | None
    retry_backoff: str | None
    timeout: timedelta | None
    on_dependency_failure: str | None


class DefinitionOptions(DeliveryOptions, total=False):
    """What a definition may say; the comments on the table's columns explain each."""

    schedule_type: str | None
    cron_expr: str | None
    schedule_config: dict[str, Json] | None
    loop_config: dict[str, Json] | None
    input_params: dict[str, Json] | None
    is_temporary: bool | None


class PolicyOptions(TypedDict, total=False):
    """
    How a schedule fires, and when it begins and ends.

    overlap_policy: skip (default), queue_one or allow, while its latest run is unfinished.
    misfire_policy: latest (default), all (the latest 100) or none of the instants that
        an outage made late by more than misfire_grace (1 s to 366 days, default 60 s).
    jitter: It fires up to so long after its instants, always as long; 0 to 24 h.
    starts_at, ends_at: The first and the last instant that count, both included.
    max_runs: It ends after so many.
    """

    overlap_policy: str | None
    misfire_policy: str | None
    misfire_grace: timedelta | None
    jitter: timedelta | None
    starts_at: datetime | None
    ends_at: datetime | None
    max_runs: int | None


class ScheduleOptions(PolicyOptions, total=False):
    """
    What a schedule may say.

    name: Unique, the definition's by default; a schedule of that name is replaced.
    trace_id: The trace of all its runs; without one, each begins its own.
    """

    name: str | None
    priority: int | None
    queue: str | None
    schedule_config: dict[str, Json] | None
    trace_id: UUID | str | None


class SystemOptions(TypedDict, total=False):
    """
    What an external system may say; the comments on the table's columns explain each.

    api_key_env, signing_secret_env: Names of environment variables of the worker.
    completion: callback (default) or response.
    request_timeout: 100 ms to 10 min, default 30 s.
    delivery_timeout: Up to 10 years, default 24 h.
    batch_size: Tasks in one request, 1 (default) to 1000.
    max_in_flight: Requests of one worker at a time, 1 to 1000; default: its push_slots.
    push_statuses: Any of PENDING, SCHEDULED, FAILED and CANCELLED, of which it is told.
    """

    api_key_env: str | None
    completion: str | None
    request_timeout: timedelta | None
    delivery_timeout: timedelta | None
    signing_secret_env: str | None
    batch_size: int | None
    max_in_flight: int | None
    push_statuses: list[str] | None


class TaskFilter(TypedDict, total=False):
    """
    What many tasks have in common; at least one is needed.

    definition, schedule: A name or an id.
    error_like: A pattern of LIKE, for the latest error.
    after, before: From then on, and earlier than that.
    """

    definition: str | UUID | None
    queue: str | None
    schedule: str | UUID | None
    trace_id: UUID | str | None
    status: str | None
    error_like: str | None
    after: datetime | None
    before: datetime | None
