"""Workers, an API and a hostile receiver as processes, around the database of a test."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.delivery.evidence import (
    Case,
    Claim,
    Delivery,
    End,
    Event,
    Report,
    Task,
    Terms,
    gather,
)
from tests.delivery.hostile import Habits
from tests.roles import as_role
from tests.sessions import cut_sessions
from tests.waiting import eventually

Connection = psycopg.Connection[Any]

LEASE = "5 seconds"
RETRY_DELAY = "0.3 seconds"
MAX_RETRIES = 3
DEFINE_SYSTEM = "select pgsched.define_external_system('default', p_base_url => %s,"
DEFINE_SYSTEM += " p_completion => %s, p_request_timeout => %s, p_batch_size => %s)"
DEFINITION = "select pgsched.define_task('job', p_max_retries => %s, p_retry_delay => %s,"
DEFINITION += " p_retry_backoff => 'fixed', p_timeout => %s)"

# What the database writes down for us alone.
#
# An end draws a number of the sequence that claims draw theirs from, and that
# the pushes carry.  It does so while its transaction holds the lock of the row
# in `scheduled_tasks`; a claim draws its number after it has locked that same
# row.  The lock puts the two in order, and what is drawn later is higher (the
# sequence has no cache): a claim before the end has the lower number, and one
# after it, which there must not be, has the higher.  A time would not do: a
# claim takes it before it has any lock.
#
# `currval` is the number that the claim itself has drawn, in its own session.
NOTES = """
    create schema notes;
    create table notes.claims (
      task_id uuid, delivery_count integer, attempt integer, sequence bigint, at timestamptz
    );
    create table notes.ends (task_id uuid, status text, sequence bigint, at timestamptz);

    create function notes.note_claim() returns trigger language plpgsql security definer as $$
    begin
      insert into notes.claims values (
        new.id, new.delivery_count, new.attempt, currval('pgsched.status_sequence'),
        clock_timestamp()
      );
      return null;
    end $$;

    create function notes.note_end() returns trigger language plpgsql security definer as $$
    begin
      insert into notes.ends values (
        new.id, new.status, nextval('pgsched.status_sequence'), clock_timestamp()
      );
      return null;
    end $$;

    create trigger scheduled_tasks_after_update_note_claim
      after update on pgsched.scheduled_tasks for each row
      when (new.status = 'SCHEDULED' and old.status <> 'SCHEDULED')
      execute function notes.note_claim();

    create trigger task_instances_after_insert_note_end
      after insert on pgsched.task_instances for each row
      execute function notes.note_end();
"""
SCHEDULE = """
    select
      pgsched.schedule_immediate('job', p_input_params => jsonb_build_object('number', n))::text
    from generate_series(%s::integer, %s) as n
"""
HURRY = """
    update pgsched.scheduled_tasks
    set execute_after = pgsched.now()
    where status = 'PENDING' and execute_after > pgsched.now() + interval '2 seconds'
"""
TASKS = """
    select
      id::text, status, attempt, retry_count, max_retries, delivery_count, lapsed_attempt, error_msg
    from pgsched.tasks
"""
CLAIMS = """
    select task_id::text, delivery_count, attempt, sequence, extract(epoch from at)::float
    from notes.claims
"""
ENDS = "select task_id::text, status, sequence, extract(epoch from at)::float from notes.ends"
EVENTS = """
    select task_id::text, extract(epoch from at)::float, event, attempt, delivery_count,
      coalesce(message, '')
    from pgsched.task_events
"""
HELD = "select count(*) from pgsched.scheduled_tasks where status = 'SCHEDULED' and worker_id = %s"
# What is under way may end by a report; of so many some are not.
FULL_HANDS = 30
# So many tries, each of so long.
BURSTS, BURST_SECONDS = 10, 3.0
# What waits for a client that takes no more of an answer may do so for ever.
UNDER_WAY = """
    select pid, query_start
    from pg_stat_activity
    where datname = current_database()
      and state = 'active'
      and wait_event is distinct from 'ClientWrite'
      and pid <> pg_backend_pid()
"""


class Process:
    """A process of ours, whose words go to a file."""

    def __init__(self, log: Path, *arguments: str, **environment: str) -> None:
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def says(self, pattern: str) -> str:
        """What it says, once it does."""

        def found() -> re.Match[str] | None:
            text = self._log.read_text()
            assert self.process.poll() is None, text
            return re.search(pattern, text, re.MULTILINE)

        match = eventually(found)
        assert match is not None
        return match[1]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class World:
    """Tasks in a database, and the processes that work on them."""

    def __init__(
        self, db: Connection, habits: Habits, start: Callable[..., Process], url: str
    ) -> None:
        self.terms = Terms(habits.completion, habits.silence)
        self.tasks: list[str] = []
        self.ledger: dict[str, Any] = {}
        self.db = db
        self._start = start
        self.url = url

    def use(self, db: Connection) -> None:
        """Look at the database through another connection, the first having broken."""
        self.db.close()
        self.db = db

    def start_worker(self) -> Process:
        worker = self._start("pgsched", "worker")
        worker.says("(worker ready)")
        return worker

    def stop_with_full_hands(self, worker: Process, count: int) -> None:
        """
        Schedule so many, and stop it while it holds more than others could end for it.

        As often as it takes: another worker may claim most of them.
        """
        for _ in range(BURSTS):
            self.schedule(count)
            if self.stop_at_work(worker, BURST_SECONDS, FULL_HANDS):
                return
            worker.process.send_signal(signal.SIGCONT)
        raise AssertionError(f"it did not hold {FULL_HANDS} tasks at any time")

    def stop_at_work(self, worker: Process, seconds: float = 30.0, least: int = 1) -> bool:
        """Stop it while it holds tasks, or, after *seconds*, in any case; whether it does."""
        deadline = time.monotonic() + seconds
        while True:
            worker.process.send_signal(signal.SIGSTOP)
            if self.count_held(worker) >= least:
                self.let_statements_end()  # one of its own may be about to settle them all
                if self.count_held(worker) >= least:
                    return True
            if time.monotonic() > deadline:
                return False
            worker.process.send_signal(signal.SIGCONT)
            time.sleep(0.003)

    def let_statements_end(self) -> None:
        """Those of anybody that the database is at work on."""
        begun = {*self.db.execute(UNDER_WAY)}
        eventually(lambda: begun.isdisjoint(self.db.execute(UNDER_WAY)))

    def wake_without_its_tasks(self, worker: Process) -> None:
        """Let it sleep until others have all that it held; then it goes on."""
        eventually(lambda: not self.count_held(worker))
        worker.process.send_signal(signal.SIGCONT)

    def count_held(self, worker: Process) -> int:
        worker_id = worker.says(r"worker ready worker_id=(\S+)")
        row = self.db.execute(HELD, [worker_id]).fetchone()
        assert row is not None
        return int(row[0])

    def break_connections(self) -> None:
        """All that workers and API have to the database."""
        cut_sessions(self.db)

    def schedule(self, count: int) -> None:
        first = len(self.tasks) + 1
        rows = self.db.execute(SCHEDULE, [first, first + count - 1]).fetchall()
        self.tasks += [row[0] for row in rows]

    def unfinished(self) -> int:
        row = self.db.execute("select count(*) from pgsched.scheduled_tasks").fetchone()
        assert row is not None
        return int(row[0])

    def wait_until_unfinished(self, count: int, timeout: float) -> None:
        """
        Until so many tasks are left.

        The last few wait long, when they were deferred many times in a row:
        they are hurried along, which changes nothing but when they are due.
        """
        deadline = time.monotonic() + timeout
        while (left := self.unfinished()) > count:
            assert time.monotonic() < deadline, f"{left} tasks have not ended: {self._left()}"
            if left < len(self.tasks) / 50:
                self.db.execute(HURRY)
            time.sleep(0.2)

    def _left(self) -> list[Any]:
        query = f"{TASKS} where finished_at is null limit 5"
        return self.db.execute(query.encode()).fetchall()

    def read_ledger(self) -> None:
        """What the receiver has written down so far."""
        with urllib.request.urlopen(f"{self.url}/ledger", timeout=60) as answer:
            self.ledger = json.load(answer)

    def wait_for_the_executor(self) -> None:
        """Until it has reported all that it meant to."""
        self.read_ledger()
        while self.ledger["outstanding"]:
            time.sleep(0.5)
            self.read_ledger()

    def cases(self) -> list[Case]:
        """All that is known, of each task."""
        evidence: list[Any] = [Delivery(*fields) for fields in self.ledger["deliveries"]]
        evidence += [Report(*fields) for fields in self.ledger["reports"]]
        for query, kind in ((TASKS, Task), (CLAIMS, Claim), (ENDS, End), (EVENTS, Event)):
            evidence += [kind(*row) for row in self.db.execute(query.encode())]
        return gather(self.tasks, evidence)


@contextmanager
def world(
    db: Connection, dsn: str, folder: Path, habits: Habits, *, batch_size: int = 1
) -> Iterator[World]:
    """A database that takes notes, an API and a receiver; the workers are the test's to start."""
    db.autocommit = True
    db.execute(NOTES)
    db.execute(
        "create or replace function pgsched.lease_term() returns interval"
        f" language sql immutable return interval '{LEASE}'".encode()
    )
    db.execute(DEFINITION, [MAX_RETRIES, RETRY_DELAY, f"{habits.silence} seconds"])
    with ExitStack() as stack:
        started = 0

        def start(*arguments: str) -> Process:
            nonlocal started
            started += 1
            login = as_role(dsn, "worker" if "worker" in arguments else "operator")
            environment = {"PGSCHED_DATABASE_URL": login, "PGSCHED_API_PORT": "0"}
            process = Process(folder / f"{started}.log", *arguments, **environment)
            stack.callback(process.kill)
            return process

        api = start("pgsched", "serve").says(r"API listening url=(http://\S+)")
        told = json.dumps(habits._replace(api=api)._asdict())
        port = start("tests.delivery.hostile", told).says(r"^(\d+)$")
        url = f"http://127.0.0.1:{port}"
        timeout = f"{habits.request_timeout} seconds"
        db.execute(DEFINE_SYSTEM, [url, habits.completion, timeout, batch_size])
        yield World(db, habits, start, url)
