"""
The primary dies, or takes no more writes, and its standby is promoted.

Each task whose commit was acknowledged is there, and ends; workers and API find
the new primary by themselves; and nobody touches the old one.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from pgsched.devdb import DevServer
from pgsched.testing import FakeExternalSystem
from tests.chaos.pair import KILLS, SESSIONS, Pair, execute, pair, value
from tests.roles import as_role
from tests.waiting import eventually
from tests.working import Process

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

KEY = "of-the-tests"
PATIENCE = 60.0
COUNTS = "select coalesce(jsonb_object_agg(status, n), '{}') from (select status, count(*) as n"
COUNTS += " from pgsched.tasks group by 1) as t"


class Client:
    """Schedules one task after the other, and notes those whose commit was acknowledged."""

    def __init__(self, schedule: Callable[[], str]) -> None:
        self.acknowledged: list[str] = []
        self.refused = 0
        self._schedule = schedule
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_over.wait(0.01):
            try:
                self.acknowledged.append(self._schedule())
            except (psycopg.Error, httpx.HTTPError):
                self.refused += 1

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()

    def go_on(self, count: int) -> None:
        """Wait until so many more are there."""
        wanted = len(self.acknowledged) + count
        eventually(lambda: len(self.acknowledged) >= wanted, PATIENCE)


class Stage:
    """A pair, two workers and an API that know both of it, and two clients."""

    def __init__(self, servers: Pair, system: FakeExternalSystem, folder: Path) -> None:
        self.servers = servers
        self._folder = folder
        self._common = {
            "PGSCHED_DATABASE_URL": as_role(servers.dsn, "operator"),
            "PGSCHED_EXTERNAL_SYSTEM_URL": system.url,
            "PGSCHED_API_KEY": KEY,
            "PGSCHED_API_PORT": "0",
        }
        self.processes: list[Process] = []
        api = self.run("serve")
        [self.url] = eventually(lambda: re.findall(r"url=(http://\S+)", api.log))
        for _ in range(2):
            self.run("worker").wait_until_ready()
        self._http = httpx.Client(headers={"Authorization": f"Bearer {KEY}"}, timeout=30)
        self.clients = [Client(self._by_sql), Client(self._by_api)]

    def run(self, command: str) -> Process:
        more = {}
        if command == "worker":
            dsn = as_role(self.servers.dsn, "worker")
            more = {"PGSCHED_DATABASE_URL": dsn, "PGSCHED_PUBLIC_URL": self.url}
        log = self._folder / f"{command}-{len(self.processes)}.log"
        self.processes.append(Process(log, self._common | more, "pgsched", command))
        return self.processes[-1]

    def _by_sql(self) -> str:
        with psycopg.connect(self.servers.dsn, autocommit=True, connect_timeout=5) as connection:
            row = connection.execute("select pgsched.schedule_immediate('job')").fetchone()
            assert row is not None
            return str(row[0])

    def _by_api(self) -> str:
        answer = self._http.post(f"{self.url}/api/tasks", json={"definition": "job"})
        answer.raise_for_status()
        return str(answer.json()["task_id"])

    def readiness(self) -> tuple[int, str]:
        answer = httpx.get(f"{self.url}/health/ready")
        return answer.status_code, answer.text

    def go_on(self, count: int = 50) -> None:
        for client in self.clients:
            client.go_on(count)

    def check(self, server: DevServer) -> None:
        """All that was acknowledged is on *server* and has succeeded, and nothing has died."""
        for client in self.clients:
            client.stop()
        acknowledged = [task for client in self.clients for task in client.acknowledged]
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            query = "select id::text from pgsched.tasks where id = any (%s)"
            there = {row[0] for row in connection.execute(query, [acknowledged]).fetchall()}
        assert set(acknowledged) - there == set()
        eventually(lambda: set(counts(server)) == {"SUCCESS"}, PATIENCE)
        for process in self.processes:
            assert process.process.poll() is None, process.log
            assert "has a fault" not in process.log

    def close(self) -> None:
        for client in self.clients:
            client.stop()
        self._http.close()
        for process in self.processes:
            process.kill()


def counts(server: DevServer) -> Any:
    return value(server, COUNTS)


def is_left(server: DevServer) -> bool:
    """Whether no session of pgsched is there."""
    return value(server, SESSIONS) == 0


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with pair() as servers, FakeExternalSystem(reports="SUCCESS", report_key=KEY) as system:
        term = "create or replace function pgsched.lease_term() returns interval"
        execute(servers.primary, f"{term} language sql immutable return interval '3 seconds'")
        execute(servers.primary, "select pgsched.define_task('job', p_retry_delay => '0')")
        it = Stage(servers, system, tmp_path)
        try:
            yield it
        finally:
            it.close()


@pytest.mark.parametrize("how", KILLS)
def test_nothing_acknowledged_is_lost_with_the_primary(stage: Stage, how: str) -> None:
    servers = stage.servers
    stage.go_on()

    servers.kill_primary(KILLS[how])
    eventually(lambda: all(client.refused for client in stage.clients))
    servers.promote()
    stage.go_on()

    stage.check(servers.standby)

    # The old one comes back, as one that takes no writes: nobody has a use for it.
    servers.return_as_standby()
    newcomer = stage.run("worker")
    newcomer.wait_until_ready()
    stage.run("worker").wait_until_ready()
    assert value(servers.standby, "select count(*) from pgsched.workers") == 4
    execute(servers.standby, "select pgsched.schedule_immediate('job')")
    stage.check(servers.standby)
    assert is_left(servers.primary)
    assert stage.readiness()[0] == 200


def test_a_primary_that_takes_no_writes_any_more_is_left(stage: Stage) -> None:
    """As at a planned change: the sessions live on, and only writes fail."""
    old, new = stage.servers.primary, stage.servers.standby
    stage.go_on()
    assert not is_left(old)

    execute(old, "alter system set default_transaction_read_only = on")
    execute(old, "select pg_reload_conf()")
    eventually(lambda: stage.readiness()[0] == 503)
    end = f"select pg_last_wal_replay_lsn() >= '{value(old, 'select pg_current_wal_lsn()')}'"
    eventually(lambda: value(new, end))
    stage.servers.promote()
    stage.go_on()

    eventually(lambda: stage.readiness()[0] == 200, PATIENCE)
    eventually(lambda: is_left(old), PATIENCE)
    listening = f"{SESSIONS} and application_name = 'pgsched listen'"
    eventually(lambda: value(new, listening) == 2)
    stage.check(new)
