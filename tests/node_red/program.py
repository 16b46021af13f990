"""Node-RED as a process, running the flow of the example."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx

from pgsched.ports import free_port
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "node-red"
INSTALLED = ROOT / "build" / "node-red"
API_KEY = "the-key-of-the-api"
PUSH_KEY = "the-key-of-the-executor"


@contextlib.contextmanager
def running(program: Path, home: Path, api_url: str) -> Iterator[str]:
    """The base URL of an executor that reports to the API at *api_url*."""
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PORT": str(port),
        "PGSCHED_PUBLIC_URL": api_url,
        "PGSCHED_API_KEY": API_KEY,
        "PGSCHED_EXTERNAL_SYSTEM_API_KEY": PUSH_KEY,
    }
    command: list[str | Path] = ["node", program, "--settings", EXAMPLE / "settings.js"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=home)
    try:
        eventually(lambda: answers(port) or process.poll() is not None, 60)
        assert process.poll() is None, (home / "log").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def answers(port: int) -> bool:
    """Whether the flow itself runs: the port is open some time before."""
    try:
        status = httpx.post(
            f"http://127.0.0.1:{port}/api/tasks/status", trust_env=False
        ).status_code
    except httpx.TransportError:
        return False
    return status != 404
