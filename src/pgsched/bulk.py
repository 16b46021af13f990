"""
Lists of new tasks: checked, encoded, and cut into calls of a bounded size.

A list may have 100,000 of them, so what is done for each is done by pydantic
and orjson, and Python looks only at what these two let pass.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Required

import orjson
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    with_config,
)

# pydantic reads no other before Python 3.12.
from typing_extensions import TypedDict

from pgsched import db
from pgsched.arguments import CENTURY, ZERO, Id, Priority, Time, explain, plain_id
from pgsched.db import Session
from pgsched.errors import Invalid, PgschedError
from pgsched.models import Json
from pgsched.options import NewTask
from pgsched.storing import storable

# Of one call.
MAX_TASKS = 10_000
MAX_BYTES = 16 * 2**20

# How NUL looks in JSON, and what orjson makes of NaN.
SUSPECT_NUL = b"\\u0000"
SUSPECT_NAN = b"null"

_Text = Annotated[str, Field(min_length=1)]


@with_config(ConfigDict(extra="forbid", strict=True))
class _Task(TypedDict, total=False):
    """NewTask, as it is checked and made ready for JSON."""

    definition: Required[Annotated[_Text, BeforeValidator(plain_id)]]
    input_params: dict[str, Json] | None
    delay: (
        Annotated[timedelta, Field(ge=ZERO, le=CENTURY), AfterValidator(timedelta.total_seconds)]
        | None
    )
    scheduled_time: Annotated[Time, AfterValidator(datetime.isoformat)] | None
    priority: Priority | None
    queue: _Text | None
    trace_id: Annotated[Id, AfterValidator(str)] | None
    idempotency_key: Annotated[_Text, Field(max_length=255)] | None
    schedule_config: dict[str, Json] | None


_LIST = TypeAdapter(list[Any])
_TASKS = TypeAdapter(list[_Task])


async def schedule_many(session: Session, tasks: Sequence[NewTask]) -> list[str]:
    """
    Schedule all of *tasks* or none; their ids in the order given.

    Raises:
        PgschedError: The message begins with the index and the field, as tasks[17].priority.
    """
    calls = list(encoded(tasks))  # so that no mistake of the last is found after the first call
    ids: list[str] = []
    async with db.together(session):
        for call in calls:
            try:
                ids += await db.schedule_many(session, call)
            except PgschedError as exc:
                raise _counted_from(len(ids), exc) from exc
    return ids


def encoded(tasks: Sequence[NewTask]) -> Iterator[bytes]:
    """
    JSON arrays of at most MAX_TASKS with at most MAX_BYTES, or of one task.

    Raises:
        Invalid: A task is wrong; the message begins with the first, as tasks[17].priority.
    """
    for first, given in _checked(tasks):
        with contextlib.suppress(TypeError):  # what orjson cannot is named, or done by another
            call = orjson.dumps(given)
            if len(call) <= MAX_BYTES and SUSPECT_NUL not in call and SUSPECT_NAN not in call:
                yield call
                continue
        for chunk in chunks(_encode(first + n, task) for n, task in enumerate(given)):
            yield b"[" + b",".join(chunk) + b"]"


def _checked(tasks: Sequence[NewTask]) -> Iterator[tuple[int, list[Any]]]:
    """The tasks of each call with the index of its first: what is made is soon gone again."""
    first = 0
    try:
        given = _LIST.validate_python(tasks)
        for first in range(0, len(given), MAX_TASKS):
            yield first, _TASKS.validate_python(given[first : first + MAX_TASKS])
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        if not error["loc"]:
            raise Invalid(f"tasks: {error['msg']}") from None
        dot = "." if error["loc"][1:] else ": "
        index = first + int(error["loc"][0])
        raise Invalid(f"tasks[{index}]{dot}{explain([error], skip=1)}") from None


def _encode(index: int, task: Any) -> bytes:
    try:
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
