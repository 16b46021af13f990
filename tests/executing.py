"""Tasks in the hands of an executor, without a worker or an executor."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb


def dispatch_due(dsn: str) -> list[dict[str, Any]]:
    """Claim all that is due and have it accepted; what was claimed, in order."""
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as conn:
        worker = conn.execute("select pgsched.register_worker('test', 1, 'test') as id").fetchone()
        assert worker is not None
        query = "select * from pgsched.claim_due_tasks(%s, 1000)"
        claimed = conn.execute(query, [worker["id"]]).fetchall()
        settlements = [
            {
                "task_id": str(task["id"]),
                "attempt": task["attempt"],
                "delivery_count": task["delivery_count"],
                "outcome": "ACCEPTED",
            }
            for task in claimed
        ]
        refused = conn.execute(
            "select * from pgsched.settle_tasks(%s)", [Jsonb(settlements)]
        ).fetchall()
        assert refused == []
    return claimed


def dispatched_task(dsn: str, definition: str = "job") -> str:
    """A new task that the executor has accepted."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("select pgsched.define_task(%s)", [definition])
        row = conn.execute("select pgsched.schedule_immediate(%s)", [definition]).fetchone()
    assert row is not None
    dispatch_due(dsn)
    return str(row[0])


def task_row(dsn: str, task_id: str) -> dict[str, Any]:
    """The task as the view `tasks` shows it."""
    with psycopg.connect(dsn, row_factory=dict_row) as conn:
        row = conn.execute("select * from pgsched.tasks where id = %s", [task_id]).fetchone()
    assert row is not None, f"no task {task_id}"
    return row


def events_of(dsn: str, task_id: str) -> list[str]:
    """What happened to the task off the happy path."""
    with psycopg.connect(dsn) as conn:
        query = "select event from pgsched.task_events where task_id = %s order by at"
        return [row[0] for row in conn.execute(query, [task_id])]


def count_tasks(dsn: str) -> int:
    with psycopg.connect(dsn) as conn:
        row = conn.execute("select count(*) from pgsched.scheduled_tasks").fetchone()
    assert row is not None
    return int(row[0])
