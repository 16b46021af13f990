"""Opting in, and Node-RED itself."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.asked import asked
from tests.node_red.program import EXAMPLE, INSTALLED


@pytest.fixture(scope="session", autouse=True)
def opted_in(request: pytest.FixtureRequest) -> None:
    if not asked("PGSCHED_TEST_NODE_RED") and "node_red" not in request.config.option.markexpr:
        pytest.skip("set PGSCHED_TEST_NODE_RED=1 to test with Node-RED")
    if not shutil.which("npm"):
        pytest.skip("there is no npm")


@pytest.fixture(scope="session")
def node_red_program() -> Path:
    """Node-RED as the example pins it, installed once per checkout."""
    wanted = json.loads((EXAMPLE / "package.json").read_bytes())["dependencies"]["node-red"]
    package = INSTALLED / "node_modules" / "node-red" / "package.json"
    if not package.exists() or json.loads(package.read_bytes())["version"] != wanted:
        INSTALLED.mkdir(parents=True, exist_ok=True)
        shutil.copy(EXAMPLE / "package.json", INSTALLED)
        npm = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        cache = f"--cache={INSTALLED / 'cache'}"
        subprocess.run([*npm, cache], cwd=INSTALLED, check=True)
    return package.with_name("red.js")
