"""The settings: what there is, and what each may be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    SettingsConfigDict,
)

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


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _secrets(value: SecretStr) -> SecretStr:
    read_secrets(value.get_secret_value())
    return value


Secrets = Annotated[SecretStr, AfterValidator(_secrets)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]


class Settings(BaseSettings):
    """
    What a process of pgsched needs to know.

    Each field can be set as PGSCHED_<FIELD> in the environment, where an empty
    value is as good as none.  No file is read: `load_settings` does that.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    config_file: str | None = Field(
        None,
        description="TOML file with further settings, which environment and flags override;"
        " default: `pgsched.toml` in the working directory, if there is one.",
    )
    database_url: Annotated[str, AfterValidator(_dsn)] = Field(
        description="Connection string of the database, as `postgresql://user@host:5432/name` or"
        " `key=value` pairs.",
    )
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)] = (
        Field("INFO", description="What is logged: this and above.")
    )
    log_format: Annotated[Literal["text", "json"], BeforeValidator(_lower)] = Field(
        "text",
        description="How that is written: a line for each event, of text or a JSON object.",
    )

    # Where tasks go
    external_system_url: BaseUrl | None = Field(
        None,
        description="Base URL that tasks are pushed to, for external systems without a `base_url`"
        " of their own: http(s), without user, query or fragment.",
    )
    external_system_api_key: SecretStr | None = Field(
        None, description="Bearer key sent with those pushes."
    )
    external_system_signing_secret: Secrets | None = Field(
        None,
        description="Secrets that those pushes are signed with, as Standard Webhooks say: the"
        " newest first, separated by spaces.",
    )
    callback_secret: Secrets | None = Field(
        None,
        description="Secrets of the `callback_token` of each push, with which the executor reports"
        " on that attempt in place of the API key: the newest first, separated by spaces; the same"
        " for workers and API.",
    )
    public_url: BaseUrl | None = Field(
        None,
        description="Base URL under which the external system reaches this API.  Makes the"
        " `callback_url` of each push; without it, that is null.",
    )

    # The worker
    schedule_scan_interval: float = Field(
        1.0,
        ge=0.05,
        le=60,
        description="Seconds between two looks for due work when nothing wakes the worker.",
    )
    max_pending_tasks_per_scan: int = Field(
        300, ge=1, le=1000, description="Tasks in one claim at most."
    )
    push_slots: int = Field(
        64,
        ge=1,
        le=1000,
        description="Requests under way at the same time to each external system that has no"
        " `max_in_flight`; as many tasks again wait in the worker, and more if they go fast.",
    )
    queues: Annotated[list[str] | None, NoDecode, BeforeValidator(_names)] = Field(
        None,
        min_length=1,
        description="The queues this worker serves, separated by commas; none means all.",
    )
    poll_only: bool = Field(
        False,
        description="Do without LISTEN and prepared statements, as behind PgBouncer in transaction"
        " mode.",
    )
    shutdown_grace_seconds: float = Field(
        30,
        ge=0,
        le=3600,
        description="Seconds that a stopping worker, or API, lets what is under way end.",
    )
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of `/metrics` and `/health/live` of a worker; 0: any free port; none: it"
        " has none.  Each worker on a machine needs its own.",
    )
    metrics_host: str = Field(
        "127.0.0.1",
        description="Address where they listen.  They ask for no key: let only those reach it who"
        " may read the names of queues.",
    )

    # Definitions made by the Python service or the API
    default_max_retries: int = Field(
        3,
        ge=0,
        le=100,
        description="Counted retries of a task, unless its definition says otherwise.",
    )
    retry_delay_seconds: float = Field(
        60, ge=0, le=86400, description="Seconds before the first of them."
    )

    # The API
    api_host: str = Field(
        "127.0.0.1",
        description="Address the API listens on.  One that is not loopback needs"
        " `PGSCHED_API_KEY`.",
    )
    api_port: int = Field(
        8321, ge=0, le=65535, description="Port the API listens on; 0: any free port."
    )
    api_key: SecretStr | None = Field(
        None,
        description="Bearer key that every request must carry, but for `/health/live` and"
        " `/health/ready`; none leaves the API open.",
    )

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, masked_dsn(value) if name == "database_url" else value


def secrets_of(given: SecretStr | None) -> tuple[bytes, ...]:
    """The secrets that a setting holds, the newest first."""
    return read_secrets(given.get_secret_value()) if given else ()


def secret_values(settings: Settings) -> Iterator[str]:
    """
    All that must not be seen in a log: the secrets, and the passwords of the database.

    What is shorter than 6 characters is left out: it would be found in other words.
    """
    given = [value.get_secret_value() for _, value in settings if isinstance(value, SecretStr)]
    dsn = conninfo_to_dict(settings.database_url)
    passwords = [str(dsn.get(name) or "") for name in ("password", "sslpassword")]
    words = [word for value in given for word in value.split()]
    yield from (word for word in (*given, *words, *passwords) if len(word) >= 6)


def masked_dsn(dsn: str) -> str:
    """*dsn* without its passwords, fit for a log; also one that is malformed."""
    if "://" not in dsn:
        quoted_or_not = r"('(\\.|[^'\\])*'?|(\\.|\S)+)"
        return re.sub(rf"(?is)(password\s*=\s*){quoted_or_not}", rf"\g<1>{HIDDEN}", dsn)
    # Up to the last @: an unescaped one belongs to the password.
    dsn = re.sub(r"(?s)(://[^:/?#@]*:).*@", rf"\g<1>{HIDDEN}@", dsn)
    return re.sub(r"(?i)(password=)[^&#]*", rf"\g<1>{HIDDEN}", dsn)
