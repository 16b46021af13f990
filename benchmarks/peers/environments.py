"""An environment of its own for each peer: its public package, at the version named here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from pgsched.devdb import state_dir

ADAPTERS = Path(__file__).parent / "adapters"
# What the adapters themselves need.
PYTHON = ["aiohttp", "uvloop"]
NODE = {"node": "22", "undici": "7", "pg": "8"}


def python(name: str, *packages: str) -> list[str]:
    """The command that runs the adapter of a peer from PyPI."""
    return [packages_of(name, *packages, *PYTHON), str(ADAPTERS / f"with_{name}.py")]


def packages_of(name: str, *packages: str) -> str:
    """The Python of an environment that has these packages."""
    home = _home(name, list(packages))
    program = home / "bin" / "python"
    if not (home / ".ready").exists():
        _say(name, packages)
        _run(sys.executable, "-m", "venv", str(home))
        _run(str(program), "-m", "pip", "install", "--disable-pip-version-check", *packages)
        (home / ".ready").touch()
    return str(program)


def node(name: str, package: str, version: str) -> list[str]:
    """The command that runs the adapter of a peer from npm, on a Node.js from there too."""
    wanted = {package: version, **NODE}
    home = _home(name, [f"{key}@{value}" for key, value in wanted.items()])
    if not (home / ".ready").exists():
        if not shutil.which("npm"):
            raise FileNotFoundError(f"{package} needs npm, which is not installed")
        _say(name, [f"{package}@{version}"])
        home.mkdir(parents=True, exist_ok=True)
        (home / "package.json").write_text(json.dumps({"private": True, "dependencies": wanted}))
        _run("npm", "install", "--silent", "--engine-strict=false", cwd=home)
        (home / ".ready").touch()
    # Node.js looks for packages beside the file, so the file goes to the packages.
    for file in ADAPTERS.glob("*.mjs"):
        shutil.copy(file, home)
    return [str(home / "node_modules" / ".bin" / "node"), str(home / f"with_{name}.mjs")]


def own(name: str) -> list[str]:
    """The command that runs pgsched's, in the environment of this process."""
    return [sys.executable, str(ADAPTERS / f"with_{name}.py")]


def _home(name: str, packages: list[str]) -> Path:
    mark = "-".join(sorted(p.replace("==", "-").replace("@", "-") for p in packages))
    safe = "".join(c if c.isalnum() or c in "-." else "_" for c in mark)
    return state_dir() / "peer-packages" / f"{name}-{safe}"


def _run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{command[0]} failed: {done.stderr}")


def _say(name: str, packages: object) -> None:
    print(f"installing {name}: {packages} ...", file=sys.stderr, flush=True)
