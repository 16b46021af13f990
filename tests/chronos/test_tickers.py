"""Four who tick at once do what one does, whatever their clocks say, and though some are killed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from pgsched.firing import tick_of
from tests.chronos import shifted
from tests.receiver import receiving
from tests.roles import as_role
from tests.sql.sched import HOUR, MINUTE, SECOND, Sched
from tests.waiting import eventually

Connection = psycopg.Connection[Any]

# Four workers, on a database with a clock of its own


class Workers:
    """Real worker processes, each with its clocks set wrong by so many seconds."""

    def __init__(self, dsn: str, url: str, folder: Path) -> None:
        self._environment = {
            **os.environ,
            "PGSCHED_DATABASE_URL": as_role(dsn, "worker"),
            "PGSCHED_EXTERNAL_SYSTEM_URL": url,
            "PGSCHED_SCHEDULE_SCAN_INTERVAL": "0.5",
        }
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, seconds: int) -> None:
        with self._log(name).open("wb") as out:
            command = [sys.executable, shifted.__file__, str(seconds), "worker"]
            self._running[name] = subprocess.Popen(
                command, env=self._environment, stdout=out, stderr=out
            )

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def wait_until_ready(self) -> None:
        logs = [self._log(name) for name in self._running]
        eventually(lambda: all("worker ready" in log.read_text() for log in logs))

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        assert process.poll() is None, self._log(name).read_text()
        process.kill()
        process.wait()

    def kill_all(self) -> None:
        for name in list(self._running):
            self.kill(name)


@contextmanager
def four_workers(dsn: str, folder: Path) -> Iterator[Workers]:
    with receiving() as receiver:
        workers = Workers(dsn, receiver.url, folder)
        try:
            for name, seconds in {"a": 0, "b": 0, "ahead": 3600, "behind": -3600}.items():
                workers.start(name, seconds)
            workers.wait_until_ready()
            yield workers
        finally:
            workers.kill_all()


SECONDLY = {
    "each second": "* * * * * *",
    "each other second": "*/2 * * * * *",
    "fixed seconds": "3,14,15,25,36,47,58 * * * * *",
}
EVERY = {"every second": 1 * SECOND, "every 2 seconds": 2 * SECOND, "every 3 seconds": 3 * SECOND}


def schedule_all(db: Connection) -> None:
    db.execute("select pgsched.define_task('job')")
    named = "p_name => %s, p_overlap_policy => 'allow', p_misfire_policy => 'all'"
    for name, expression in SECONDLY.items():
        db.execute(f"select pgsched.schedule_cron('job', %s, {named})".encode(), [expression, name])
    for name, interval in EVERY.items():
        db.execute(f"select pgsched.schedule_every('job', %s, {named})".encode(), [interval, name])


def expected(name: str, begin: datetime, end: datetime) -> list[datetime]:
    """The instants after *begin* and up to *end*."""
    if name in EVERY:
        step, first = EVERY[name], begin + EVERY[name]
    else:
        step, first = SECOND, begin.replace(microsecond=0) + SECOND
    instants = [first + i * step for i in range((end - first) // step + 1)]
    match SECONDLY.get(name, "* ").split()[0]:
        case "*":
            return instants
        case "*/2":
            return [instant for instant in instants if instant.second % 2 == 0]
        case seconds:
            return [instant for instant in instants if str(instant.second) in seconds.split(",")]


def rows(db: Connection, query: str) -> list[Any]:
    return db.execute(query.encode()).fetchall()


FIRES = """
    select scheduled_time, reason, task_id from pgsched.schedule_fires
    where schedule_id = %s order by scheduled_time
"""
TASKS = "select scheduled_time, id from pgsched.tasks where schedule_id = %s order by 1"
OVERTAKEN = "the schedule was paused before this had fired"


def test_four_workers_with_clocks_an_hour_off_fire_each_instant_once(
    dsn: str, tmp_path: Path
) -> None:
    with psycopg.connect(dsn, autocommit=True) as db, four_workers(dsn, tmp_path) as workers:
        schedule_all(db)

        def is_fired_until(count: int) -> bool:
            query = "select min(run_count) from pgsched.schedules where name like 'each%'"
            return bool(rows(db, query)[0][0] >= count)

        eventually(lambda: is_fired_until(2))
        workers.kill("a")
        eventually(lambda: is_fired_until(3))
        workers.kill("b")  # those that are left have wrong clocks
        eventually(lambda: is_fired_until(5))
        rows(db, "select pgsched.pause_schedule(name) from pgsched.schedules")
        eventually(lambda: rows(db, "select from pgsched.schedule_gaps") == [])

        made = rows(db, "select id, name, changed_at, paused_at from pgsched.schedules")
        assert len(made) == len(SECONDLY) + len(EVERY)
        for schedule_id, name, changed_at, paused_at in made:
            fires = db.execute(FIRES, [schedule_id]).fetchall()
            assert [at for at, *_ in fires] == expected(name, changed_at, paused_at), name

            runs = [(at, task_id) for at, _, task_id in fires if task_id is not None]
            assert db.execute(TASKS, [schedule_id]).fetchall() == runs
            # What was due at that moment, and no more, may have been missed.
            assert fires[: len(runs)] == [(at, None, task_id) for at, task_id in runs]
            assert {reason for _, reason, _ in fires[len(runs) :]} <= {OVERTAKEN}


# Four sessions that fire the same lists


def schedule_many(sched: Sched) -> None:
    """Policies of all kinds, and clocks that are changed on the way."""
    sched.clock(datetime.fromisoformat("2026-03-29T00:30:00+00:00"))
    for overlap in ("skip", "queue_one", "allow"):
        for misfire in ("latest", "all", "none"):
            named = {"overlap_policy": overlap, "misfire_policy": misfire, "misfire_grace": MINUTE}
            for expression in ("* * * * *", "*/20 * * * * *", "30 2,3 * * *"):
                name = f"{overlap} {misfire} {expression}"
                sched.call(
                    "schedule_cron", "job", expression, name=name, timezone="Europe/Paris", **named
                )
            every = 50 * SECOND
            sched.call("schedule_every", "job", every, name=f"{overlap} {misfire} every", **named)
    sched.call("schedule_every", "job", SECOND, name="seven", max_runs=7, overlap_policy="allow")


STEPS = [*(17 * SECOND for _ in range(40)), 2 * HOUR, *(MINUTE for _ in range(10))]


def tick_alone(sessions: list[Sched]) -> None:
    while sessions[0].tick_all():
        pass


def tick_together(sessions: list[Sched]) -> None:
    """Each reads and fires what is due, in an order of its own, until nothing is."""

    def tick(n: int) -> None:
        while due := sessions[n].due():
            random.Random(n).shuffle(due)
            sessions[n].tick(*map(tick_of, due))

    with ThreadPoolExecutor(len(sessions)) as pool:
        list(pool.map(tick, range(len(sessions))))


LEDGER = """
    select s.name, f.scheduled_time, f.outcome, f.reason, f.folded_until, f.folded_count
    from pgsched.schedule_fires as f
    join pgsched.schedules as s on s.id = f.schedule_id
    order by 1, 2
"""
STATUSES = """
    select s.name, t.scheduled_time, t.status, t.pending_dependencies
    from pgsched.tasks as t
    join pgsched.schedules as s on s.id = t.schedule_id
    order by 1, 2
"""
STATES = (
    "select name, state, next_run_at, run_count, idle_count from pgsched.schedule_status order by 1"
)


def outcome_of(sessions: list[Sched], tick: Callable[[list[Sched]], None]) -> tuple[list[Any], ...]:
    sched = sessions[0]
    schedule_many(sched)
    tick(sessions)
    for step in STEPS:
        sched.clock(step)
        tick(sessions)
    found = tuple(sched.rows(query) for query in (LEDGER, STATUSES, STATES))
    sched.conn.execute(
        "delete from pgsched.schedule_fires; delete from pgsched.scheduled_tasks;"
        "delete from pgsched.task_dependencies; delete from pgsched.schedules"
    )
    return found


def test_four_sessions_that_fire_the_same_lists_do_what_one_does(
    sched: Sched, connect: Callable[[], Sched]
) -> None:
    sessions = [sched, *(connect() for _ in range(3))]

    alone = outcome_of(sessions, tick_alone)
    together = outcome_of(sessions, tick_together)

    for one, four in zip(alone, together, strict=True):
        assert list(map(tuple, one)) == list(map(tuple, four))
    fires = alone[0]
    assert sum(fire.folded_count for fire in fires) > 5000
    assert Counter(fire.outcome for fire in fires).keys() == {"RUN", "SKIPPED", "MISSED"}
