"""Settings: flags over environment over an optional TOML file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from pgsched.errors import ConfigError
from pgsched.signing import read_secrets

PREFIX = "PGSCHED_"
HIDDEN = "***"


def _dsn(value: str) -> str:
    try:
        host = conninfo_to_dict(value).get("host") or ""
    except ProgrammingError:
        host = "@"
    if "@" in str(host):  # the end of a password, if it is not nonsense altogether
        # Quoting the string would quote the password.
        raise ValueError(
            "is no connection string: use postgresql://user:password@host:5432/name,"
            " with what is special in the password percent-encoded, or key=value pairs"
        )
    return value


def _base_url(value: str) -> str:
    try:
        url = urlsplit(value)
        plain = not (
            url.username or url.password or url.query or url.fragment or re.search(r"\s", value)
        )
        readable = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        readable = plain = False
    if not (readable and plain):
        raise ValueError(
            "is no base URL: use http:// or https://, host, port and path alone,"
            " as https://executor.example:8080"
        )
    return value.rstrip("/")


def _names(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    names = [name.strip() for name in value.split(",")]
    if not all(names):
        raise ValueError("has an empty name in it: separate names by single commas")
    return names


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _secrets(value: SecretStr) -> SecretStr:
    read_secrets(value.get_secret_value())
    return value


Secrets = Annotated[SecretStr, AfterValidator(_secrets)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]


class Settings(BaseSettings):
    """
    What a process of pgsched needs to know.

    Each field can be set as PGSCHED_<FIELD> in the environment, where an empty
    value is as good as none.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    config_file: str | None = Field(
        None, description="TOML file with further settings, which environment and flags override."
    )
    database_url: Annotated[str, AfterValidator(_dsn)] = Field(
        description="Connection string of the database, as postgresql://user@host:5432/name."
    )

    # The external system
    external_system_url: BaseUrl | None = Field(
        None, description="Base URL that tasks are pushed to; only what pushes needs it."
    )
    external_system_api_key: SecretStr | None = Field(
        None, description="Bearer token sent with every push."
    )
    external_system_signing_secret: Secrets | None = Field(
        None,
        description="Secrets that pushes are signed with by Standard Webhooks, the newest first,"
        " separated by spaces.",
    )
    callback_secret: Secrets | None = Field(
        None,
        description="Secrets of the callback tokens that executors report with, the newest first,"
        " separated by spaces; the same for workers and API.",
    )
    public_url: BaseUrl | None = Field(
        None,
        description="Base URL under which the external system reaches this API; makes callback_url"
        " absolute.",
    )

    # The worker
    schedule_scan_interval: float = Field(
        1.0,
        ge=0.05,
        le=60,
        description="Seconds between two looks for due work when nothing wakes the worker,"
        " 0.05 to 60.",
    )
    max_pending_tasks_per_scan: int = Field(
        300, ge=1, le=1000, description="Tasks claimed at once, 1 to 1000."
    )
    push_slots: int = Field(
        64,
        ge=1,
        le=1000,
        description="Requests that one worker has under way to one external system, unless that"
        " says otherwise, 1 to 1000.",
    )
    queues: Annotated[list[str] | None, NoDecode, BeforeValidator(_names)] = Field(
        None,
        min_length=1,
        description="Queues this worker serves, comma-separated; none means all.",
    )
    poll_only: bool = Field(
        False, description="Do without LISTEN, as behind PgBouncer; true or false."
    )
    shutdown_grace_seconds: float = Field(
        30,
        ge=0,
        le=3600,
        description="Seconds that a stopping worker gives its pushes to end, 0 to 3600.",
    )

    metrics_host: str = Field("127.0.0.1", description="Address a worker shows its metrics on.")
    metrics_port: int | None = Field(None, ge=0, le=65535, description="Its port, 0 to 65535.")

    # Defaults of new definitions
    default_max_retries: int = Field(
        3, ge=0, le=100, description="Counted retries of a task, 0 to 100."
    )
    retry_delay_seconds: float = Field(
        60, ge=0, le=86400, description="Seconds before the first retry of a task, 0 to 86400."
    )

    # The API
    api_host: str = Field("127.0.0.1", description="Address the API listens on.")
    api_port: int = Field(
        8321, ge=0, le=65535, description="Port the API listens on, 0 to 65535; 0 takes a free one."
    )
    api_key: SecretStr | None = Field(
        None, description="Bearer token the API asks for; none leaves it open."
    )

    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)] = (
        Field("INFO", description="What is logged: DEBUG, INFO, WARNING or ERROR, and above.")
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        path = (env_settings() | init_settings()).get("config_file")
        if path is None:
            return init_settings, env_settings
        with open(path, "rb"):  # noqa: PTH123 (the source below takes a missing file for an empty one)
            pass
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, path)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, masked_dsn(value) if name == "database_url" else value


def secrets_of(given: SecretStr | None) -> tuple[bytes, ...]:
    """The secrets that a setting holds, the newest first."""
    return read_secrets(given.get_secret_value()) if given else ()


def load_settings(**overrides: Any) -> Settings:
    """
    Read the settings; an override that is None is not one.

    Raises:
        ConfigError: A line for each setting that is missing or wrong.
    """
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as exc:
        raise ConfigError("\n".join(map(_explain, exc.errors()))) from None
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{PREFIX}CONFIG_FILE cannot be read: {exc}") from None


def _explain(error: Any) -> str:
    name = str(error["loc"][0])
    if name not in Settings.model_fields:
        near = difflib.get_close_matches(name, Settings.model_fields, n=1)
        return f"{name} is no setting" + (f": did you mean {near[0]}?" if near else "")
    what = f"{PREFIX}{name.upper()}"
    description = Settings.model_fields[name].description
    match error["type"]:
        case "missing":
            return f"{what} is missing. {description}"
        case "value_error":
            return f"{what} {error['ctx']['error']}"
        case _:
            return f"{what}: {error['msg'][0].lower()}{error['msg'][1:]}. {description}"


def masked_dsn(dsn: str) -> str:
    """*dsn* without its passwords, fit for a log; also one that is malformed."""
    if "://" not in dsn:
        quoted_or_not = r"('(\\.|[^'\\])*'?|(\\.|\S)+)"
        return re.sub(rf"(?is)(password\s*=\s*){quoted_or_not}", rf"\g<1>{HIDDEN}", dsn)
    # Up to the last @: an unescaped one belongs to the password.
    dsn = re.sub(r"(?s)(://[^:/?#@]*:).*@", rf"\g<1>{HIDDEN}@", dsn)
    return re.sub(r"(?i)(password=)[^&#]*", rf"\g<1>{HIDDEN}", dsn)
