"""`pgsched config`: the settings in force, where each comes from, and no secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pgsched.cli import app
from pgsched.effective import effective, strange_variables
from pgsched.settings import Settings

SECRET = "whsec_" + "czNjcmV0" * 5


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working directory, and an empty environment."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"PGSCHED_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["config", *arguments])
    assert done.exit_code == code, done.output
    return done.output


def found(*arguments: str, code: int = 0) -> dict[str, Any]:
    """The settings by name."""
    document = json.loads(config(*arguments, "--json", code=code))
    return {setting["name"]: setting for setting in document["settings"]}


def test_each_setting_is_there_with_where_it_comes_from(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "pgsched.toml").write_text('push_slots = 7\napi_port = 1\nqueues = ["a", "b"]\n')
    monkeypatch.setenv("PGSCHED_API_PORT", "2")
    monkeypatch.setenv("PGSCHED_DATABASE_URL", "host=db")

    settings = found("--database-url", "host=other")

    assert list(settings) == list(Settings.model_fields)
    given = {n: (s["value"], s["origin"]) for n, s in settings.items() if s["origin"] != "default"}
    assert given == {
        "config_file": ("pgsched.toml", "working directory"),
        "database_url": ("host=other", "flag"),
        "push_slots": (7, "pgsched.toml"),
        "queues": (["a", "b"], "pgsched.toml"),
        "api_port": (2, "environment"),
    }
    assert settings["log_level"]["value"] == "INFO"
    assert settings["push_slots"]["variable"] == "PGSCHED_PUSH_SLOTS"
    assert settings["push_slots"]["description"].endswith("Range: 1 to 1000.")
    assert "a, b" in config("--database-url", "host=other")


def test_without_a_database_it_says_so_and_shows_the_rest() -> None:
    settings = found(code=1)

    assert settings["database_url"]["problem"].startswith("PGSCHED_DATABASE_URL is missing.")
    assert settings["push_slots"]["value"] == 64
    assert "PGSCHED_DATABASE_URL is missing." in config(code=1)


def test_all_that_is_wrong_is_told_in_its_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "pgsched.toml").write_text("push_slot = 7\n")
    monkeypatch.setenv("PGSCHED_API_PORT", "x")
    monkeypatch.setenv("PGSCHED_PUSH_SLOTS", "8")

    settings = found("--database-url", "host=db", code=1)

    assert {name: s["problem"] for name, s in settings.items() if s["problem"]} == {
        "api_port": settings["api_port"]["problem"],
        "push_slot": "pgsched.toml: push_slot is no setting: did you mean push_slots?",
    }
    assert settings["api_port"]["problem"].startswith("PGSCHED_API_PORT: input should be a valid")
    assert settings["api_port"]["value"] is None
    assert settings["push_slots"]["value"] == 8


def test_a_file_that_cannot_be_read_is_an_error(folder: Path) -> None:
    (folder / "pgsched.toml").write_text("=")

    done = CliRunner().invoke(app, ["config"])

    assert done.exit_code == 1
    assert "pgsched.toml is no TOML file: Invalid" in str(done.exception)


def test_no_secret_is_printed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "pgsched.toml").write_text(f'callback_secret = "{SECRET}"\napi_kye = "s3cret"\n')
    monkeypatch.setenv("PGSCHED_DATABASE_URL", "postgresql://app:s3cret@db/app")
    monkeypatch.setenv("PGSCHED_API_KEY", "s3cret")
    monkeypatch.setenv("PGSCHED_EXTERNAL_SYSTEM_SIGNING_SECRET", "whsec_s3cret")  # is wrong

    for printed in (config(code=1), config("--json", code=1)):
        assert "postgresql://app:***@db/app" in printed
        assert "s3cret" not in printed
        assert SECRET not in printed


def test_a_variable_that_is_no_setting_gets_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSCHED_PUSH_SLOT", "s3cret")

    printed = config("--database-url", "host=db")

    assert "note: PGSCHED_PUSH_SLOT is no setting, unless an external system names it" in printed
    assert "did you mean PGSCHED_PUSH_SLOTS?" in printed
    assert "s3cret" not in printed


def test_what_the_embedded_server_reads_is_not_strange() -> None:
    given = {"PGSCHED_PG_BIN": "", "PGSCHED_STATE_DIR": "", "PGSCHED_QUEUES": "", "HOME": ""}

    assert list(strange_variables(given)) == []
    assert [setting.name for setting in effective(database_url="")] == list(Settings.model_fields)


def test_a_wide_terminal_is_told_what_each_setting_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert "Meaning" not in config("--database-url", "host=db")  # a pipe: a line for each

    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "Range: 1 to 1000." in config("--database-url", "host=db")
