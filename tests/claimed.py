"""A task as a worker holds it, for tests of what a worker does with it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from pgsched.models import ClaimedTask

AT = datetime(2026, 11, 23, 18, 0, tzinfo=UTC)


def claimed(n: int = 1, **given: Any) -> ClaimedTask:
    """The *n*-th task, with what the test says of it."""
    task = ClaimedTask(
        id=str(UUID(int=n)),
        attempt=1,
        delivery_count=1,
        sequence=1,
        queue="default",
        hold_seconds=60,
        priority=0,
        execute_after=AT,
        scheduled_time=AT,
        definition_id=str(UUID(int=1000)),
        definition_name="job",
        content=orjson.Fragment(b'{"kind": "mail"}'),
        trace_id=str(UUID(int=2000)),
        schedule_id=None,
        input_params=orjson.Fragment(b"{}"),
        schedule_config=orjson.Fragment(b"{}"),
        round_index=0,
        retry_count=0,
    )
    return task._replace(**given)
