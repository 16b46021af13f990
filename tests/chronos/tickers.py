"""Two tickers who are killed, come too late, and do the same at the same time."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from psycopg.types.json import Jsonb

from pgsched.backfiller import gap_step, step_of
from pgsched.due import DueBackfill, DueGap
from pgsched.firing import tick_of
from tests.chronos.oracle import Spec
from tests.chronos.records import Reading, Records, Unfinished
from tests.sql.sched import Sched, _dumps

Due = TypeVar("Due", DueBackfill, DueGap)

RUNS = """
    select schedule_id::text, scheduled_time, id::text, status, attempt,
      pending_dependencies > 0 as waits
    from pgsched.scheduled_tasks
"""


class Tickers:
    """
    What the two do; all of it is written down in *records*.

    `names` are those of the schedules by their ids, and `apart` are tasks that
    operators made or retried: they neither skip an instant nor are skipped.
    """

    def __init__(
        self,
        sessions: tuple[Sched, Sched],
        rng: random.Random,
        records: Records,
        specs: dict[str, Spec],
        names: dict[str, str],
    ) -> None:
        self.apart: set[str] = set()
        self._first, self._second = sessions
        self._rng = rng
        self._records = records
        self._specs = specs
        self._names = names

    def read(self) -> Reading:
        """What is due."""
        self._records.end_pauses()
        return self._records.read({self._names[d.schedule_id]: d for d in self._first.due()})

    def fire(self, reading: Reading, ticker: Sched | None = None) -> None:
        unfinished = self._unfinished()
        self._send(ticker or self._first, reading)
        self._records.wrote(reading, unfinished)

    def catch_up(self) -> None:
        """Nothing goes wrong, and nothing is due any more."""
        while (reading := self.read()).due:
            self.fire(reading)
        self._first.close_gaps()

    def runs(self) -> list[Any]:
        """Those that have not ended, in an order that the seed decides."""
        rows = [row for row in self._first.rows(RUNS) if row.id not in self.apart]
        return sorted(rows, key=lambda row: (row.schedule_id, row.scheduled_time))

    def _send(self, ticker: Sched, reading: Reading) -> None:
        if reading.due:
            ticker.tick(*(tick_of(due) for due in reading.due.values()))

    def _unfinished(self) -> Unfinished:
        found: Unfinished = defaultdict(dict)
        for row in self.runs():
            found[self._names[row.schedule_id]][row.scheduled_time] = row.waits
        for name, runs in found.items():
            under_way = sum(not waits for waits in runs.values())
            if self._specs[name].overlap != "allow" and (under_way > 1 or len(runs) > 2):
                text = f"{name}: at {self._records.now:%F %T} there were unfinished: "
                self._records.complaints.append(text + ", ".join(f"{at:%F %T}" for at in runs))
        return found

    # What goes wrong

    def tick(self, meanwhile: Callable[[], None]) -> None:
        """Some way; in one of them much happens *meanwhile*."""
        reading = self.read()
        if self._rng.random() < 0.6:
            self._well(reading)
            return
        way = self._rng.choice(WAYS)
        if reading.due:
            self._records.note(f"{way.__name__.strip('_')}: {', '.join(sorted(reading.due))}")
        way(self, reading, meanwhile)

    def _well(self, reading: Reading) -> None:
        self.fire(reading)
        while reading.due and self._rng.random() < 0.3:
            reading = self.read()
            self.fire(reading)

    def _killed_before_it_fired(self, reading: Reading, _: Callable[[], None]) -> None:
        pass

    def _killed_before_the_commit(self, reading: Reading, _: Callable[[], None]) -> None:
        with self._first.transaction():
            self._send(self._first, reading)

    def _sent_again(self, reading: Reading, _: Callable[[], None]) -> None:
        self.fire(reading)
        self.fire(reading)

    def _sent_in_part(self, reading: Reading, _: Callable[[], None]) -> None:
        some = {name: due for name, due in reading.due.items() if self._rng.random() < 0.5}
        self.fire(Reading(some, reading.states))

    def _sent_by_two(self, reading: Reading, _: Callable[[], None]) -> None:
        second = self.read()
        self.fire(reading)
        self.fire(second, self._second)

    def _sent_by_two_at_once(self, reading: Reading, _: Callable[[], None]) -> None:
        unfinished = self._unfinished()
        is_killed = self._rng.random() < 0.5
        with self._first.conn.transaction(force_rollback=is_killed):
            self._send(self._first, reading)
            self._send(self._second, reading)  # finds all of it locked
        if not is_killed:
            self._records.wrote(reading, unfinished)
        self.fire(reading, self._second)

    def _sent_late(self, reading: Reading, meanwhile: Callable[[], None]) -> None:
        meanwhile()
        if self._rng.random() < 0.5:
            self.fire(self.read(), self._second)
        self.fire(reading)

    # What lies behind

    def close_gaps(self) -> None:
        for gap in self._due("due_gaps", DueGap):
            self._take("close_gap", gap_step(gap))

    def backfill(self, name: str, first: datetime, last: datetime) -> None:
        """Have a range run after all."""
        self._first.call("backfill_schedule", name, first, last, 5000)
        while due := self._due("due_backfills", DueBackfill):
            self._take("run_backfill", step_of(due[0]))

    def _due(self, function: str, kind: type[Due]) -> list[Due]:
        columns = ", ".join(kind._fields)
        rows = self._first.rows(f"select {columns} from pgsched.{function}()")
        return [kind._make([str(first), *rest]) for first, *rest in rows]

    def _take(self, function: str, step: dict[str, Any]) -> None:
        """Once, twice, or killed before the commit."""
        given = Jsonb(step, dumps=_dumps)
        with self._first.conn.transaction(force_rollback=self._rng.random() < 0.3):
            self._first.value(f"select pgsched.{function}(%s)", given)
        if self._rng.random() < 0.5:
            self._second.value(f"select pgsched.{function}(%s)", given)


Way = Callable[[Tickers, Reading, Callable[[], None]], None]
WAYS: tuple[Way, ...] = (
    Tickers._killed_before_it_fired,
    Tickers._killed_before_the_commit,
    Tickers._sent_again,
    Tickers._sent_in_part,
    Tickers._sent_by_two,
    Tickers._sent_by_two_at_once,
    Tickers._sent_late,
)
