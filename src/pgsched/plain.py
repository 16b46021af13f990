"""Rows as JSON has them, and the models of that."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, create_model


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
def shape_of(row: type[BaseModel]) -> type[BaseModel]:
    """The model of what `plain()` makes of such a row, for documents."""
    durations = _durations(row)
    fields: dict[str, Any] = {}
    for name, field in row.model_fields.items():
        if name in durations:
            is_optional = type(None) in get_args(field.annotation)
            fields[f"{name}_seconds"] = (float | None if is_optional else float, ...)
        else:
            fields[name] = (field.annotation, ...)
    return create_model(row.__name__, __doc__=row.__doc__, **fields)


def list_of(name: str, row: type[BaseModel], **more: Any) -> type[BaseModel]:
    """The model of an object that holds such rows under *name*, and *more* beside them."""
    fields: dict[str, Any] = {name: (list[shape_of(row)], ...)}  # type: ignore[misc]
    return create_model(f"ListOf{row.__name__}", **fields, **more)


@cache
def _durations(model: type[BaseModel]) -> frozenset[str]:
    return frozenset(
        name
        for name, field in model.model_fields.items()
        if timedelta in (field.annotation, *get_args(field.annotation))
    )
