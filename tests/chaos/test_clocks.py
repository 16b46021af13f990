"""
Workers whose clocks are an hour off, half of them each way: nobody notices.

Debian's libfaketime shifts what their processes, and the libraries in C below
them, are told of the time of day; the monotonic clock, by which they wait, goes
as it does on a machine whose clock is wrong.
"""

from __future__ import annotations

import base64
import re
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from psycopg import sql

from pgsched.signing import verify
from tests.receiver import Push, Receiver
from tests.roles import as_role
from tests.waiting import eventually
from tests.working import Connection, Process, StartWorker, schedule, statuses

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
pytestmark = [
    pytest.mark.chaos,
    pytest.mark.own_database,
    pytest.mark.skipif(LIBRARY is None, reason="no libfaketime here: apt install faketime"),
]

HOUR = timedelta(hours=1)
SHIFTS = (HOUR, -HOUR, HOUR, -HOUR)
# Of the cron schedule, once a second.
RUNS = 6
# How long pushes are held: two leases.
HELD = 6.0
SECRET = "whsec_" + base64.b64encode(b"of these tests" * 2).decode()
# Each column that holds a time, but for the bounds of what is kept.
COLUMNS = """
    select c.table_name, c.column_name
    from information_schema.columns as c
    join information_schema.tables as t using (table_schema, table_name)
    where c.table_schema = 'pgsched' and t.table_type = 'BASE TABLE'
      and c.data_type = 'timestamp with time zone'
"""


def shifted(by: timedelta) -> dict[str, str]:
    """The environment of a process whose clock is so much ahead."""
    return {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME": f"{by.total_seconds():+.0f}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def is_off(process: Process, by: timedelta) -> bool:
    """Whether the log of *process* says that its clock is so much ahead."""
    [said] = re.findall(r"^(\S+Z) INFO .*(?:worker ready|API listening)", process.log, re.MULTILINE)
    return abs(datetime.fromisoformat(said) - datetime.now(UTC) - by) < HOUR / 4


class Arrivals:
    """Notes when each push came, by the clock that is right; tasks of the queue `slow` are held."""

    def __init__(self, receiver: Receiver) -> None:
        self.first: dict[str, datetime] = {}
        self.count = Counter[str]()
        self.held: list[Push] = []
        self.apart = timedelta(0)
        receiver.holds = self._take

    def _take(self, push: Push) -> bool:
        self.first.setdefault(push.task_id, datetime.now(UTC))
        self.count[push.task_id] += 1
        verify(SECRET, push.headers, push.raw)  # which refuses what is five minutes off
        said = datetime.fromisoformat(push.body["timestamp"])
        self.apart = max(self.apart, abs(said - datetime.now(UTC)))
        if push.body["metadata"]["definition_name"] == "slow":
            self.held.append(push)
        else:
            push.answer(200, status="SUCCESS")
        return True


@pytest.fixture
def arrivals(receiver: Receiver) -> Arrivals:
    return Arrivals(receiver)


def times(db: Connection) -> list[tuple[str, datetime]]:
    """All that the tables hold, with the names of their columns."""
    found = []
    for table, column in db.execute(COLUMNS).fetchall():
        name = sql.Identifier(column)
        query = sql.SQL("select min({}), max({}) from pgsched.{} where isfinite({})")
        rows = db.execute(query.format(name, name, sql.Identifier(table), name)).fetchall()
        found += [(f"{table}.{column}", at) for at in rows[0] if at is not None]
    return found


def test_their_times_are_those_of_the_database(
    db: Connection, dsn: str, arrivals: Arrivals, receiver: Receiver, start_worker: StartWorker
) -> None:
    for name in ("job", "slow"):
        db.execute(
            "select pgsched.define_task(%s, p_retry_delay => '0', p_timeout => '10 minutes')",
            [name],
        )
    signing = {"PGSCHED_EXTERNAL_SYSTEM_SIGNING_SECRET": SECRET}
    workers = [start_worker(**shifted(by), **signing) for by in SHIFTS]
    given = shifted(HOUR) | {"PGSCHED_API_PORT": "0"}
    operator = as_role(dsn, "operator")
    api = start_worker("pgsched", "serve", PGSCHED_DATABASE_URL=operator, **given)
    [url] = eventually(lambda: re.findall(r"url=(http://\S+)", api.log))
    for worker in workers:
        worker.wait_until_ready()
    assert is_off(api, HOUR)
    assert [is_off(worker, by) for worker, by in zip(workers, SHIFTS, strict=True)] == [True] * 4

    db.execute("select pgsched.schedule_immediate('slow') from generate_series(1, 8)")
    eventually(lambda: len(arrivals.held) == 8)
    held_since = time.monotonic()
    db.execute(
        "select pgsched.schedule_cron('job', '* * * * * *', p_name => 'ticks', p_max_runs => %s)",
        [RUNS],
    )
    schedule(db, 100)
    db.execute(
        "select pgsched.schedule_delayed('job', make_interval(secs => 1 + n / 25.0))"
        " from generate_series(1, 100) as n"
    )
    for _ in range(20):  # a length of time, to a process whose clock is wrong
        body = {"definition": "job", "schedule_type": "DELAYED", "delay_seconds": 2}
        answer = httpx.post(f"{url}/api/tasks", json=body)
        assert answer.status_code == 201, answer.text
    expected = 100 + 100 + 20 + RUNS
    eventually(lambda: statuses(db).get("SUCCESS") == expected)
    eventually(lambda: time.monotonic() > held_since + HELD)
    for push in arrivals.held:
        push.answer(200, status="SUCCESS")
    eventually(lambda: statuses(db) == {"SUCCESS": expected + 8})

    tasks = db.execute("select id::text, scheduled_time, lost_count from pgsched.tasks").fetchall()
    assert arrivals.count == {task: 1 for task, *_ in tasks}  # none lost, and none twice
    early = [task for task, due, _ in tasks if arrivals.first[task] < due]
    late = [task for task, due, _ in tasks if arrivals.first[task] > due + HOUR / 60]
    assert (early, late) == ([], [])
    assert arrivals.apart < HOUR / 60
    check_fires(db)
    check_leases(db)
    [[installed]] = db.execute("select min(applied_at) from pgsched.schema_migrations").fetchall()
    latest = datetime.now(UTC) + HOUR / 2
    assert [(name, at) for name, at in times(db) if not installed <= at <= latest] == []


def check_fires(db: Connection) -> None:
    """Each instant of the schedule fired, once, on its second."""
    rows = db.execute(
        "select outcome, scheduled_time from pgsched.schedule_fires order by scheduled_time"
    ).fetchall()
    assert [outcome for outcome, _ in rows] == ["RUN"] * RUNS
    seconds = [at for _, at in rows]
    assert seconds == [seconds[0] + timedelta(seconds=n) for n in range(RUNS)]


def check_leases(db: Connection) -> None:
    """Nobody lost a task or a lease, though pushes took two terms."""
    events = "select count(*) from pgsched.task_events where event in ('LOST', 'SETTLE_REFUSED')"
    assert db.execute(events).fetchone() == (0,)
    leases = db.execute(
        "select lease_since = started_at, lease_expires_at > pgsched.now() from pgsched.workers"
    ).fetchall()
    assert leases == [(True, True)] * len(SHIFTS)


def test_the_doctor_says_that_a_clock_is_off(dsn: str, start_worker: StartWorker) -> None:
    environment = shifted(-HOUR) | {"PGSCHED_DATABASE_URL": as_role(dsn, "operator")}

    doctor = start_worker("pgsched", "doctor", **environment)

    assert doctor.process.wait(30) == 1  # no worker is there
    assert re.search(r"this machine is 3,\d+\.\d s behind the\s+database", doctor.log)
