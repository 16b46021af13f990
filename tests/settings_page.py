"""
The tables of docs/settings.md, made from the class.

`python -m tests.settings_page` writes them into the page.
"""

from __future__ import annotations

import re
from pathlib import Path

from pgsched.configuration import default_of, limits_of
from pgsched.settings import PREFIX, Settings

PAGE = Path(__file__).parents[1] / "docs/settings.md"
# The first setting of each table, in the order of the class.
FIRST = ["config_file", "external_system_url", "schedule_scan_interval"]
FIRST += ["default_max_retries", "api_host"]
HEAD = "| Variable | Default | Range | Meaning |\n|---|---|---|---|\n"
TABLE = re.compile(re.escape(HEAD) + r"(?:\|.*\n)*")


def tables() -> list[str]:
    """One for each group of settings."""
    found: list[str] = []
    for name in Settings.model_fields:
        if name in FIRST:
            found.append(HEAD)
        found[-1] += _row(name)
    return found


def _row(name: str) -> str:
    field = Settings.model_fields[name]
    default, limits = default_of(field), limits_of(field)
    given = default if default in ("required", "none") else f"`{default}`"
    meaning = str(field.description).replace(".  ", ". ").removesuffix(".")
    return f"| `{PREFIX}{name.upper()}` | {given} | {limits} | {meaning} |\n"


def page() -> str:
    """The page as it should be: its own words, and our tables."""
    parts = TABLE.split(PAGE.read_text(encoding="utf-8"))
    made = tables()
    if len(parts) != len(made) + 1:
        raise SystemExit(f"{PAGE} has {len(parts) - 1} tables of settings, not {len(made)}")
    return parts[0] + "".join(table + part for table, part in zip(made, parts[1:], strict=True))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
