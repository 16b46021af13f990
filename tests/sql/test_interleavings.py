"""
Two sessions and one task: what both do at a time comes out as if one had been first.

The first does something to a task and leaves its transaction open, the second
does something to the same task, then the first commits, or rolls back.  All
answers, and all that is left in the tables, must be those of one of the two
orders; after a rollback those of the second alone.  Who waits for nobody
(PASSED_OVER) may have to say it again first, as the contract has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import psycopg
import pytest

from tests.sql.sched import MINUTE, SECOND, Background, Sched

TABLES = ["scheduled_tasks", "task_instances", "task_events", "status_pushes", "workers"]

# Rounds are known by their number: the ids of later ones are drawn anew each time.
ROWS = """
    select row_to_json(r)::jsonb - '{id, next_task_id}'::text[] as row, next_task_id is not null
    from (
      select t.*, null::timestamptz as finished_at from pgsched.scheduled_tasks as t
      union all
      select i.* from pgsched.task_instances as i
    ) as r
    order by round_index
"""
EVENTS = """
    select event, attempt, delivery_count, message from pgsched.task_events order by 1, 2, 3, 4
"""
OUTBOX = "select status, attempt from pgsched.status_pushes order by sequence"
MANY = "select done from pgsched.{}(p_definition => 'round')"
WORKERS = "select id from pgsched.workers order by id"


class Scene(NamedTuple):
    """A task that was delivered once, by a worker that is dead by now."""

    task_id: str
    delivery: Any
    holder: str
    other: str  # a worker that is alive, and old enough to judge


Act = Callable[[Sched, Scene], Any]


def claim(sched: Sched, scene: Scene) -> Any:
    claimed = sched.claim(worker=scene.other)
    return [(row.round_index, row.attempt, row.delivery_count) for row in claimed]


def settle(outcome: str) -> Act:
    return lambda sched, scene: sched.settle(scene.delivery, outcome)


def report(status: str) -> Act:
    def act(sched: Sched, scene: Scene) -> Any:
        (answer,) = sched.report_many({"task_id": scene.task_id, "status": status, "attempt": 1})
        return answer.code or answer.status

    return act


def call(function: str, *given: object) -> Act:
    return lambda sched, scene: sched.call(function, scene.task_id, *given)


ACTS: dict[str, Act] = {
    "claim": claim,
    "ACCEPTED": settle("ACCEPTED"),
    "DEFERRED": settle("DEFERRED"),
    "RETRY": settle("RETRY"),
    "REFUSED": settle("REFUSED"),
    "RUNNING": report("RUNNING"),
    "SUCCESS": report("SUCCESS"),
    "FAILED": report("FAILED"),
    "report_status": call("report_status", "SUCCESS", 1),
    "cancel": call("cancel_task", "why"),
    "stop_loop": lambda sched, scene: bool(sched.call("stop_loop", scene.task_id)),
    "retry": call("retry_task"),
    "cancel many": lambda sched, scene: sched.value(MANY.format("cancel_tasks")),
    "retry many": lambda sched, scene: sched.value(MANY.format("retry_tasks")),
    "goodbye": lambda sched, scene: sched.call("release_worker", scene.holder),
    "goodbye of the other": lambda sched, scene: sched.call("release_worker", scene.other),
    "requeue": lambda sched, scene: sched.call("release_dead_workers", scene.other),
    "expire": lambda sched, scene: sched.call("expire_deadlines"),
}

# What changes a task in each state, and so is done by the first session; the
# second does everything.
FITTING = {
    "PENDING": [
        *("claim", "ACCEPTED", "RUNNING", "SUCCESS", "FAILED", "report_status"),
        *("cancel", "cancel many", "stop_loop"),
    ],
    "SCHEDULED": [
        *("ACCEPTED", "DEFERRED", "RETRY", "REFUSED", "RUNNING", "SUCCESS", "FAILED"),
        *("report_status", "cancel", "cancel many", "stop_loop"),
        *("goodbye", "requeue", "expire"),
    ],
    "DISPATCHED": [
        *("RUNNING", "SUCCESS", "FAILED", "report_status"),
        *("cancel", "cancel many", "stop_loop", "expire"),
    ],
    "CANCELLED": ["retry", "retry many", "ACCEPTED"],
    "FAILED": ["retry", "retry many"],
}

# Those that wait for nobody, and what they answer about a locked task.  They
# are to be said again, or are repeated anyway; all others may wait.
PASSED_OVER: dict[str, Any] = {
    "claim": [],
    "ACCEPTED": "LOCKED",
    "DEFERRED": "LOCKED",
    "RETRY": "LOCKED",
    "REFUSED": "LOCKED",
    "RUNNING": "LOCKED",
    "SUCCESS": "LOCKED",
    "FAILED": "LOCKED",
    "cancel many": 0,
    "retry many": 0,
    "goodbye": 0,
    "goodbye of the other": 0,
    "requeue": 0,
    "expire": 0,
}

# Who waits all the same, and for whom: for the row of a worker, which one of them has.
WAITS = {("goodbye", "goodbye"), ("requeue", "goodbye")}


class Stage:
    """Two sessions on a database where the same scene can be set again and again."""

    def __init__(self, first: Sched, second: Sched, state: str) -> None:
        self.first, self.second = first, second
        self.scene = prepare(first, state)
        for table in TABLES:
            first.conn.execute(f"create temp table {table} as table pgsched.{table}".encode())
        empty = [f"delete from pgsched.{table}" for table in TABLES]
        fill = [f"insert into pgsched.{table} table pg_temp.{table}" for table in TABLES]
        self.copy = "; ".join(["set local session_replication_role = replica", *empty, *fill])

    def set(self) -> None:
        with self.first.conn.transaction():
            self.first.conn.execute(self.copy.encode())

    def act(self, sched: Sched, name: str) -> Any:
        """The answer, or what a refusal says."""
        try:
            with sched.conn.transaction():
                return ACTS[name](sched, self.scene)
        except psycopg.Error as error:
            if not (error.sqlstate or "").startswith("PS"):
                raise
            return (error.sqlstate, error.diag.message_primary)

    def left(self) -> list[Any]:
        return [self.first.rows(query) for query in (ROWS, EVENTS, OUTBOX, WORKERS)]

    def one_by_one(self, *names: str) -> tuple[list[Any], list[Any]]:
        """The answers, and what is left, when each comes after the other."""
        self.set()
        answers = [self.act(self.first, name) for name in names]
        return answers, self.left()


def prepare(sched: Sched, state: str) -> Scene:
    """All leases and deadlines have passed, but for those of one worker."""
    sched.define("round", max_retries=1, retry_delay=0 * SECOND, timeout=MINUTE)
    holder, other = sched.register(), sched.register()
    task_id = sched.loop("round", max_rounds=2)
    (delivery,) = sched.claim(worker=holder)
    outcome = {"PENDING": "RELEASED", "DISPATCHED": "ACCEPTED", "FAILED": "REFUSED"}.get(state)
    if outcome:
        sched.settle(delivery, outcome)
    if state == "CANCELLED":
        sched.call("cancel_task", task_id)
    for _ in range(4):
        sched.clock(20 * SECOND)
        sched.call("heartbeat", other)
    assert sched.status(task_id) == state
    return Scene(task_id, delivery, holder, other)


@pytest.mark.parametrize(
    ("state", "first"), [(state, name) for state, names in FITTING.items() for name in names]
)
def test_two_sessions_do_to_a_task_what_one_would(
    sched: Sched, another: Sched, state: str, first: str
) -> None:
    stage = Stage(sched, another, state)
    before = stage.one_by_one()[1]
    assert stage.one_by_one(first)[1] != before, "it changes nothing, and locks nothing"

    complaints = [complaint for second in ACTS for complaint in complaints_of(stage, first, second)]

    assert complaints == []


def complaints_of(stage: Stage, first: str, second: str) -> Iterator[str]:
    serial = {
        "commit": stage.one_by_one(first, second),
        "rollback": stage.one_by_one(second),
    }
    for end, (expected, left) in serial.items():
        stage.set()
        answers, has_waited = meanwhile(stage, first, second, end)
        found = stage.left()
        if has_waited and second in PASSED_OVER and (first, second) not in WAITS:
            yield f"{second} has waited for {first}"
        if (answers[-len(expected) :], found) == (expected, left):
            continue
        if answers[1] == PASSED_OVER.get(second, "never"):
            again = [answers[0], stage.act(stage.second, second)]
            if (again[-len(expected) :], stage.left()) == (expected, left):
                continue
        if end == "commit" and stage.one_by_one(second, first) == (answers[::-1], found):
            continue
        yield f"{first}, {second}, {end}: {answers} and {found}, not {expected} and {left}"


def meanwhile(stage: Stage, first: str, second: str, end: str) -> tuple[list[Any], bool]:
    """The answers of both, and whether the second had to wait for the end of the first."""
    stage.first.conn.execute("begin")
    answer = stage.act(stage.first, first)
    behind = Background(stage.second.conn, lambda: stage.act(stage.second, second))
    has_waited = behind.is_blocked(stage.first)
    stage.first.conn.execute(end.encode())
    return [answer, behind.result()], has_waited
