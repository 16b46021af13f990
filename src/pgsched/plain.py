"""Rows as JSON has them."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel


def plain(row: BaseModel) -> dict[str, Any]:
    """The row; its durations are seconds, and say so in their names, also those that are null."""
    durations = _durations(type(row))
    return {
        f"{name}_seconds" if name in durations else name: (
            value.total_seconds() if isinstance(value, timedelta) else value
        )
        for name, value in row
    }


@cache
def _durations(model: type[BaseModel]) -> frozenset[str]:
    return frozenset(
        name
        for name, field in model.model_fields.items()
        if timedelta in (field.annotation, *get_args(field.annotation))
    )
