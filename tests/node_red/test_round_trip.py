"""A real worker, a real API, and an executor that nobody here wrote: there and back."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgsched.ports import free_port
from tests.node_red.program import API_KEY, PUSH_KEY, running
from tests.roles import as_role
from tests.waiting import eventually

pytestmark = [pytest.mark.node_red, pytest.mark.timeout(600)]


@contextlib.contextmanager
def pgsched(command: str, log: Path, environment: dict[str, str]) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "pgsched", command],
            env={**os.environ, **environment},
            stdout=out,
            stderr=out,
        )
    try:
        yield
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.wait(40)


def test_a_hundred_tasks_go_through_node_red_and_end_in_success(
    postgresql: psycopg.Connection[Any], dsn: str, node_red_program: Path, tmp_path: Path
) -> None:
    port = free_port()
    api_url = f"http://127.0.0.1:{port}"
    environment = {
        "PGSCHED_DATABASE_URL": as_role(dsn, "operator"),
        "PGSCHED_API_KEY": API_KEY,
        "PGSCHED_API_PORT": str(port),
        "PGSCHED_PUBLIC_URL": api_url,
        "PGSCHED_EXTERNAL_SYSTEM_API_KEY": PUSH_KEY,
    }
    postgresql.autocommit = True
    postgresql.execute("select pgsched.define_task('job')")
    postgresql.execute("select pgsched.schedule_immediate('job') from generate_series(1, 100)")

    with (
        running(node_red_program, tmp_path, api_url) as executor,
        pgsched("serve", tmp_path / "api.log", environment),
        pgsched(
            "worker",
            tmp_path / "worker.log",
            {
                **environment,
                "PGSCHED_DATABASE_URL": as_role(dsn, "worker"),
                "PGSCHED_EXTERNAL_SYSTEM_URL": executor,
            },
        ),
    ):
        query = "select count(*) from pgsched.tasks where finished_at is not null"
        eventually(lambda: postgresql.execute(query).fetchone() == (100,), 60)

    rows = postgresql.execute(
        "select status, output_ref = 'node-red:' || id || ':1', count(*)"
        " from pgsched.tasks group by 1, 2"
    ).fetchall()
    assert rows == [("SUCCESS", True, 100)]
