"""All of it through PgBouncer in transaction mode; and what one is told who forgot the setting."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgsched import migrator
from pgsched.errors import Unavailable
from pgsched.scheduler import SchedulerService
from pgsched.testing import FakeExternalSystem
from tests.pgbouncer import MISSING, find_pgbouncer, pgbouncer
from tests.receiver import Receiver
from tests.roles import as_role
from tests.sessions import count_sessions
from tests.test_migrations import migration
from tests.waiting import eventually
from tests.working import Connection, StartWorker, schedule, statuses

pytestmark = [
    pytest.mark.own_database,
    pytest.mark.skipif(find_pgbouncer() is None, reason=MISSING),
]

CALLBACK_SECRET = "whsec_" + base64.b64encode(b"of these tests" * 2).decode()
# As many sessions for all that connect as one role: clients have to share them.
FEW = 3
FORGOTTEN = "set PGSCHED_POLL_ONLY=true"
TAKES_OPTIONS = "ignore_startup_parameters = options"
TYPES = {"IMMEDIATE", "DELAYED", "CRON", "LOOP", "INTERVAL_LOOP", "LOOP_ONCE"}

Through = Callable[..., str]


@pytest.fixture
def direct(db: Connection) -> str:
    """The database of the test, without a pooler also where others have one."""
    info = db.info
    return make_conninfo(host=info.host, port=info.port, user=info.user, dbname=info.dbname)


@pytest.fixture
def through(direct: str) -> Iterator[Through]:
    """The same through a pooler, which is as the test says."""
    with ExitStack() as stack:
        yield lambda **given: stack.enter_context(pgbouncer(direct, **given)).dsn(direct)


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGSCHED_POLL_ONLY", raising=False)


@pytest.fixture
def system() -> Iterator[FakeExternalSystem]:
    """It reports the success of each task to the API."""
    with FakeExternalSystem(reports="SUCCESS") as it:
        yield it


async def schedule_all(dsn: str) -> None:
    """All six types, 300 tasks to begin with, by one who is a client of the pooler as well."""
    service = SchedulerService()
    async with await psycopg.AsyncConnection.connect(
        as_role(dsn, "client"), prepare_threshold=None
    ) as session:
        for n in range(200):
            await service.schedule_immediate(session, "job", {"n": n})
            if n % 10 == 0:
                await session.commit()
        for _ in range(100):
            await service.schedule_delayed(session, "job", timedelta(seconds=1))
        await service.schedule_cron(session, "job", "* * * * * *", name="each second", max_runs=2)
        await service.schedule_loop(session, "job", max_rounds=5)
        pause = timedelta(seconds=0.3)
        await service.schedule_loop(session, "job", max_rounds=3, loop_interval=pause)
        await service.trigger_loop_once(session, "job")


async def test_tasks_of_all_six_types_end(
    db: Connection,
    direct: str,
    through: Through,
    system: FakeExternalSystem,
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    dsn = through(size=FEW)
    common = {"PGSCHED_POLL_ONLY": "true", "PGSCHED_CALLBACK_SECRET": CALLBACK_SECRET}
    operator = common | {"PGSCHED_DATABASE_URL": as_role(dsn, "operator")}
    api = start_worker("pgsched", "serve", PGSCHED_API_PORT="0", **operator)
    [url] = eventually(lambda: re.findall(r"url=(http://\S+)", api.log))
    worker = common | {
        "PGSCHED_DATABASE_URL": as_role(dsn, "worker"),
        "PGSCHED_EXTERNAL_SYSTEM_URL": system.url,
        "PGSCHED_PUBLIC_URL": url,
    }
    workers = [start_worker(**worker) for _ in range(2)]

    await schedule_all(dsn)
    command = start_worker("pgsched", "submit", "job", "--wait", **operator)

    assert command.process.wait(30) == 0, command.log
    eventually(lambda: sum(statuses(db).values()) >= 312)
    # Who changes the schema needs no pooler, and those behind one go on.
    column = "alter table pgsched.queues add column later integer;"
    comment = "comment on column pgsched.queues.later is 'For the test.';"
    files = migration(tmp_path, f"{column} {comment}")
    assert [file.name for file in migrator.migrate(direct, files=files)] == ["later"]
    schedule(db, 50)
    eventually(lambda: set(statuses(db)) == {"SUCCESS"})
    assert statuses(db) == {"SUCCESS": 200 + 100 + 2 + 5 + 3 + 1 + 1 + 50}
    types = db.execute("select distinct schedule_type from pgsched.tasks").fetchall()
    assert {name for (name,) in types} == TYPES
    for process in (api, *workers):
        assert process.process.poll() is None
        assert "ERROR" not in process.log
        assert "WARNING" not in process.log
    seen = "select from pg_stat_activity where datname = current_database() and usename = %s"
    sessions = db.execute(seen, ["pgsched_test_worker"]).rowcount
    assert 0 < sessions <= FEW  # of up to 18 that two workers have connected


@pytest.mark.parametrize("more", ["", TAKES_OPTIONS], ids=["as it comes", "takes options"])
@pytest.mark.parametrize("command", ["worker", "serve"])
def test_who_forgot_the_setting_is_told(
    through: Through, start_worker: StartWorker, command: str, more: str
) -> None:
    dsn = as_role(through(more=more), "operator")

    process = start_worker("pgsched", command, PGSCHED_DATABASE_URL=dsn, PGSCHED_API_PORT="0")

    assert process.process.wait(30) == 1
    assert "pgsched: PGSCHED_DATABASE_URL leads through a pooler" in process.log
    assert FORGOTTEN in process.log


def test_a_command_tells_it_too(through: Through, start_worker: StartWorker) -> None:
    dsn = as_role(through(), "operator")

    process = start_worker("pgsched", "queues", "list", PGSCHED_DATABASE_URL=dsn)

    assert process.process.wait(30) == 1
    assert FORGOTTEN in process.log
    assert len(process.log.splitlines()) == 1


def test_behind_one_in_session_mode_a_worker_is_woken(
    db: Connection, through: Through, receiver: Receiver, start_worker: StartWorker
) -> None:
    dsn = as_role(through(mode="session", more=TAKES_OPTIONS), "worker")
    worker = start_worker(PGSCHED_DATABASE_URL=dsn, PGSCHED_SCHEDULE_SCAN_INTERVAL="60")
    worker.wait_until_ready()
    eventually(lambda: count_sessions(db, "pgsched listen") == 1)

    schedule(db, 1)

    receiver.wait_for(1)


async def test_a_caller_whose_session_has_changed_is_told_what_to_do(through: Through) -> None:
    dsn, service = as_role(through(), "client"), SchedulerService()
    first, second = [
        await psycopg.AsyncConnection.connect(dsn, autocommit=True, prepare_threshold=0)
        for _ in range(2)
    ]
    async with first, second:
        await service.schedule_immediate(first, "job")
        with pytest.raises(Unavailable, match=FORGOTTEN):
            await service.schedule_immediate(second, "job")


def test_a_migration_can_go_through_it(direct: str, through: Through) -> None:
    name = f"pgsched_pooled_{secrets.token_hex(4)}"
    with psycopg.connect(direct, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
        try:
            with pgbouncer(direct) as bouncer:
                done = migrator.migrate(make_conninfo(bouncer.dsn(direct), dbname=name))
            assert done == migrator.migrations()
        finally:
            connection.execute(f"drop database {name} with (force)".encode())
