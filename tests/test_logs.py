"""The log: one line for each event, as text or JSON; secrets and payloads in none."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgsched import logs
from pgsched.logs import Formatter, JsonFormatter
from pgsched.settings import Settings

ROOT = Path(__file__).parents[1]
AT = datetime(2026, 3, 2, 12, 0, 0, 345678, tzinfo=UTC).timestamp()


def record(message: str = "task failed", level: int = logging.WARNING, **fields: Any) -> Any:
    made = logging.getLogger("pgsched.test").makeRecord(
        "pgsched.test", level, "file", 1, message, (), fields.pop("exc_info", None), extra=fields
    )
    made.created = AT
    return made


def text(**fields: Any) -> str:
    return Formatter().format(record(**fields)).partition("task failed")[2].removeprefix(" ")


def entry(**fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(JsonFormatter().format(record(**fields)))
    return found


def raised(exc: BaseException) -> Any:
    try:
        _raise(exc)
    except BaseException as caught:
        return type(caught), caught, caught.__traceback__


def _raise(exc: BaseException, cause: BaseException | None = None) -> None:
    raise exc from cause


# A line


def test_a_line_has_time_level_logger_message_and_fields() -> None:
    assert Formatter().format(record(task_id="t-1", count=3)) == (
        "2026-03-02T12:00:00.345Z WARNING pgsched.test: task failed task_id=t-1 count=3"
    )


def test_the_same_as_json() -> None:
    assert entry(task_id="t-1", count=3) == {
        "time": "2026-03-02T12:00:00.345Z",
        "level": "WARNING",
        "logger": "pgsched.test",
        "message": "task failed",
        "task_id": "t-1",
        "count": 3,
    }


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("word", "word"),
        ("two words", '"two words"'),
        ("", '""'),
        ('a="b"', r'"a=\"b\""'),
        ("back\\slash", r'"back\\slash"'),
        ("line\nbreak", r'"line\nbreak"'),
        ("\x1b[2J", r'"\x1b[2J"'),
        ("\u202edrow", r'"\u202edrow"'),
        ("\ud800", r'"\ud800"'),
        (None, "null"),
        (True, "true"),
        (1.23456789, "1.23457"),
        (["a", "b"], "a,b"),
        (datetime(2026, 3, 2, tzinfo=UTC), "2026-03-02T00:00:00+00:00"),
        (ValueError("first\nsecond"), "first"),
        (KeyError(), "KeyError"),
    ],
)
def test_a_value_is_one_word_or_quoted(value: object, written: str) -> None:
    assert text(value=value) == f"value={written}"


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("\u202edrow\n\x1b[2J", "\u202edrow\n\x1b[2J"),
        (2**60, str(2**60)),
        (float("nan"), "nan"),
        ([1, {"a": None}], [1, {"a": None}]),
        (datetime(2026, 3, 2, tzinfo=UTC), "2026-03-02T00:00:00.000+00:00"),
        (ValueError("first\nsecond"), "first"),
    ],
)
def test_a_value_in_json(value: object, read: object) -> None:
    assert entry(value=value)["value"] == read


def test_json_is_one_line_of_ascii() -> None:
    line = JsonFormatter().format(record(value="é\n\u202e\x1b\ud800"))

    assert line.isascii()
    assert line.isprintable()


def test_a_message_cannot_begin_a_line_or_colour_it() -> None:
    assert Formatter().format(record("a\nb\x1b[2J")).endswith(r"a\nb\x1b[2J")


def test_a_fault_is_told_with_where_it_was() -> None:
    lines = Formatter().format(record(exc_info=raised(ValueError("first\nsecond")))).splitlines()

    assert lines[1] == "  ValueError: first"
    assert re.fullmatch(r"    \S+test_logs.py:\d+ in _raise", lines[3])
    assert entry(exc_info=raised(ValueError("x")))["traceback"].startswith("  ValueError: x\n")


def test_a_fault_of_the_database_does_not_quote_the_row(postgresql: Any) -> None:
    try:
        postgresql.execute("create temp table one (secret text check (length(secret) < 3))")
        postgresql.execute("insert into one values ('canary')")
    except psycopg.Error as exc:
        failure = exc
    assert "canary" in str(failure)

    for formatter in (Formatter(), JsonFormatter()):
        try:
            _raise(RuntimeError("it failed"), failure)
        except RuntimeError as exc:
            line = formatter.format(record(error=failure, exc_info=(type(exc), exc, None)))
        assert "canary" not in line
        assert "violates check constraint" in line


def test_secrets_are_hidden_wherever_they_stand() -> None:
    given = record("hunter2hunter2", value=["a hunter2", {"hunter2": "b hunter2 c"}])

    for formatter in (Formatter(["hunter2", ""]), JsonFormatter(["hunter2"])):
        assert "hunter2" not in formatter.format(given).replace('"hunter2":', "")
        assert "b *** c" in formatter.format(given)


# The set-up


@pytest.fixture
def stderr() -> io.StringIO:
    return io.StringIO()


Configure = Callable[..., None]


@pytest.fixture
def configure(stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Set the log up, to *stderr*; afterwards the loggers are as they were."""
    root, names = logging.getLogger(), ("root", "pgsched", "uvicorn", "psycopg.pool")
    levels = {name: logging.getLogger(name).level for name in names}

    def configure(database_url: str = "host=db password=hunter2", **settings: Any) -> None:
        # Only now: before the test itself runs, pytest sets both anew.
        monkeypatch.setattr("sys.stderr", stderr)
        monkeypatch.setattr(root, "handlers", [])
        logs.configure(Settings(database_url=database_url, **settings))

    yield configure
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_debug_is_for_pgsched_alone(configure: Configure, stderr: io.StringIO) -> None:
    configure(log_level="DEBUG")
    for name in ("pgsched.lanes", "httpx", "uvicorn.error"):
        logging.getLogger(name).debug("from %s", name)
        logging.getLogger(name).warning("loud %s", name)

    said = re.findall(r"from \S+|loud \S+", stderr.getvalue())
    assert said == ["from pgsched.lanes", "loud pgsched.lanes", "loud httpx", "loud uvicorn.error"]


def test_json_when_it_is_set(configure: Configure, stderr: io.StringIO) -> None:
    configure(log_format="JSON", log_level="warning")
    logging.getLogger("pgsched").info("quiet")
    logging.getLogger("pgsched").warning("loud", extra={"n": 1})

    assert json.loads(stderr.getvalue())["message"] == "loud"


def test_the_secrets_of_the_settings_are_known(configure: Configure, stderr: io.StringIO) -> None:
    configure(api_key="sesame-open", callback_secret=f"whsec_{'a' * 40} whsec_{'b' * 40}")
    secrets = ("sesame-open", f"whsec_{'b' * 40}", "hunter2")
    logging.getLogger("pgsched").warning(" ".join(secrets))

    assert stderr.getvalue().endswith(": *** *** ***\n")


# The events

LEVELS = {"exception": "ERROR"}


def events() -> Iterator[tuple[str, str, str]]:
    """Level, message and place of each call of a logger in the code."""
    for path in sorted((ROOT / "src/pgsched").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log"), attr=method), args=[first, *rest]
                ) if method != "isEnabledFor":
                    place = f"{path.name}:{node.lineno}"
                    assert isinstance(first, ast.Constant), f"{place}: a message is constant"
                    assert isinstance(first.value, str)
                    assert not rest, f"{place}: what differs is a field"
                    yield LEVELS.get(method, method.upper()), first.value, place


def test_each_event_is_documented() -> None:
    page = (ROOT / "docs/logging.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (DEBUG|INFO|WARNING|ERROR) \| (.+?) \|", page, re.MULTILINE)

    found = {(level, message) for level, message, _ in events()}
    assert set(rows) == found
    assert len(rows) == len(found)
