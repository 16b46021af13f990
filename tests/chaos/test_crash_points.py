"""
Crash points: wherever a worker dies on the way of a task, it ends as the contract says.

The task is delivered at least once, always under the key of its attempt; it is
settled once; and nobody has to help.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.chaos.dying import POINTS
from tests.receiver import Push, Receiver
from tests.waiting import eventually
from tests.working import Connection, StartWorker, schedule

pytestmark = [pytest.mark.chaos, pytest.mark.own_database]


class Crash(NamedTuple):
    """Where, and what that costs."""

    point: str
    pushes: int  # that arrive in all
    is_lost: bool  # taken back from the dead worker when its lease has ended
    completion: str = "callback"


CRASHES = [
    Crash("after the claim", 1, is_lost=True),
    Crash("after connecting", 1, is_lost=True),
    Crash("after the request", 2, is_lost=True),
    Crash("after the answer", 2, is_lost=True),
    Crash("before the settle", 2, is_lost=True),
    Crash("after the settle", 1, is_lost=False),
    Crash("after the request", 2, is_lost=True, completion="response"),
    Crash("before the report", 2, is_lost=True, completion="response"),
    Crash("after the report", 1, is_lost=False, completion="response"),
]


def test_each_point_is_crashed_at() -> None:
    assert {crash.point for crash in CRASHES} == set(POINTS)


@pytest.mark.parametrize("crash", CRASHES, ids=lambda crash: f"{crash.point}, {crash.completion}")
def test_a_task_survives_the_death_of_its_worker(
    db: Connection,
    receiver: Receiver,
    start_worker: StartWorker,
    dsn: str,
    tmp_path: Path,
    crash: Crash,
) -> None:
    db.execute(
        "select pgsched.define_external_system('default', %s, p_completion => %s)",
        [receiver.url, crash.completion],
    )
    body = {"status": "SUCCESS"} if crash.completion == "response" else {}
    silent = crash.point == "after the request"

    def hold(push: Push) -> bool:
        if not silent or receiver.pushes:  # the dying worker waits for its answer in vain
            push.answer(200 if body else 202, **body)
        return True

    receiver.holds = hold
    [task] = schedule(db, 1)
    victim = start_worker("tests.chaos.dying", crash.point)
    assert victim.process.wait(30) == -signal.SIGKILL
    heir = start_worker()
    heir.wait_until_ready()

    query = "select status in ('DISPATCHED', 'SUCCESS') from pgsched.tasks where id = %s"
    eventually(lambda: db.execute(query, [task]).fetchone() == (True,))
    if crash.completion == "callback":
        db.execute("select pgsched.report_status(%s, 'SUCCESS', p_attempt => 1)", [task])

    query = "select status, attempt, retry_count, lost_count from pgsched.tasks where id = %s"
    row = db.execute(query, [task]).fetchone()
    assert row is not None
    assert row[:3] == ("SUCCESS", 1, 0)
    pushes = receiver.of(task)
    assert len(pushes) == crash.pushes
    assert {push.headers["Idempotency-Key"] for push in pushes} == {f"{task}:1"}
    query = "select event from pgsched.task_events where task_id = %s order by id"
    events = [event for (event,) in db.execute(query, [task]).fetchall()]
    assert events == ["LOST"] * crash.is_lost
    assert heir.process.poll() is None
