"""What several endpoints take beside a body."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Header, Query

from pgsched.errors import Invalid

Limit = Annotated[int, Query(ge=1, le=1000)]
# Of runs to come.
Count = Annotated[int, Query(ge=1, le=100)]
# The same request again, with the same key, gives the same task.
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255)]


def add_key(given: dict[str, Any], header: str | None) -> None:
    """
    Let the header Idempotency-Key stand for the field of the body.

    Raises:
        Invalid: Both are there, and differ.
    """
    if header and given.setdefault("idempotency_key", header) != header:
        raise Invalid("idempotency_key: the body and the header Idempotency-Key differ")
