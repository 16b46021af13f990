"""Queues and external systems as people see them, and what acts on many tasks came to."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from pydantic import BaseModel, ConfigDict


class BreakerState(StrEnum):
    """Whether tasks are claimed for an external system."""

    CLOSED = "closed"
    OPEN = "open"  # none; from open_until on, one as a probe
    PROBING = "probing"  # that one is under way


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True, extra="ignore")


class SystemStatus(_Row):
    """One row of `external_systems`, and how its breaker is; keys are only named."""

    name: str
    base_url: str | None
    api_key_env: str | None
    signing_secret_env: str | None
    completion: str
    request_timeout: timedelta
    delivery_timeout: timedelta
    batch_size: int
    max_in_flight: int | None
    push_statuses: list[str] | None
    breaker: BreakerState
    open_until: datetime | None
    open_reason: str | None
    open_count: int
    opened_at: datetime | None
    closed_at: datetime | None
    probe_by: UUID | None
    probe_until: datetime | None


class QueueStatus(_Row):
    """One row of the view `queue_stats`; counts stop at 10,000."""

    queue: str
    external_system: str
    is_paused: bool
    breaker: BreakerState
    open_until: datetime | None
    open_reason: str | None
    max_in_flight: int | None
    rate_per_second: float | None
    is_ramping: bool
    due_count: int
    oldest_due_since: datetime | None
    later_count: int
    waiting_count: int
    scheduled_count: int
    dispatched_count: int
    running_count: int
    in_flight_count: int


class BulkResult(NamedTuple):
    """What a retry or a cancellation of many tasks came to."""

    matched: int  # were looked at; of a preview, how many there are, up to 100,000
    done: int
    refused: int  # locked by another session, or not possible
