"""Where settings come from: flags over the environment over a TOML file over the defaults."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import EnvSettingsSource

from pgsched.errors import ConfigError
from pgsched.settings import PREFIX, Settings

# Read from the working directory, unless another file is named.
FILE = "pgsched.toml"


class Configuration(NamedTuple):
    """What was given for the settings, as it was given, and from where."""

    values: dict[str, Any]
    origins: dict[str, str]


def load_settings(**overrides: Any) -> Settings:
    """
    Read the settings; an override that is None is not one.

    Overrides go before the environment, that before the file which
    PGSCHED_CONFIG_FILE names, or `pgsched.toml` in the working directory.

    Raises:
        ConfigError: A line for each setting that is missing or wrong.
    """
    given = read(overrides)
    try:
        return Settings(**given.values)
    except ValidationError as exc:
        raise ConfigError("\n".join(problems_of(exc, given.origins).values())) from None


def read(overrides: Mapping[str, Any]) -> Configuration:
    """
    What is given for each setting, not yet looked at.

    Raises:
        ConfigError: The file cannot be read.
    """
    flags = {name: value for name, value in overrides.items() if value is not None}
    environment = EnvSettingsSource(Settings)()
    path, origin = _file({**environment, **flags})
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for source, more in ((origin, _toml(path)), ("environment", environment), ("flag", flags)):
        values |= more
        origins |= dict.fromkeys(more, source)
    if path is not None and "config_file" not in flags | environment:
        values["config_file"], origins["config_file"] = str(path), "working directory"
    return Configuration(values, origins)


def _file(given: Mapping[str, Any]) -> tuple[Path | None, str]:
    if named := given.get("config_file"):
        return Path(named), str(named)
    return (Path(FILE), FILE) if Path(FILE).is_file() else (None, "")


def _toml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"{PREFIX}CONFIG_FILE: {path} cannot be read: {exc.strerror}") from None
    except ValueError as exc:
        raise ConfigError(f"{path} is no TOML file: {exc}") from None
    if "config_file" in found:
        raise ConfigError(f"{path}: config_file cannot name another file")
    return found


def problems_of(invalid: ValidationError, origins: Mapping[str, str]) -> dict[str, str]:
    """A line for each setting that is missing or wrong, by its name."""
    return {str(error["loc"][0]): _explain(error, origins) for error in invalid.errors()}


def _explain(error: Any, origins: Mapping[str, str]) -> str:
    name = str(error["loc"][0])
    origin = origins.get(name, "")
    file = f"{origin}: " if origin not in ("", "flag", "environment", "working directory") else ""
    if name not in Settings.model_fields:
        return f"{file}{name} is no setting{hint(name, Settings.model_fields)}"
    what = f"{file}{name}" if file else f"{PREFIX}{name.upper()}"
    description = described(Settings.model_fields[name])
    match error["type"]:
        case "missing":
            return f"{what} is missing. {description}"
        case "value_error":
            return f"{what} {error['ctx']['error']}"
        case _:
            return f"{what}: {error['msg'][0].lower()}{error['msg'][1:]}. {description}"


def hint(name: str, names: Iterable[str]) -> str:
    """Which of *names* may have been meant; empty where none is near."""
    near = difflib.get_close_matches(name, names, n=1)
    return f": did you mean {near[0]}?" if near else ""


def described(field: FieldInfo) -> str:
    """What a setting is, and its range."""
    limits = limits_of(field)
    return f"{field.description} Range: {limits}." if limits else str(field.description)


def limits_of(field: FieldInfo) -> str:
    """As '1 to 1000' or 'DEBUG, INFO'; empty where any text will do."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(get_args(field.annotation))
    if field.annotation is bool:
        return "true, false"
    bounds = {name: value for m in field.metadata for name, value in _bounds(m)}
    return f"{bounds['ge']:g} to {bounds['le']:g}" if bounds.keys() >= {"ge", "le"} else ""


def _bounds(metadata: object) -> Iterator[tuple[str, float]]:
    for name in ("ge", "le"):
        if (limit := getattr(metadata, name, None)) is not None:
            yield name, limit


def default_of(field: FieldInfo) -> str:
    """As it would be written in the environment; 'required' and 'none' where there is no value."""
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, bool):
        return str(field.default).lower()
    return "none" if field.default is None else f"{field.default}"
