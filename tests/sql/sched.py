"""A thin synchronous wrapper over the SQL functions, with a clock that can be turned."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import dict_row, namedtuple_row
from psycopg.types.json import Jsonb

from pgsched.backfiller import gap_step
from pgsched.due import DueGap, DueSchedule
from pgsched.firing import tick_of

START = datetime(2026, 3, 2, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)

# One row that every session reads, in place of the clock.
FAKE_CLOCK = """
    create table public.test_clock (at timestamptz not null);
    insert into public.test_clock values ({start});
    grant select on public.test_clock to public;
    create or replace function pgsched.now() returns timestamptz language sql volatile
      return (select c.at from public.test_clock as c)
"""

Connection = psycopg.Connection[Any]


class Sched:
    """
    One session of pgsched.

    Every call is a transaction of its own, unless made inside `transaction()`.
    """

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self._worker: str | None = None

    # The clock

    @property
    def now(self) -> datetime:
        now: datetime = self.value("select pgsched.now()")
        return now

    def clock(self, at: datetime | timedelta) -> None:
        """Turn the clock, to a time or by a duration."""
        at = self.now + at if isinstance(at, timedelta) else at
        self.conn.execute("update public.test_clock set at = %s", [at])

    # Plain SQL

    def rows(self, query: str, *given: object) -> list[Any]:
        cursor = self.conn.cursor(row_factory=namedtuple_row)
        return cursor.execute(query.encode(), given).fetchall()

    def value(self, query: str, *given: object) -> Any:
        row = self.conn.execute(query.encode(), given).fetchone()
        return row[0] if row else None

    def call(self, function: str, *given: object, **named: object) -> Any:
        """The value of a function; the names of *named* go without their `p_`."""
        values = [Jsonb(v) if isinstance(v, dict) else v for v in (*given, *named.values())]
        slots = [*("%s" for _ in given), *(f"p_{name} => %s" for name in named)]
        value = self.value(f"select pgsched.{function}({', '.join(slots)})", *values)
        return (
            str(value)
            if function.startswith(("schedule_", "define_task", "trigger", "backfill_"))
            else value
        )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Leave the transaction open until the block ends, then roll it back."""
        with self.conn.transaction(force_rollback=True):
            yield

    # The life of a task

    def define(self, name: str = "job", **named: object) -> str:
        return str(self.call("define_task", name, **named))

    def schedule(self, definition: str = "job", /, **named: object) -> str:
        """Schedule at once, or with `delay` or `at` later."""
        if "delay" in named:
            return str(self.call("schedule_delayed", definition, **named))
        if "at" in named:
            at = named.pop("at")
            return str(self.call("schedule_at", definition, scheduled_time=at, **named))
        return str(self.call("schedule_immediate", definition, **named))

    def loop(self, definition: str = "job", /, **named: object) -> str:
        return str(self.call("schedule_loop", definition, **named))

    @property
    def worker(self) -> str:
        """A worker of this session with a lease, registered when first asked for."""
        if self._worker is None:
            self._worker = self.register()
        return self._worker

    def goodbye(self) -> int:
        """Have this session's worker released; the next one is new."""
        worker, self._worker = self.worker, None
        return int(self.call("release_worker", worker))

    def register(self) -> str:
        return str(self.call("register_worker", "host", 1, "test"))

    def claim(
        self,
        limit: int = 100,
        queues: list[str] | None = None,
        cursors: dict[str, Any] | None = None,
        worker: str | None = None,
    ) -> list[Any]:
        """Claim, as this session's own worker after a heartbeat, or as the one given."""
        if worker is None:
            worker = self.worker
            self.call("heartbeat", worker)
        query = "select * from pgsched.claim_due_tasks(%s, %s, %s, %s)"
        found = self.rows(query, worker, limit, queues, None if cursors is None else Jsonb(cursors))
        return [row._replace(id=str(row.id)) for row in found]

    def claim_one(self) -> Any:
        (claimed,) = self.claim()
        return claimed

    def settle_many(self, *settlements: dict[str, Any]) -> dict[str, str]:
        query = "select task_id::text, result from pgsched.settle_tasks(%s)"
        return dict(self.rows(query, Jsonb(list(settlements))))

    def settle(self, claimed: Any, outcome: str = "ACCEPTED", **more: Any) -> str | None:
        """Settle one delivery; None when applied or known, else STALE or LOCKED."""
        return self.settle_many(settlement(claimed, outcome, **more)).get(claimed.id)

    def report(self, task_id: str, status: str, attempt: int | None = None, **named: object) -> str:
        """Report by the function that raises; the task's status now."""
        return str(self.call("report_status", task_id, status, attempt, **named))

    def report_many(self, *reports: dict[str, Any]) -> list[Any]:
        query = "select * from pgsched.report_statuses(%s) order by report_index"
        return self.rows(query, Jsonb(list(reports)))

    def claim_news(self, limit: int = 50, queues: list[str] | None = None) -> list[Any]:
        """Claim what the external systems are to be told, in the order in which it is given."""
        query = "select * from pgsched.claim_status_pushes(%s, %s, %s)"
        found = self.rows(query, self.worker, limit, queues)
        return [row._replace(task_id=str(row.task_id)) for row in found]

    def settle_news(self, *pushes: Any, outcome: str = "ACKNOWLEDGED", **more: Any) -> int:
        """Tell what became of messages; how many of them were still held."""
        results = [
            {"sequence": p.sequence, "push_count": p.push_count, "outcome": outcome, **more}
            for p in pushes
        ]
        return int(self.call_json("settle_status_pushes", results))

    def call_json(self, function: str, given: Any) -> Any:
        return self.value(f"select pgsched.{function}(%s)", Jsonb(given, dumps=_dumps))

    def outbox(self, task_id: str | None = None) -> list[Any]:
        """What the external systems are still to be told, given up or not, oldest first."""
        query = """
            select p.*, p.status || ' ' || p.attempt as says
            from pgsched.status_pushes as p
            where p.task_id = %s or %s::uuid is null
            order by p.sequence
        """
        return self.rows(query, task_id, task_id)

    def says(self, task_id: str | None = None) -> list[str]:
        """The outbox in short: each status with its attempt."""
        return [row.says for row in self.outbox(task_id)]

    def tick(self, *ticks: dict[str, Any]) -> int:
        given = Jsonb(list(ticks), dumps=_dumps)
        return int(self.value("select pgsched.fire_schedules(%s)", given))

    def fire(
        self, schedule_id: str, expected: datetime | None, next_run_at: datetime | None, **more: Any
    ) -> int:
        """Run the one instant that is expected, and advance; how many tasks that made."""
        return self.tick(self.tick_for(schedule_id, expected, next_run_at, **more))

    def tick_for(
        self, schedule_id: str, expected: datetime | None, next_run_at: datetime | None, **more: Any
    ) -> dict[str, Any]:
        """What a worker would send to run the one instant that is expected."""
        fires = [] if expected is None else [{"scheduled_time": expected, "outcome": "RUN"}]
        query = "select s.revision from pgsched.schedules as s where s.id = %s"
        tick = {
            "schedule_id": schedule_id,
            "expected": expected,
            "revision": self.value(query, schedule_id),
            "fires": fires,
            "counts_from": expected,
            "next_run_at": next_run_at,
        }
        return {**tick, **more}

    def tick_all(self) -> list[dict[str, Any]]:
        """What a worker would do with all that is due; the ticks it fired."""
        ticks = [tick_of(schedule) for schedule in self.due()]
        if ticks:
            self.tick(*ticks)
        return ticks

    def close_gaps(self) -> None:
        """What a worker would do with what changes of schedules overtook."""
        columns = ", ".join(DueGap._fields)
        while gaps := self.rows(f"select {columns} from pgsched.due_gaps()"):
            for row in gaps:
                step = gap_step(DueGap._make([str(row[0]), *row[1:]]))
                self.value("select pgsched.close_gap(%s)", Jsonb(step, dumps=_dumps))

    def due(self, limit: int = 1000) -> list[DueSchedule]:
        columns = ", ".join(DueSchedule._fields)
        rows = self.rows(f"select {columns} from pgsched.due_schedules(%s)", limit)
        return [DueSchedule._make([str(row[0]), *row[1:]]) for row in rows]

    def task(self, task_id: str) -> Any:
        """The task from the view `tasks`, hot or finished."""
        cursor = self.conn.cursor(row_factory=namedtuple_row)
        (task,) = cursor.execute("select * from pgsched.tasks where id = %s", [task_id]).fetchall()
        return task

    def tasks(self, where: str = "true") -> list[Any]:
        return self.rows(f"select * from pgsched.tasks where {where} order by round_index, id")

    def status(self, task_id: str) -> str:
        return str(self.task(task_id).status)

    def events(self, task_id: str) -> list[str]:
        """Of one task, in the order in which they were written."""
        query = """
            select event from pgsched.task_events where task_id = %s
            order by xmin::text::bigint, ctid
        """
        return [row.event for row in self.rows(query, task_id)]

    def snapshot(self) -> list[dict[str, Any]]:
        """Everything about all tasks that a refused call must not change."""
        cursor = self.conn.cursor(row_factory=dict_row)
        return cursor.execute("select * from pgsched.tasks order by id").fetchall()

    def run(self, task_id: str | None = None, status: str = "SUCCESS", **named: Any) -> str:
        """Claim the one due task, have it accepted and reported; its id."""
        claimed = self.claim_one()
        assert task_id in (None, claimed.id)
        self.settle(claimed)
        self.report(claimed.id, status, claimed.attempt, **named)
        return str(claimed.id)


def settlement(claimed: Any, outcome: str = "ACCEPTED", **more: Any) -> dict[str, Any]:
    """How the push of a claimed task ended."""
    given = {"attempt": claimed.attempt, "delivery_count": claimed.delivery_count}
    return {"task_id": claimed.id, "outcome": outcome, **given, **more}


def _dumps(value: object) -> str:
    return json.dumps(value, default=str)


class Background:
    """A call on a thread of its own, and the wait until it has met a lock."""

    def __init__(self, conn: Connection, call: Callable[[], Any]) -> None:
        self._pid = conn.info.backend_pid
        self._result: Any = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=[call], daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            self._result = call()
        except Exception as exc:
            self._error = exc

    def wait_until_blocked(self, observer: Sched) -> None:
        assert self.is_blocked(observer), "it was never blocked"

    def is_blocked(self, observer: Sched) -> bool:
        """Whether it has met a lock; false when it has come back."""
        query = "select cardinality(pg_blocking_pids(%s)) > 0"
        while self._thread.is_alive():
            if observer.value(query, self._pid):
                return True
        return False

    def result(self) -> Any:
        self._thread.join(30)
        assert not self._thread.is_alive(), "it never came back"
        if self._error:
            raise self._error
        return self._result


def open_sched(dsn: str) -> Sched:
    """A new session on the same database, and on the same clock."""
    return Sched(psycopg.connect(dsn, autocommit=True))


def fake_clock(conn: Connection) -> None:
    conn.execute(FAKE_CLOCK.format(start=f"'{START.isoformat()}'").encode())


def restart_clock(conn: Connection) -> None:
    conn.execute(f"update public.test_clock set at = '{START.isoformat()}'".encode())
