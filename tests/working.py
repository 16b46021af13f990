"""Real processes of pgsched for tests: workers, and the API."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.receiver import Receiver, receiving
from tests.roles import as_role
from tests.waiting import eventually

Connection = psycopg.Connection[Any]
StartWorker = Callable[..., "Process"]


class Process:
    """`pgsched worker`, or another command."""

    def __init__(self, log: Path, environment: dict[str, str], *command: str) -> None:
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *(command or ("pgsched", "worker"))],
                env={**os.environ, **environment},
                stdout=out,
                stderr=out,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait_until_ready(self) -> None:
        eventually(lambda: "worker ready" in self.log)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as it:
        yield it


@pytest.fixture
def start_worker(dsn: str, receiver: Receiver, tmp_path: Path) -> Iterator[StartWorker]:
    started: list[Process] = []

    def start(*command: str, **environment: str) -> Process:
        defaults = {
            "PGSCHED_DATABASE_URL": as_role(dsn, "worker"),
            "PGSCHED_EXTERNAL_SYSTEM_URL": receiver.url,
            "PGSCHED_PUSH_SLOTS": "200",
            "PGSCHED_SCHEDULE_SCAN_INTERVAL": "0.2",
        }
        log = tmp_path / f"worker-{len(started)}.log"
        worker = Process(log, defaults | environment, *command)
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.kill()


@pytest.fixture
def db(postgresql: Connection) -> Connection:
    """The test's database, with a lease of 3 seconds in place of 30."""
    postgresql.autocommit = True
    postgresql.execute(
        "create or replace function pgsched.lease_term() returns interval"
        " language sql immutable return interval '3 seconds'"
    )
    postgresql.execute("select pgsched.define_task('job', p_retry_delay => '0')")
    return postgresql


def schedule(db: Connection, count: int) -> list[str]:
    rows = db.execute(
        "select pgsched.schedule_immediate('job')::text from generate_series(1, %s)", [count]
    )
    return [row[0] for row in rows]


def statuses(db: Connection) -> dict[str, int]:
    return dict(db.execute("select status, count(*) from pgsched.tasks group by 1").fetchall())
