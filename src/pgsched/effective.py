"""The settings that are in force, and where each comes from, fit to be shown."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import SecretStr, ValidationError

from pgsched.configuration import Configuration, described, hint, problems_of, read
from pgsched.settings import HIDDEN, PREFIX, Settings, masked_dsn

# Of the embedded server: see devdb.py and devbin.py.
ELSEWHERE = {"PGSCHED_PG_BIN", "PGSCHED_STATE_DIR"}
# What stands in for a database that is not named, so that the rest can be looked at.
NO_DATABASE = ""


class Effective(NamedTuple):
    """One setting as it is in force; a secret is hidden in it."""

    name: str
    variable: str
    value: Any
    origin: str
    problem: str | None
    description: str


def effective(**overrides: Any) -> list[Effective]:
    """
    Each setting, in their order; one that is wrong says so, and keeps none of the others back.

    Raises:
        ConfigError: The file cannot be read.
    """
    given = read(overrides)
    problems, settings = _look(given)
    fields = Settings.model_fields
    strangers = [name for name in given.values if name not in fields]
    return [
        Effective(
            name,
            f"{PREFIX}{name.upper()}",
            None if name in problems else _shown(name, getattr(settings, name)),
            given.origins.get(name, "default"),
            problems.get(name),
            described(fields[name]) if name in fields else "",
        )
        for name in (*fields, *strangers)
    ]


def _look(given: Configuration) -> tuple[dict[str, str], Settings]:
    """What is wrong, and the settings without it."""
    try:
        return {}, Settings(**given.values)
    except ValidationError as exc:
        problems = problems_of(exc, given.origins)
    good = {name: value for name, value in given.values.items() if name not in problems}
    rest: dict[str, Any] = {
        name: NO_DATABASE if name == "database_url" else Settings.model_fields[name].default
        for name in problems.keys() & Settings.model_fields
    }
    return problems, Settings(**good, **rest)


def _shown(name: str, value: Any) -> Any:
    if isinstance(value, SecretStr):
        return HIDDEN
    return masked_dsn(value) if name == "database_url" else value


def strange_variables(environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """A line for each variable that looks like a setting and is none."""
    settings = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    for name in sorted(environment):
        if name.upper().startswith(PREFIX) and name.upper() not in settings | ELSEWHERE:
            yield (
                f"{name} is no setting, unless an external system names it"
                f"{hint(name.upper(), settings)}"
            )
