"""The `pgsched` command in this process, as at a terminal."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from pgsched import cli
from tests.roles import as_role


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def words(self) -> str:
        """What was printed, wherever the lines were broken."""
        return " ".join(self.out.split())


Command = Callable[..., Answer]


@pytest.fixture
def pgsched(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command on a terminal of 80 columns, without a database."""

    def run(*args: str, answer: str = "", columns: int = 80) -> Answer:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "argv", ["pgsched", *args])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(answer.encode())))
        code, message = 0, ""
        try:
            cli.main()
        except SystemExit as exc:
            if isinstance(exc.code, str):  # what Python prints when it exits
                code, message = 1, f"{exc.code}\n"
            else:
                code = exc.code or 0
        printed = capsys.readouterr()
        return Answer(code, printed.out, printed.err + message)

    return run


@pytest.fixture
def command(pgsched: Command, dsn: str, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command with the database of the test."""
    monkeypatch.setenv("PGSCHED_DATABASE_URL", as_role(dsn, "operator"))
    return pgsched
