"""An application that schedules tasks of all types, and writes down what was acknowledged."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any, NamedTuple

import psycopg

ROUNDS = 4
# Of a hundred tasks, so many calls of each kind; a loop is as many tasks as it has rounds.
CALLS = {
    "IMMEDIATE": 68,
    "DELAYED": 20,
    "LOOP": 1,
    "INTERVAL_LOOP": 1,
    "LOOP_ONCE": 4,
}
PER_PORTION = 68 + 20 + ROUNDS + ROUNDS + 4
QUERIES = {
    "IMMEDIATE": "select pgsched.schedule_immediate('job', %(input)s)::text",
    "DELAYED": "select pgsched.schedule_delayed('job', random() * interval '10 seconds',"
    " %(input)s)::text",
    "LOOP": "select pgsched.schedule_loop('job', %(rounds)s, p_input_params => %(input)s,"
    """ p_schedule_config => '{"on_failure": "continue"}')::text""",
    "INTERVAL_LOOP": "select pgsched.schedule_loop('job', %(rounds)s, interval '0.5 seconds',"
    """ p_input_params => %(input)s, p_schedule_config => '{"on_failure": "continue"}')::text""",
    "LOOP_ONCE": "select pgsched.trigger_loop_once('job', %(input)s)::text",
}


class Acknowledged(NamedTuple):
    """A task, or the first round of a loop, whose transaction has committed."""

    id: str
    kind: str


class Client(threading.Thread):
    """Schedules portion by portion, each in a transaction, through whatever the network does."""

    def __init__(self, dsn: str, tasks: int, seconds: float) -> None:
        """
        Args:
            tasks: How many in all, at about.
            seconds: How long it takes for that.
        """
        super().__init__(daemon=True)
        self._dsn = dsn
        self._portions = tasks // PER_PORTION
        self._pause = seconds / self._portions
        self._number = 0
        self.acknowledged: list[Acknowledged] = []
        self.failures: Counter[str] = Counter()
        self.done = 0.0  # of all, as a share

    def run(self) -> None:
        portion = 0
        while portion < self._portions:
            try:
                with psycopg.connect(self._dsn, connect_timeout=3) as connection:
                    while portion < self._portions:
                        began = time.monotonic()
                        self._schedule(connection)
                        portion += 1
                        self.done = portion / self._portions
                        time.sleep(max(began + self._pause - time.monotonic(), 0))
            except psycopg.Error as exc:  # what it said last may or may not be so
                self.failures[type(exc).__name__] += 1
                time.sleep(0.2)

    def _schedule(self, connection: psycopg.Connection[Any]) -> None:
        said: list[Acknowledged] = []
        connection.execute("set local statement_timeout = '5s'")
        for kind, count in CALLS.items():
            for _ in range(count):
                self._number += 1
                given = {"rounds": ROUNDS, "input": f'{{"number": {self._number}}}'}
                row = connection.execute(QUERIES[kind].encode(), given).fetchone()
                assert row is not None
                said.append(Acknowledged(row[0], kind))
        connection.commit()
        self.acknowledged += said
