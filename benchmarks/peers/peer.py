"""A peer: how it is run, and how its tables tell that it has finished."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from benchmarks.peers import environments


class Peer(NamedTuple):
    """One of those compared."""

    name: str
    version: str
    # Makes its environment, and gives the command that runs its adapter there.
    command: Callable[[], list[str]]
    # How many jobs that are due are not done.
    unfinished: str
    # How it is set up, in words.
    setup: str

    def run(self, command: str, dsn: str, **options: object) -> dict[str, Any]:
        """Run one command of its adapter to the end; the last of what it says."""
        done = subprocess.run(
            [*self.command(), command, json.dumps({"dsn": dsn, **options})],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env=ENVIRONMENT,
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        facts: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        return facts

    @contextlib.contextmanager
    def workers(self, dsn: str, count: int = 1, **options: object) -> Iterator[list[Working]]:
        """That many processes, each one worker."""
        argument = json.dumps({"dsn": dsn, **options})
        crew = [Working([*self.command(), "work", argument]) for _ in range(count)]
        try:
            yield crew
        finally:
            for one in crew:
                one.end()


ENVIRONMENT = {**os.environ, "PYTHONWARNINGS": "ignore", "NODE_ENV": "production"}


@dataclass
class Working:
    """A worker process, and what it has told so far."""

    command: list[str]
    count: int = 0
    at: float = 0.0
    waited: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                for name, value in json.loads(line).items():
                    setattr(self, name, value)

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self) -> None:
        """Let it tell the rest, and go."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(10)


def _due(table: str, condition: str) -> str:
    return f"select count(*) from {table} where {condition}"


def _from_pypi(package: str, version: str, unfinished: str, setup: str, *more: str) -> Peer:
    name = package.removesuffix("-pg")
    wanted = (f"{package}=={version}", *more)
    command = partial(environments.python, name, *wanted)
    return Peer(name, version, command, unfinished, setup)


def _from_npm(package: str, version: str, unfinished: str, setup: str) -> Peer:
    name = package.replace("-", "_")
    command = partial(environments.node, name, package, version)
    return Peer(name, version, command, unfinished, setup)


SOON = "<= now() + interval '1 hour'"
PGSCHED = Peer(
    "pgsched",
    "this tree",
    lambda: environments.own("pgsched"),
    _due("pgsched.scheduled_tasks", f"execute_after {SOON}"),
    "`SchedulerService`; one `Worker` a process, PGSCHED_PUSH_SLOTS=64",
)
PEERS = [
    PGSCHED,
    _from_pypi(
        "procrastinate",
        "3.10.0",
        _due(
            "procrastinate_jobs",
            f"status in ('todo', 'doing') and coalesce(scheduled_at, now()) {SOON}",
        ),
        "`PsycopgConnector`, `concurrency=64`, LISTEN; `batch_defer_async` by 1,000",
        "psycopg[binary]",
    ),
    _from_pypi(
        "pgqueuer",
        "1.6.0",
        _due("pgqueuer", f"execute_after {SOON}"),
        "asyncpg, `batch_size=100`; `enqueue` of lists by 1,000",
        "asyncpg",
    ),
    _from_pypi(
        "chancy",
        "0.26.0",
        _due("chancy_jobs", f"state in ('pending', 'running', 'retrying') and scheduled_at {SOON}"),
        "`Executor.Async`, `concurrency=64`, `eager_polling`; `push_many` by 1,000",
        "psycopg[binary]",
    ),
    _from_pypi(
        "awa-pg",
        "0.6.9",
        _due("awa.jobs", "state in ('available', 'running', 'retryable')"),
        "`AsyncClient`, 256 workers on the queue; `enqueue_many_copy` by 10,000",
    ),
    _from_npm(
        "graphile-worker",
        "0.18.0",
        _due("graphile_worker._private_jobs", f"run_at {SOON}"),
        "`concurrentJobs: 64`, `localQueue.size: 500`, `completeJobBatchDelay: 0`;"
        " `addJobs` by 1,000",
    ),
    _from_npm(
        "pg-boss",
        "12.38.0",
        _due("pgboss.job", f"state < 'completed' and start_after {SOON}"),
        "`batchSize: 1000`, `burstWhenBatchFull`, `useListenNotify`; `insert` by 1,000",
    ),
]
