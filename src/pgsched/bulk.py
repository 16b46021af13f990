"""
Lists of new tasks: checked, encoded, and cut into calls of a bounded size.

A list may have 100,000 of them, so what is done for each is done by pydantic
and orjson, and Python looks only at what these two let pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Annotated, Any, Required

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config

# pydantic reads no other before Python 3.12.
from typing_extensions import TypedDict

from pgsched import db
from pgsched.arguments import CENTURY, ZERO, Id, Priority, Time, explain, plain_id, storable
from pgsched.db import Session
from pgsched.errors import Invalid, PgschedError
from pgsched.models import Json
from pgsched.options import NewTask

# Of one call.
MAX_TASKS = 10_000
MAX_BYTES = 16 * 2**20

# How NUL looks in JSON, and what orjson makes of NaN.
SUSPECT_NUL = b"\\u0000"
SUSPECT_NAN = b"null"

_Text = Annotated[str, Field(min_length=1)]


@with_config(ConfigDict(extra="forbid", strict=True))
class _Task(TypedDict, total=False):
    """NewTask, as it is checked."""

    definition: Required[Annotated[_Text, BeforeValidator(plain_id)]]
    input_params: dict[str, Json] | None
    delay: Annotated[timedelta, Field(ge=ZERO, le=CENTURY)] | None
    scheduled_time: Time | None
    priority: Priority | None
    queue: _Text | None
    trace_id: Id | None
    idempotency_key: Annotated[_Text, Field(max_length=255)] | None
    schedule_config: dict[str, Json] | None


_TASKS = TypeAdapter(list[_Task])


async def schedule_many(session: Session, tasks: Sequence[NewTask]) -> list[str]:
    """
    Schedule all of *tasks* or none; their ids in the order given.

    Raises:
        PgschedError: The message begins with the index and the field, as tasks[17].priority.
    """
    ids: list[str] = []
    async with db.together(session):
        for chunk in chunks(encoded(tasks)):
            try:
                ids += await db.schedule_many(session, b"[" + b",".join(chunk) + b"]")
            except PgschedError as exc:
                raise _counted_from(len(ids), exc) from exc
    return ids


def encoded(tasks: Sequence[NewTask]) -> list[bytes]:
    """
    Each task as JSON.

    Raises:
        Invalid: One is wrong; the message begins with the first, as tasks[17].priority.
    """
    try:
        given = _TASKS.validate_python(tasks)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        if not error["loc"]:
            raise Invalid(f"tasks: {error['msg']}") from None
        index = error["loc"][0]
        dot = "." if error["loc"][1:] else ": "
        raise Invalid(f"tasks[{index}]{dot}{explain([error], skip=1)}") from None
    return [_encode(index, task) for index, task in enumerate(given)]


def _encode(index: int, task: Any) -> bytes:
    try:
        if (delay := task.get("delay")) is not None:
            task["delay"] = delay.total_seconds()
        if (time := task.get("scheduled_time")) is not None:
            task["scheduled_time"] = time.isoformat()
        if (trace_id := task.get("trace_id")) is not None:
            task["trace_id"] = str(trace_id)
        item = db.dumps(task)
    except (Invalid, RecursionError) as exc:
        raise Invalid(f"tasks[{index}]: {exc}") from None
    if SUSPECT_NUL in item or SUSPECT_NAN in item:
        for field, value in task.items():
            try:
                storable(value)
            except ValueError as exc:
                raise Invalid(f"tasks[{index}].{field}: {exc}") from None
    return item


def chunks(items: Iterable[bytes]) -> Iterator[list[bytes]]:
    """*items* in their order, in lists of at most MAX_TASKS with at most MAX_BYTES, or of one."""
    chunk: list[bytes] = []
    size = 0
    for item in items:
        if chunk and (len(chunk) == MAX_TASKS or size + len(item) > MAX_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += len(item)
    if chunk:
        yield chunk


def _counted_from(first: int, exc: PgschedError) -> PgschedError:
    """The same error, its index that of the caller's whole list."""
    message = re.sub(r"^tasks\[(\d+)\]", lambda m: f"tasks[{first + int(m[1])}]", str(exc))
    return type(exc)(message)
