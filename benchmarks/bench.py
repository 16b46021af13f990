"""What the benchmarks share: a server, a database, tasks to work on, and the report."""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psycopg

from pgsched import migrator
from pgsched.devdb import DevServer, state_dir

# What is measured is pgsched and not the disk: nothing is flushed.
SETTINGS: dict[str, str | int] = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "max_connections": 200,
    "fsync": "off",
}

FILL = """
    insert into pgsched.scheduled_tasks (
      queue, priority, schedule_type, scheduled_time, execute_after, max_retries, definition_id,
      trace_id, input_params, schedule_config
    )
    select
      d.queue, %(priority)s, 'IMMEDIATE', at, at, 3, d.id, pgsched.uuid7(), '{"x": 1}', '{}'
    from pgsched.task_definitions as d
    cross join (select now() + %(due_in)s::interval) as n (at)
    cross join generate_series(1, %(count)s)
    where d.name like %(definitions)s
"""


@contextlib.contextmanager
def server() -> Iterator[DevServer]:
    """A server of our own, gone afterwards."""
    own = DevServer(state_dir() / f"bench-{os.getpid()}")
    try:
        with own.shared(**SETTINGS) as running:
            yield running
    finally:
        own.remove()


def empty_database(own: DevServer, name: str) -> str:
    """A fresh one; its DSN."""
    with psycopg.connect(own.dsn(), autocommit=True) as connection:
        connection.execute(f"drop database if exists {name} with (force)".encode())
        connection.execute(f"create database {name}".encode())
    return own.dsn(name)


def new_database(own: DevServer, name: str) -> str:
    """A fresh, migrated database with the definition `bench`; its DSN."""
    dsn = empty_database(own, name)
    migrator.migrate(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("""select pgsched.define_task('bench', '{"a": 1}')""")
    return dsn


def fill(
    connection: psycopg.Connection[Any],
    count: int,
    *,
    due_in: str = "0",
    priority: int = 0,
    definitions: str = "bench",
) -> None:
    """Write *count* tasks of each of these definitions at once, due at the same moment."""
    given = {"count": count, "due_in": due_in, "priority": priority, "definitions": definitions}
    connection.execute(FILL, given)


@contextlib.contextmanager
def receiver(*options: str) -> Iterator[str]:
    """A loopback receiver in another process; its base URL."""
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.receiver", "--port", "0", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        yield f"http://127.0.0.1:{child.stdout.readline().strip()}"
    finally:
        child.terminate()
        child.communicate()


@contextlib.contextmanager
def workers(dsn: str, url: str, count: int = 1, **environment: str) -> Iterator[list[int]]:
    """Worker processes; their pids."""
    settings = {"PGSCHED_DATABASE_URL": dsn, "PGSCHED_EXTERNAL_SYSTEM_URL": url}
    settings |= {"PGSCHED_LOG_LEVEL": "WARNING", "PGSCHED_PUBLIC_URL": "http://127.0.0.1:9"}
    settings |= environment
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "pgsched", "worker"], env={**os.environ, **settings}
        )
        for _ in range(count)
    ]
    try:
        _wait_for_workers(dsn, count)
        yield [child.pid for child in children]
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait(60)


@contextlib.contextmanager
def api(dsn: str, **environment: str) -> Iterator[int]:
    """An API process; its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    settings = {"PGSCHED_DATABASE_URL": dsn, "PGSCHED_API_PORT": str(port)}
    settings |= {"PGSCHED_LOG_LEVEL": "WARNING"} | environment
    child = subprocess.Popen(
        [sys.executable, "-m", "pgsched", "serve"], env={**os.environ, **settings}
    )
    try:
        _wait_for_api(port)
        yield port
    finally:
        child.terminate()
        child.wait(60)


def _wait_for_api(port: int) -> None:
    for _ in range(1500):
        with contextlib.suppress(OSError):
            get(f"http://127.0.0.1:{port}/health/ready")
            return
        time.sleep(0.02)
    raise TimeoutError("the API does not answer")


def _wait_for_workers(dsn: str, count: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        wait_until(connection, f"select count(*) >= {count} from pgsched.workers")


def wait_until(connection: psycopg.Connection[Any], query: str) -> None:
    """Poll until *query* is true, every 20 ms."""
    for _ in range(6000):
        row = connection.execute(query.encode()).fetchone()
        if row and row[0]:
            return
        connection.execute("select pg_sleep(0.02)")
    raise TimeoutError(query)


def sessions(connection: psycopg.Connection[Any]) -> list[int]:
    """The processes of all other clients of this database."""
    query = """
        select pid from pg_stat_activity
        where datname = current_database() and backend_type = 'client backend'
    """
    return [row[0] for row in connection.execute(query) if row[0] != connection.info.backend_pid]


def cpu_of(pids: Iterable[int]) -> float:
    """Seconds of CPU that processes have used, in all."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rate(step: Callable[[int], None], turns: range) -> float:
    """Calls of *step* per second."""
    started = time.perf_counter()
    for turn in turns:
        step(turn)
    return len(turns) / (time.perf_counter() - started)


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        body: bytes = answer.read()
        return body


def percentile(values: Iterable[float], percent: int) -> float:
    """The *percent*-th percentile of at least two values."""
    return statistics.quantiles(values, n=100)[percent - 1]


def row(what: str, figure: str, bar: str = "") -> None:
    """One line of the report."""
    print(f"{what:<66} {figure:>24}   {bar}", flush=True)
