"""
A year in which everything goes wrong, from a seed.

The clock is set forward and back, workers die at every point of a tick, nobody
is there for hours, runs end as they like or never, and operators do what they
do.  All that bears on a schedule is written down, for the checker.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

from pgsched import zones
from tests.chronos.checker import Fire
from tests.chronos.oracle import BEGIN, END, HOUR, MINUTE, YEAR, Spec
from tests.chronos.records import Records
from tests.chronos.tickers import Tickers
from tests.sql.sched import Sched, settlement

SECOND = timedelta(seconds=1)
SPECS = {spec.name: spec for spec in YEAR}
# When the clocks of their zones are changed.
CHANGES = sorted({change.at for spec in YEAR for change in zones.changes(spec.timezone)})

LEDGER = """
    select scheduled_time, outcome, reason, task_id::text, folded_until, folded_count
    from pgsched.schedule_fires
    where schedule_id = %s
    order by scheduled_time
"""


class World:
    """`sched` and `other` are two tickers; the first does all the rest as well."""

    def __init__(self, sched: Sched, other: Sched, seed: str, end: datetime = END) -> None:
        self.records = Records(SPECS)
        self._sched = sched
        self._rng = random.Random(seed)
        self._end = end
        self._calm = 0  # so many steps without an outage
        self._triggered: set[str] = set()
        self._turn(BEGIN)
        self._sched.define(timeout=45 * MINUTE, max_retries=1, retry_delay=timedelta())
        self._ids = {name: self._create(spec) for name, spec in SPECS.items()}
        names = {schedule_id: name for name, schedule_id in self._ids.items()}
        self.tickers = Tickers((sched, other), self._rng, self.records, SPECS, names)

    def run(self) -> None:
        """Until the end, when everybody is there."""
        step = 0
        while self.records.now < self._end:
            step += 1
            if step % 100 == 0:
                self._sched.conn.execute("vacuum pgsched.scheduled_tasks, pgsched.schedules")
            self._move_clock()
            self.tickers.tick(self._meanwhile)
            self._sometimes(0.3, self._work)
            self._sometimes(0.25, self._operate)
            self._sometimes(0.1, self.tickers.close_gaps)
        for name in list(self.records.paused):
            self._resume(name)
        self.tickers.catch_up()

    def _sometimes(self, share: float, act: Callable[[], None]) -> None:
        if self._rng.random() < share:
            act()

    def _meanwhile(self) -> None:
        for _ in range(self._rng.randint(1, 3)):
            self._rng.choice((self._move_clock, self._operate, self._work))()

    # What there is in the end

    def ledger(self, name: str) -> list[Fire]:
        return [Fire._make(row) for row in self._sched.rows(LEDGER, self._ids[name])]

    def tasks(self, name: str) -> list[tuple[str, datetime]]:
        """The id and the instant of each that nobody triggered."""
        query = "select id::text, scheduled_time from pgsched.tasks where schedule_id = %s"
        rows = self._sched.rows(query, self._ids[name])
        return [(row.id, row.scheduled_time) for row in rows if row.id not in self._triggered]

    def delay(self, name: str) -> timedelta:
        query = "select pgsched.jitter_of(id, jitter) from pgsched.schedules where id = %s"
        delay: timedelta = self._sched.value(query, self._ids[name])
        return delay

    # Schedules

    def _deploy(self, spec: Spec) -> str:
        named: dict[str, object] = {
            "name": spec.name,
            "overlap_policy": spec.overlap,
            "misfire_policy": spec.misfire,
            "misfire_grace": spec.grace,
            "jitter": spec.jitter,
            "starts_at": spec.starts_at,
            "ends_at": spec.ends_at,
            "max_runs": spec.max_runs,
        }
        if isinstance(spec.when, timedelta):
            return str(self._sched.call("schedule_every", "job", spec.when, **named))
        named["timezone"] = spec.timezone
        return str(self._sched.call("schedule_cron", "job", spec.when, **named))

    def _create(self, spec: Spec) -> str:
        """Its id, which decides its delay by jitter, comes from the seed."""
        made = str(UUID(int=self._rng.getrandbits(128), version=4))
        query = "update pgsched.schedules set id = %s where id = %s"
        self._sched.conn.execute(query, [made, self._deploy(spec)])
        return made

    # The clock

    def _move_clock(self) -> None:
        rng, now = self._rng, self.records.now
        if rng.random() < 0.04:
            seconds = rng.uniform(-7200, 3600)
            self.records.note(f"the clock is set by {seconds:+.0f} s")
            self._turn(now + seconds * SECOND)
        elif self._calm:
            self._calm -= 1
            query = "select min(next_run_at) from pgsched.schedules where is_active"
            due = self._sched.value(query) or now
            late = rng.choice((0, rng.uniform(0, 5), rng.uniform(0, 90), rng.uniform(0, 1200)))
            self._turn(max(now, due) + late * SECOND)
        else:
            self._leave()

    def _leave(self) -> None:
        """For up to two days; but let somebody be there when the clocks are changed."""
        rng, now = self._rng, self.records.now
        self._calm = rng.randint(1, 3)
        back = now + rng.choice((4, 48, 48, 48)) * rng.random() ** 0.5 * HOUR
        change = next((at for at in CHANGES if now < at < back), None)
        if change and rng.random() < 0.7:
            self._calm += 8
            back = change - rng.uniform(0, 0.5) * HOUR
        self.records.note(f"nobody is there until {back:%F %T}")
        self._turn(back)

    def _turn(self, at: datetime) -> None:
        self.records.now = min(max(at, BEGIN), self._end)
        self._sched.clock(self.records.now)

    # Runs

    def _work(self) -> None:
        """Push what is due; hear of some that end, lose the reports of others."""
        outcomes = ("ACCEPTED", "RETRY", "REFUSED", None)
        claimed = self._sched.claim(limit=10_000)
        settled = [
            settlement(task, outcome)
            for task in sorted(claimed, key=lambda task: (task.schedule_id, task.scheduled_time))
            for outcome in self._rng.choices(outcomes, (85, 5, 5, 5))
            if outcome
        ]
        self._sched.settle_many(*settled)
        self._sched.call("expire_deadlines")
        statuses = ("SUCCESS", "FAILED", "RUNNING", None)
        reports = [
            {"task_id": run.id, "attempt": run.attempt, "status": status}
            for run in self.tickers.runs()
            if run.status in ("DISPATCHED", "RUNNING")
            for status in self._rng.choices(statuses, (50, 10, 10, 30))
            if status
        ]
        self._sched.report_many(*reports)

    # Operators

    def _operate(self) -> None:
        name, act = self._rng.choice(sorted(SPECS)), self._rng.choice(ACTS)
        if self.records.paused and self._rng.random() < 0.3:
            name, act = self._rng.choice(sorted(self.records.paused)), World._resume
        self.records.note(f"{act.__name__.strip('_')}: {name}")
        act(self, name)

    def _redeploy(self, name: str) -> None:
        assert self._deploy(SPECS[name]) == self._ids[name]

    def _pause(self, name: str) -> None:
        if name not in self.records.paused:
            end = self.records.now + self._rng.uniform(0, 30) * HOUR + SECOND
            until = self._rng.choice((None, end))
            self._sched.call("pause_schedule", name, until=until)
            self.records.pause(name, until)

    def _resume(self, name: str) -> None:
        self._sched.call("resume_schedule", name)
        self.records.resume(name)

    def _trigger(self, name: str) -> None:
        task_id = str(self._sched.call("trigger_schedule", name))
        self._triggered.add(task_id)
        self.tickers.apart.add(task_id)

    def _cancel(self, name: str) -> None:
        runs = [run for run in self.tickers.runs() if run.schedule_id == self._ids[name]]
        for run in runs:
            if self._rng.random() < 0.7:
                self._sched.call("cancel_task", run.id)

    def _retry(self, name: str) -> None:
        query = """
            select id::text from pgsched.tasks where schedule_id = %s and status = 'FAILED'
            order by finished_at desc, scheduled_time desc limit 1
        """
        if failed := self._sched.value(query, self._ids[name]):
            self._sched.call("retry_task", failed)
            self.tickers.apart.add(failed)


ACTS: tuple[Callable[[World, str], None], ...] = (
    World._pause,
    World._redeploy,
    World._trigger,
    World._cancel,
    World._retry,
)
