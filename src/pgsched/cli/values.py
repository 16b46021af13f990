"""What people type: durations, times, JSON; a typing error is wrong usage."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import orjson
import typer
from pydantic import TypeAdapter, ValidationError

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_PARTS = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")
_PART = re.compile(r"([\d.]+)([smhd])")
_ISO = TypeAdapter(timedelta)


def duration_of(text: str) -> timedelta:
    """90, 90s, 5m, 2h, 1d, 1h30m, or PT5M of ISO 8601; m is minutes, d is 24 hours."""
    try:
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return timedelta(seconds=float(text))
        if _PARTS.fullmatch(text):
            parts = [timedelta(**{UNITS[u]: float(n)}) for n, u in _PART.findall(text)]
            return sum(parts, timedelta())
        if text.startswith("P"):
            return _ISO.validate_python(text)
    except (OverflowError, ValidationError):
        pass
    raise typer.BadParameter(f"{text!r} is no duration: use 90 (seconds), 90s, 5m, 2h, 1d or 1h30m")


def wall_time_of(text: str) -> datetime:
    """A time of ISO 8601; naive without an offset."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time: use 2026-03-29T02:30:00+01:00") from None


def time_of(text: str) -> datetime:
    """A time of ISO 8601 with its offset: no guess which zone was meant."""
    at = wall_time_of(text)
    if at.tzinfo is None:
        at = at.replace(microsecond=0)
        raise typer.BadParameter(
            f"{text!r} has no offset: use {at.isoformat()}Z for UTC, or as {at.isoformat()}+01:00"
        )
    return at


def object_of(text: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise typer.BadParameter(f"not JSON: {exc}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter('a JSON object is wanted, as {"invoice": 4711}')
    return value


def names_of(text: str) -> list[str]:
    """Names separated by commas; `none` is an empty list."""
    if text.strip().lower() == "none":
        return []
    return [name.strip() for name in text.split(",")]
