"""`pgsched dev`: all of it runs, and all of it ends, however it ends."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from pgsched.devdb import DevServer, state_dir
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


class Dev(NamedTuple):
    """One run of the command, and what it has printed."""

    process: subprocess.Popen[str]
    data: Path
    printed: list[str]
    reader: threading.Thread

    def says(self, pattern: str) -> re.Match[str] | None:
        return re.search(pattern, "".join(self.printed))

    def others(self) -> dict[str, int]:
        """The processes that have to do with its directory, by what they run, without itself."""
        found: dict[str, int] = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().decode().replace("\0", " ")
                environment = (entry / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(self.data) in words + environment and int(entry.name) != self.process.pid:
                found[words] = int(entry.name)
        return found

    def pid_of(self, words: str) -> int:
        return next(pid for command, pid in self.others().items() if words in command)


Start = Callable[..., Dev]


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    root = state_dir() / f"test-{secrets.token_hex(4)}"
    yield root
    DevServer(root).remove()


@pytest.fixture
def start(data: Path, tmp_path: Path) -> Iterator[Start]:
    started: list[Dev] = []

    def start(**environment: str) -> Dev:
        process = subprocess.Popen(
            [sys.executable, "-m", "pgsched", "dev", "--data", str(data)],
            cwd=tmp_path,
            env={**os.environ, "PGSCHED_API_PORT": "0", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        printed: list[str] = []
        reader = threading.Thread(target=_read, args=[process, printed])
        reader.start()
        dev = Dev(process, data, printed, reader)
        started.append(dev)
        return dev

    yield start
    for dev in started:
        dev.process.kill()
        dev.process.wait()
        eventually(lambda: not dev.others())  # noqa: B023 (called at once)
        dev.reader.join()


def _read(process: subprocess.Popen[str], printed: list[str]) -> None:
    assert process.stdout
    with process.stdout as lines:
        printed.extend(iter(lines.readline, ""))


def up(dev: Dev) -> Dev:
    eventually(lambda: dev.says(r"watch +pgsched top") or dev.process.poll() is not None)
    assert dev.says("all is up"), "".join(dev.printed)
    return dev


def test_a_task_gets_through_and_a_ctrl_c_ends_it_all(start: Start) -> None:
    dev = up(start())
    for name in ("pgsched.devdb", "pgsched.demo.executor", "pgsched serve", "pgsched worker"):
        assert dev.pid_of(name)

    match = dev.says(r"API +(\S+)/docs")
    assert match
    with httpx.Client(base_url=match[1], trust_env=False) as api:
        api.post("/api/definitions", json={"name": "hello"}).raise_for_status()
        task_id = api.post("/api/tasks", json={"definition": "hello"}).json()["task_id"]
        eventually(lambda: api.get(f"/api/tasks/{task_id}").json()["status"] == "SUCCESS")
    dev.process.send_signal(signal.SIGINT)

    assert dev.process.wait(30) == 0
    assert dev.others() == {}
    assert dev.says(r"worker +\| .*stopped")


def test_nothing_is_left_when_it_is_killed(start: Start) -> None:
    dev = up(start())

    dev.process.kill()

    eventually(lambda: not dev.others())


def test_nothing_is_left_when_it_is_killed_while_it_starts(start: Start) -> None:
    dev = start()
    eventually(lambda: dev.says("starting Postgres"))
    eventually(dev.others)

    dev.process.kill()

    eventually(lambda: not dev.others())


def test_when_one_process_ends_all_do_and_it_is_named(start: Start) -> None:
    dev = up(start())

    os.kill(dev.pid_of("pgsched worker"), signal.SIGKILL)

    assert dev.process.wait(30) == 1
    assert dev.says(r"pgsched: worker ended by itself, with exit code -9\n")
    assert dev.others() == {}


def test_a_port_that_is_taken_is_named(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        dev = start(PGSCHED_API_PORT=port)

        assert dev.process.wait(60) == 1
    assert dev.says(rf"api +\| pgsched: PGSCHED_API_HOST and .* port {port}: .*in use")
    assert dev.says(r"pgsched: api ended by itself, with exit code 1\n")
    assert dev.others() == {}


def test_without_a_server_it_says_so_at_once(start: Start, tmp_path: Path) -> None:
    dev = start(PGSCHED_PG_BIN=str(tmp_path))

    assert dev.process.wait(30) == 1
    assert dev.says(r"pgsched: PGSCHED_PG_BIN: .* has no initdb, pg_ctl, postgres\n")
