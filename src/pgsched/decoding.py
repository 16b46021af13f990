"""What an external system sends back, read: bodies, waiting times, and text for people."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

# As much of an answer as a person is shown.
EXCERPT_BYTES = 2048

_NUL_ESCAPE = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


def without_nul_escapes(raw: bytes) -> bytes:
    """JSON with U+FFFD in place of each escaped NUL."""
    return _NUL_ESCAPE.sub(rb"\1\\ufffd", raw) if b"\\u0000" in raw else raw


def read_body(raw: bytes) -> dict[str, Any] | None:
    """
    The JSON object that *raw* is, or None.

    Postgres stores no NUL, neither in text nor in jsonb; here they become U+FFFD,
    or one answer would spoil the settling of a whole batch.
    """
    if not raw.lstrip().startswith(b"{"):
        return None
    try:
        body = orjson.loads(without_nul_escapes(raw))
    except orjson.JSONDecodeError:
        return None
    return body if isinstance(body, dict) else None


def read_retry_after(value: str | None, date: str | None = None) -> timedelta | None:
    """
    How long `Retry-After` asks to wait (RFC 9110 10.2.3), or None if it does not say.

    An HTTP date is measured against *date*, the answer's own Date header, so that
    it does not matter whose clock is wrong.
    """
    value = (value or "").strip()
    if value.isascii() and value.isdigit():
        # More than nine digits are more than thirty years.
        return timedelta(seconds=int(value[:9]))
    until = _http_date(value)
    if until is None:
        return None
    return max(until - (_http_date(date or "") or datetime.now(UTC)), timedelta())


def _http_date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date


def excerpt(raw: bytes | str) -> str:
    """The start of *raw* on one line, for people: nothing that could steer a terminal."""
    if isinstance(raw, str):
        raw = raw.encode(errors="replace")
    text = raw[:EXCERPT_BYTES].decode(errors="replace")
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text.encode()[:EXCERPT_BYTES].decode(errors="ignore")
