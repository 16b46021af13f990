"""Settings: where they come from, and what a wrong one is told."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import ValidationError

from pgsched.configuration import load_settings
from pgsched.errors import ConfigError
from pgsched.settings import Settings, masked_dsn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DSN = "postgresql://app:s3cret@db.example:5432/app"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"PGSCHED_{name.upper()}", raising=False)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets `PGSCHED_<NAME>` for each argument; begins with the database alone."""

    def set_all(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"PGSCHED_{name.upper()}", value)

    set_all(database_url=DSN)
    return set_all


@pytest.mark.usefixtures("environment")
def test_only_the_database_has_to_be_given() -> None:
    settings = load_settings()
    assert settings.database_url == DSN
    assert settings.model_dump(exclude={"database_url"}) == {
        "config_file": None,
        "external_system_url": None,
        "external_system_api_key": None,
        "public_url": None,
        "schedule_scan_interval": 1.0,
        "max_pending_tasks_per_scan": 300,
        "push_slots": 64,
        "queues": None,
        "poll_only": False,
        "shutdown_grace_seconds": 30,
        "default_max_retries": 3,
        "retry_delay_seconds": 60,
        "api_host": "127.0.0.1",
        "api_port": 8321,
        "api_key": None,
        "callback_secret": None,
        "external_system_signing_secret": None,
        "log_level": "INFO",
        "log_format": "text",
        "metrics_host": "127.0.0.1",
        "metrics_port": None,
    }


def test_the_environment_is_read(environment: Callable[..., None]) -> None:
    environment(
        external_system_url="https://executor.example/base/",
        external_system_api_key="k3y",
        schedule_scan_interval="0.25",
        queues="mail, reports",
        poll_only="true",
        log_level="debug",
    )
    settings = load_settings()
    assert settings.external_system_url == "https://executor.example/base"
    assert settings.external_system_api_key
    assert settings.external_system_api_key.get_secret_value() == "k3y"
    assert settings.schedule_scan_interval == 0.25
    assert settings.queues == ["mail", "reports"]
    assert settings.poll_only
    assert settings.log_level == "DEBUG"


def test_an_empty_variable_is_as_good_as_none(environment: Callable[..., None]) -> None:
    environment(external_system_url="", queues="", api_port="")
    settings = load_settings()
    assert settings.external_system_url is None
    assert settings.queues is None
    assert settings.api_port == 8321


def test_flags_win_over_the_environment_and_that_over_the_file(
    environment: Callable[..., None], tmp_path: Path
) -> None:
    file = tmp_path / "pgsched.toml"
    file.write_text('api_port = 1\npush_slots = 1\nqueues = ["mail"]\n')
    environment(config_file=str(file), api_port="2", push_slots="2")

    settings = load_settings(api_port=3, push_slots=None)

    assert (settings.api_port, settings.push_slots, settings.queues) == (3, 2, ["mail"])


def test_the_file_can_be_named_by_a_flag(tmp_path: Path) -> None:
    file = tmp_path / "pgsched.toml"
    file.write_text(f'database_url = "{DSN}"\n')
    assert load_settings(config_file=str(file)).database_url == DSN


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_file_in_the_working_directory_is_read(folder: Path) -> None:
    (folder / "pgsched.toml").write_text(f'database_url = "{DSN}"\npush_slots = 7\n')

    settings = load_settings()

    assert (settings.push_slots, settings.config_file) == (7, "pgsched.toml")


def test_another_file_that_is_named_is_read_in_its_place(folder: Path) -> None:
    (folder / "pgsched.toml").write_text("push_slots = 7\n")
    (folder / "other.toml").write_text("api_port = 9\n")

    settings = load_settings(database_url=DSN, config_file="other.toml")
    nothing = load_settings(database_url=DSN, config_file="/dev/null")

    assert (settings.push_slots, settings.api_port) == (64, 9)
    assert (nothing.push_slots, nothing.api_port) == (64, 8321)


def test_who_makes_settings_by_hand_gets_nothing_from_a_file(
    folder: Path, environment: Callable[..., None]
) -> None:
    (folder / "pgsched.toml").write_text("push_slots = 7\n")
    (folder / "other.toml").write_text("push_slots = 8\n")
    environment(config_file="other.toml")

    assert Settings().push_slots == 64


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("push_slot = 7", "pgsched.toml: push_slot is no setting: did you mean push_slots?"),
        ("push_slots = 0", "pgsched.toml: push_slots: input should be greater"),
        ("[push]\nslots = 7", "pgsched.toml: push is no setting"),
        ("push_slots = ", "pgsched.toml is no TOML file: Invalid value (at"),
        ('config_file = "x"', "pgsched.toml: config_file cannot name another file"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_with_its_name(
    folder: Path, content: str, says: str
) -> None:
    (folder / "pgsched.toml").write_text(content)

    with pytest.raises(ConfigError, match=f"^{re.escape(says)}"):
        load_settings(database_url=DSN)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"api_port = ", "{} is no TOML file: Invalid value (at"),
        (b"\xff = 1", "{} is no TOML file: "),
        (None, "PGSCHED_CONFIG_FILE: {} cannot be read: No such file or directory"),
    ],
)
@pytest.mark.usefixtures("environment")
def test_a_file_that_cannot_be_read_is_named(
    content: bytes | None, says: str, tmp_path: Path
) -> None:
    file = tmp_path / "pgsched.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^{re.escape(says.format(file))}"):
        load_settings(config_file=str(file))


def test_settings_do_not_change() -> None:
    settings = load_settings(database_url=DSN)
    with pytest.raises(ValidationError):
        settings.api_port = 1  # type: ignore[misc]


# What a wrong one is told


def test_a_missing_database_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^PGSCHED_DATABASE_URL is missing\. Connection string"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("schedule_scan_interval", "0.04"),
        ("schedule_scan_interval", "61"),
        ("schedule_scan_interval", "nan"),
        ("max_pending_tasks_per_scan", "0"),
        ("max_pending_tasks_per_scan", "1001"),
        ("push_slots", "0"),
        ("push_slots", "1001"),
        ("default_max_retries", "-1"),
        ("default_max_retries", "101"),
        ("default_max_retries", "three"),
        ("retry_delay_seconds", "86401"),
        ("retry_delay_seconds", "inf"),
        ("shutdown_grace_seconds", "-1"),
        ("api_port", "65536"),
        ("poll_only", "maybe"),
        ("log_level", "loud"),
        ("queues", "a,,b"),
        ("external_system_url", "executor.example"),
        ("external_system_url", "ftp://executor.example"),
        ("external_system_url", "http://"),
        ("external_system_url", "http://executor.example/?a=b"),
        ("external_system_url", "http://executor.example:port"),
        ("external_system_url", "http://exec utor.example"),
        ("public_url", "http://[::1"),
        ("database_url", "mysql://app@db/app"),
        ("database_url", "nonsense"),
    ],
)
def test_a_wrong_value_is_named_by_its_variable(
    environment: Callable[..., None], name: str, value: str
) -> None:
    environment(**{name: value})
    with pytest.raises(ConfigError, match=f"^PGSCHED_{name.upper()}[ :]") as refused:
        load_settings()
    assert "\n" not in str(refused.value)


def test_all_that_is_wrong_is_said_at_once(environment: Callable[..., None]) -> None:
    environment(api_port="x", push_slots="x")
    with pytest.raises(ConfigError) as refused:
        load_settings()
    assert [line.split(":")[0] for line in str(refused.value).splitlines()] == [
        "PGSCHED_PUSH_SLOTS",
        "PGSCHED_API_PORT",
    ]


@pytest.mark.usefixtures("environment")
def test_what_is_no_setting_is_refused_with_a_hint() -> None:
    with pytest.raises(ConfigError, match=r"^api_prot is no setting: did you mean api_port\?$"):
        load_settings(api_prot=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("database_url", "app:s3cret@db"),
        ("database_url", "postgresql://app:s3cret@db:port:5432/app?s3cret"),
        ("external_system_url", "http://app:s3cret@executor.example"),
        ("api_key", {"s3cret": 1}),
        ("callback_secret", "s3cret"),
        ("external_system_signing_secret", "whsec_s3cret s3cret"),
    ],
)
@pytest.mark.usefixtures("environment")
def test_no_error_gives_a_secret_away(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as refused:
        load_settings(**{name: value})
    assert "s3cret" not in str(refused.value)
    with pytest.raises(ValidationError) as invalid:
        Settings(**{name: value})
    assert "s3cret" not in str(invalid.value)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_what_it_is(name: str) -> None:
    assert str(Settings.model_fields[name].description).endswith(".")


def test_the_range_is_told_with_what_is_out_of_it() -> None:
    with pytest.raises(ConfigError, match=r"Range: 0\.05 to 60\.$"):
        load_settings(database_url=DSN, schedule_scan_interval=61)
    with pytest.raises(ConfigError, match=r"Range: DEBUG, INFO, WARNING, ERROR\.$"):
        load_settings(database_url=DSN, log_level="loud")


# Secrets


@pytest.mark.usefixtures("environment")
def test_no_secret_is_shown() -> None:
    settings = load_settings(api_key="s3cret", external_system_api_key="s3cret")
    for shown in (repr(settings), str(settings), repr(vars(settings)["api_key"])):
        assert "s3cret" not in shown
    assert "postgresql://app:***@db.example:5432/app" in repr(settings)


@pytest.mark.parametrize(
    ("dsn", "masked"),
    [
        ("postgresql://app:s3cret@db:5432/app", "postgresql://app:***@db:5432/app"),
        ("postgresql://app:s3@cr:e/t@db/app", "postgresql://app:***@db/app"),
        ("postgres://:s3cret@/app", "postgres://:***@/app"),
        ("postgresql://app@db:5432/app", "postgresql://app@db:5432/app"),
        ("postgresql://a@db/app?password=s3cret&x=1", "postgresql://a@db/app?password=***&x=1"),
        ("postgresql:///app?sslPassword=s3cret", "postgresql:///app?sslPassword=***"),
        ("host=db password=s3cret user=a", "host=db password=*** user=a"),
        ("password = 's3 \\' cret' host=db", "password = *** host=db"),
        ("password=s3\\ cret host=db", "password=*** host=db"),
        ("host=db password='s3cret without an end", "host=db password=***"),
        ("host=db", "host=db"),
        ("", ""),
    ],
)
def test_a_dsn_is_shown_without_its_password(dsn: str, masked: str) -> None:
    assert masked_dsn(dsn) == masked


@given(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1).map("s3".__add__))
def test_no_password_survives_in_any_form(password: str) -> None:
    encoded = quote(password, safe="")
    for dsn in (
        f"postgresql://app:{encoded}@db/app",
        f"postgresql://app@db/app?connect_timeout=5&password={encoded}",
        make_conninfo(host="db", password=password, user="app"),
    ):
        assert conninfo_to_dict(dsn)["password"] == password
        masked = conninfo_to_dict(masked_dsn(dsn))
        assert masked.pop("password") == "***"
        assert {"host": "db", "user": "app"}.items() <= masked.items()


def test_a_password_with_an_at_sign_must_be_encoded_and_is_not_shown() -> None:
    with pytest.raises(ConfigError, match="percent-encoded") as refused:
        load_settings(database_url="postgresql://u:s3cr3t@tail@127.0.0.1/x")

    assert "s3cr3t" not in str(refused.value)
    assert "tail" not in str(refused.value)
