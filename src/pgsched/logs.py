"""
How the log is written: one line for each event, as text or as JSON.

The message of an event is always the same words; what differs is in fields,
which `extra=` of the call gives.  Only the command sets the log up.  Who runs
a `Worker` or the API in a process of their own has the records go where theirs
go, and may use the formatters here.

No secret gets out: not in a field, not in a traceback.  Errors are told by
their first line, since the others may quote what a task carries.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from pgsched.failures import reason_of
from pgsched.settings import HIDDEN, Settings, secret_values

# What every record has; all else came as `extra=`.
_COMMON = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class Formatter(logging.Formatter):
    """
    A record in one line of text, or more with the traceback of a fault of our own.

    Args:
        secrets: What is replaced by `***` wherever it stands.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        # The longest first: one may be a part of another.
        self._secrets = sorted(set(filter(None, secrets)), key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        head = f"{_time_of(record)} {record.levelname:<7} {record.name}: {record.getMessage()}"
        fields = (f"{name}={_word(value)}" for name, value in _fields_of(record).items())
        lines = [" ".join((_escaped(head), *fields)), *map(_escaped, _traceback_of(record))]
        return self._without_secrets("\n".join(lines))

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text


class JsonFormatter(Formatter):
    """A record as one JSON object in one line: time, level, logger, message, and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _time_of(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields_of(record),
        }
        if lines := list(_traceback_of(record)):
            entry["traceback"] = "\n".join(lines)
        # ASCII alone: nothing in it moves or turns what is read.
        return json.dumps(self._cleaned(entry))

    def _cleaned(self, value: Any) -> Any:
        match value:
            case None | bool():
                return value
            case int() | float() if abs(value) < 2**53:  # what all who read JSON can hold
                return value
            case dict():
                return {str(name): self._cleaned(item) for name, item in value.items()}
            case list() | tuple():
                return [self._cleaned(item) for item in value]
            case datetime():
                return value.isoformat(timespec="milliseconds")
            case _:
                return self._without_secrets(str(value))


def configure(settings: Settings) -> None:
    """Have this process log to stderr as *settings* say; what was set up before is replaced."""
    secrets = list(secret_values(settings))
    is_json = settings.log_format == "json"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(secrets) if is_json else Formatter(secrets))
    level = logging.getLevelNamesMapping()[settings.log_level]
    # What libraries say at DEBUG, such as the headers of a request, is not ours to give away.
    logging.basicConfig(level=max(level, logging.INFO), handlers=[handler], force=True)
    logging.getLogger("pgsched").setLevel(level)
    # The pool tells of each attempt; our own loops tell of the outage.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    # Our own lines tell when the API begins and ends.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def _fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    given = {name: value for name, value in vars(record).items() if name not in _COMMON}
    return {
        name: reason_of(value) if isinstance(value, BaseException) else value
        for name, value in given.items()
    }


def _time_of(record: logging.LogRecord) -> str:
    """RFC 3339, in UTC, with milliseconds."""
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _word(value: object) -> str:
    """*value* as one word, in quotes where it would not be one."""
    match value:
        case bool() | None:
            return "null" if value is None else str(value).lower()
        case float():
            return f"{value:.6g}"
        case datetime():
            text = value.isoformat(timespec="seconds")
        case list() | tuple():
            text = ",".join(map(str, value))
        case _:
            text = str(value)
    is_word = text.isprintable() and not set(text) & set(' "=\\') and text
    return text if is_word else f'"{_escaped(text, quoted=True)}"'


def _escaped(text: str, *, quoted: bool = False) -> str:
    """*text* without what would begin a line, or move or turn what is read."""
    if quoted:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _traceback_of(record: logging.LogRecord) -> Iterator[str]:
    """Where it happened, line by line, without the values that the errors may quote."""
    exc = record.exc_info[1] if record.exc_info else None
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield f"  {type(exc).__qualname__}: {reason_of(exc)}"
        for frame in traceback.extract_tb(exc.__traceback__):
            yield f"    {frame.filename}:{frame.lineno} in {frame.name}"
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
