"""
Whatever is done to tasks, in whatever order: they are what a small model of the contract says.

Hypothesis makes up stories of several workers, which keep every delivery that
they were ever given and settle it when they like, of executors that report late
or twice, and of operators; after each step all tasks, events and messages are
compared with `model.py`.  PGSCHED_TEST_MODEL_EXAMPLES says how many stories, by
default EXAMPLES; `make model` tells 1,000, and shortens one that fails, which
takes minutes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.asked import asked, default
from tests.restoring import restore_tables
from tests.sql.model import Definition, Delivery, Loop, Model, Queue, Report, Settlement, Task
from tests.sql.sched import HOUR, MINUTE, SECOND, START, Sched, restart_clock

EXAMPLES = default("PGSCHED_TEST_MODEL_EXAMPLES")
LENGTH = 50
ASKED = asked("PGSCHED_TEST_MODEL_EXAMPLES")
PHASES = set(Phase) if ASKED > EXAMPLES else set(Phase) - {Phase.shrink, Phase.explain}

WORKERS = 4
MOST_TASKS = 12
DEFINITIONS = [
    Definition("sturdy", 3, 10 * SECOND, 10 * MINUTE, "cancel"),
    Definition("frail", 0, MINUTE, MINUTE, "run"),
]
OUTCOMES = [
    *("ACCEPTED", "ACCEPTED", "DEFERRED", "DEFERRED", "RELEASED"),
    *("RETRY", "RETRY_SAME", "RETRY_LAPSED", "RETRY_LAPSED", "REFUSED"),
]
ACTS = ["cancel_task", "retry_task", "retry_task", "retry_task", "stop_loop"]
FITS: dict[str, Callable[[Task], bool]] = {
    "cancel_task": lambda task: not task.is_finished,
    "retry_task": lambda task: task.status in ("FAILED", "CANCELLED"),
    "stop_loop": lambda task: task.loop is not None,
}
TIMES = [SECOND, 12 * SECOND, 31 * SECOND, 31 * SECOND, 61 * SECOND, 11 * MINUTE, 25 * HOUR]
REPORTS = ["RUNNING", "RUNNING", "SUCCESS", "SUCCESS", "FAILED", "FAILED", "CANCELLED"]

# Everything the model knows of a task; of one in the record the whole row as well.
COLUMNS = """
    id::text, status, queue, priority, attempt, retry_count, delivery_count, lost_count,
    lapsed_attempt, undelivered_since, deadline_at, execute_after, scheduled_time, round_index,
    pending_dependencies, case status when 'SCHEDULED' then worker_id::text end as held_by,
    next_task_id::text
"""
TASKS = f"""
    select {COLUMNS}, null::timestamptz as finished_at, null as record from pgsched.scheduled_tasks
    union all
    select {COLUMNS}, finished_at, to_jsonb(i)::text from pgsched.task_instances as i
"""
EVENTS = """
    select task_id::text, event, coalesce(attempt, 0), count(*)
    from pgsched.task_events group by 1, 2, 3
"""
HEARTBEATS = (
    "select pgsched.heartbeat(w.id) from pgsched.workers as w where w.id = any (%s::uuid[])"
)
OUTBOX = "select task_id::text, status, attempt from pgsched.status_pushes order by sequence"

# An index from the end of a list, so that 0 is the latest.
back = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 5, 8])
queues = st.sampled_from([None, ["narrow", "default"], ["default"], ["narrow"]])
mostly = st.sampled_from([True, True, True, False])
seldom = mostly.map(lambda answer: not answer)
outcomes = st.sampled_from(OUTCOMES)
statuses = st.sampled_from(REPORTS)
# How far from the current attempt; None: not named.
attempts = st.sampled_from([0, 0, None, -1, -1, -2, 1])
settled = st.lists(st.tuples(back, outcomes), max_size=3)
again = st.none() | outcomes  # what is said of the first of them after that
reported = st.lists(st.tuples(back, statuses, attempts, seldom), max_size=2)
definitions = st.sampled_from(DEFINITIONS)

# How often each step is taken, and with what.
STEPS: list[tuple[int, str, dict[str, st.SearchStrategy[Any]]]] = [
    (
        6,
        "work",
        {"back": back, "limit": st.integers(1, 3), "settled": settled, "reported": reported},
    ),
    (2, "claim", {"back": back, "limit": st.integers(1, 4), "queues": queues, "is_alive": mostly}),
    (3, "settle", {"given": settled, "delay": st.sampled_from([0, 0, 20]), "again": again}),
    (3, "report_statuses", {"given": reported}),
    (1, "report_status", {"given": st.tuples(back, statuses, attempts, seldom)}),
    (3, "operate", {"back": back, "act": st.sampled_from(ACTS), "is_fitting": mostly}),
    (3, "pass_by", {"by": st.sampled_from(TIMES), "dead": st.sets(back, max_size=2), "back": back}),
    (2, "turn_to_what_is_next", {}),
    (1, "goodbye", {"back": back}),
    (1, "pause_or_resume", {"queue": st.just("narrow")}),
    (
        2,
        "schedule",
        {
            "definition": definitions,
            "queue": st.sampled_from(["default", "narrow"]),
            "priority": st.integers(-1, 1),
            "delay": st.sampled_from([0, 0, 90]),
            "after": st.lists(back, max_size=2),
        },
    ),
    (
        1,
        "schedule_loop",
        {
            "definition": definitions,
            "interval": st.sampled_from([0, 0, 30]),
            "max_rounds": st.integers(0, 3),
            "on_failure": st.sampled_from(["stop", "continue"]),
        },
    ),
]
steps = st.sampled_from([step for step in STEPS for _ in range(step[0])]).flatmap(
    lambda step: st.tuples(st.just(step[1]), st.fixed_dictionaries(step[2]))
)

Settled = tuple[int, str]
Reported = tuple[int, str, int | None, bool]


class Story(RuleBasedStateMachine):
    """Each call is a transaction of its own, by whichever worker it is."""

    def __init__(self, sched: Sched) -> None:
        super().__init__()
        self.sched = sched
        restart_clock(sched.conn)
        restore_tables(sched.conn)
        self.model = Model(START, [Queue("default"), Queue("narrow", max_in_flight=2)])
        sched.value("select setseed(0)")
        sched.call("define_queue", "narrow", max_in_flight=2)
        for definition in DEFINITIONS:
            sched.define(**definition._asdict())
        self.ids: list[str] = []  # of all tasks that were ever made
        self.workers: list[str] = []
        self.deliveries: list[Delivery] = []
        self.records: dict[str, str] = {}
        self.retried: str | None = None  # in this step
        self.acknowledged: dict[str, str] = {}
        self.is_told = True  # as the model says, so far
        for _ in range(WORKERS):
            self.register()
        self.schedule(DEFINITIONS[0], "default", 0, 0, [])
        self.schedule(DEFINITIONS[1], "narrow", 0, 0, [])
        self.schedule_loop(DEFINITIONS[0], 0, 3, "continue")

    @rule(step=steps)
    def act(self, step: tuple[str, dict[str, Any]]) -> None:
        """One rule, so that each way is taken as often as STEPS says."""
        name, given = step
        getattr(self, name)(**given)

    # What each step does

    def same(self, found: object, expected: object) -> None:
        self.is_told = self.is_told and found == expected
        assert found == expected

    def ask(self, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """What a call returns, or the SQLSTATE of its refusal."""
        try:
            return call(*given, **named)
        except psycopg.Error as error:
            if not (error.sqlstate or "").startswith("PS"):
                raise
            return error.sqlstate

    def call(self, function: str, *given: object) -> Any:
        return self.ask(self.sched.call, function, *given)

    def pick(self, found: list[Any], back: int) -> Any:
        return found[-1 - back % len(found)]

    # Tasks

    def has_room(self) -> bool:
        """Whether one more may be made; in a second of its own, so that ids are in order."""
        self.sched.clock(SECOND)
        self.model.turn(SECOND)
        return len(self.ids) < MOST_TASKS

    def schedule(
        self, definition: Definition, queue: str, priority: int, delay: int, after: list[int]
    ) -> None:
        if not self.has_room():
            return
        depends_on = tuple(sorted({self.pick(self.ids, n) for n in after if self.ids}))
        named = {"queue": queue, "priority": priority, "depends_on": list(depends_on)}
        pause = delay * SECOND
        given = {"delay": pause, **named} if delay else named
        task_id = self.ask(self.sched.schedule, definition.name, **given)
        if self.model.refuses(definition, depends_on):
            self.same(task_id, "PS409")
            return
        self.model.schedule(task_id, definition, queue, priority, pause, None, depends_on)
        self.ids.append(task_id)

    def schedule_loop(
        self, definition: Definition, interval: int, max_rounds: int, on_failure: str
    ) -> None:
        if not self.has_room():
            return
        if max_rounds == 0:
            task_id = self.call("trigger_loop_once", definition.name)
            self.model.schedule(task_id, definition, "default", 0)
            self.ids.append(task_id)
            return
        pause = interval * SECOND
        task_id = self.ask(
            self.sched.loop,
            definition.name,
            max_rounds=max_rounds,
            loop_interval=pause,
            schedule_config={"on_failure": on_failure},
        )
        loop = Loop(task_id, pause, max_rounds, on_failure == "continue")
        self.model.schedule(task_id, definition, "default", 0, loop=loop)
        self.ids.append(task_id)

    # Workers come, work and go

    def register(self) -> None:
        worker_id = str(self.ask(self.sched.register))
        self.model.register(worker_id)
        self.workers.append(worker_id)

    def heartbeat(self, back: int) -> None:
        worker_id = self.pick(self.workers, back)
        self.same(self.call("heartbeat", worker_id), self.model.heartbeat(worker_id))

    def claim(self, back: int, limit: int, queues: list[str] | None, is_alive: bool) -> None:
        if is_alive:
            self.heartbeat(back)
        worker_id = self.pick(self.workers, back)
        found = self.ask(self.sched.claim, limit, queues, worker=worker_id)
        if isinstance(found, list):
            found = [Delivery(r.id, r.attempt, r.delivery_count, worker_id) for r in found]
            self.deliveries += found
            touched = [d.task_id for d in found]
            self.ids = [i for i in self.ids if i not in touched] + touched
        self.same(found, self.model.claim(worker_id, limit, queues))

    def claim_what_is_next(self, back: int, limit: int) -> None:
        if not any(self.model.is_due(task) for task in self.model.tasks.values()):
            self.turn_to_what_is_next()
        self.claim(back, limit, None, is_alive=True)

    def work(self, back: int, limit: int, settled: list[Settled], reported: list[Reported]) -> None:
        """What most tasks go through, and some that were delivered earlier."""
        self.claim_what_is_next(back, limit)
        self.settle(settled, 0, None)
        self.report_statuses(reported)

    def settle(self, given: list[Settled], delay: int, again: str | None) -> None:
        """Whatever is picked was delivered once, and may be anybody's by now."""
        if not given or not self.deliveries:
            return
        chosen = {self.pick(self.deliveries, n): outcome for n, outcome in given}
        self.settle_all([Settlement(d, o, delay * SECOND) for d, o in chosen.items()])
        if again:
            self.settle_all([Settlement(next(iter(chosen)), again)])

    def settle_all(self, settlements: list[Settlement]) -> None:
        sent = [
            {**s.delivery._asdict(), "outcome": s.outcome, "delay": f"{s.delay.seconds} seconds"}
            for s in settlements
        ]
        self.same(self.ask(self.sched.settle_many, *sent), self.model.settle(settlements))

    def goodbye(self, back: int) -> None:
        worker_id = self.pick(self.workers, back)
        self.same(self.call("release_worker", worker_id), self.model.goodbye(worker_id))
        self.register()

    def take_back(self, back: int) -> None:
        """What a worker does for all, now and then."""
        self.expire_deadlines()
        worker_id = self.pick(self.workers, back)
        released = self.call("release_dead_workers", worker_id)
        self.same(released, self.model.release_dead(worker_id))

    def expire_deadlines(self) -> None:
        self.same(self.call("expire_deadlines"), self.model.expire())

    # Executors report

    def report_of(self, back: int, status: str, attempt: int | None, stop_loop: bool) -> Report:
        task = self.model.tasks[self.pick(self.ids, back)]
        named = None if attempt is None else task.attempt + attempt
        return Report(task.id, status, named, stop_loop)

    def acknowledge(self, report: Report, status: str, code: str | None) -> None:
        if code is None and status == report.status in ("SUCCESS", "FAILED", "CANCELLED"):
            self.acknowledged[report.task_id] = status

    def report_statuses(self, given: list[Reported]) -> None:
        if given:
            self.report([self.report_of(*each) for each in given])

    def report(self, reports: list[Report]) -> None:
        found = self.ask(self.sched.report_many, *(report._asdict() for report in reports))
        self.same([(row.status, row.code) for row in found], self.model.report(reports))
        for report, row in zip(reports, found, strict=True):
            self.acknowledge(report, row.status, row.code)

    def report_status(self, given: Reported) -> None:
        report = self.report_of(*given)
        found = self.ask(self.sched.report, *report[:3], stop_loop=report.stop_loop)
        self.same(found, self.model.report_one(report))
        self.acknowledge(report, found, None)

    # Operators act, and time passes

    def operate(self, back: int, act: str, is_fitting: bool) -> None:
        fitting = [i for i in self.ids if is_fitting and FITS[act](self.model.tasks[i])]
        task_id = self.pick(fitting or self.ids, back)
        expected = {
            "cancel_task": self.model.cancel,
            "retry_task": self.model.retry,
            "stop_loop": self.model.stop_loop,
        }
        answer = self.call(act, task_id)
        self.same(answer and str(answer), expected[act](task_id))
        if answer == "PENDING":
            self.retried = task_id
            self.acknowledged.pop(task_id, None)

    def pause_or_resume(self, queue: str = "narrow") -> None:
        if self.model.queues[queue].is_paused:
            self.call("resume_queue", queue)
            self.model.resume(queue)
        else:
            self.call("pause_queue", queue)
            self.model.pause(queue)

    def pass_by(self, by: timedelta, dead: set[int], back: int) -> None:
        self.turn(by, dead)
        self.take_back(back)

    def turn(self, by: timedelta, dead: set[int]) -> None:
        """Let time pass for the dead; the others renew their leases all along."""
        alive = set(self.workers) - {self.pick(self.workers, n) for n in dead}
        until = self.model.now + by
        while self.model.now < until:
            step = min(until - self.model.now, 20 * SECOND if by < HOUR / 6 else by)
            self.sched.clock(step)
            self.model.turn(step)
            self.sched.rows(HEARTBEATS, list(alive))
            for worker_id in alive & self.model.workers.keys():
                self.model.heartbeat(worker_id)

    def turn_to_what_is_next(self) -> None:
        tasks = [task for task in self.model.tasks.values() if not task.is_finished]
        due = [t.execute_after for t in tasks if t.status == "PENDING" and not t.awaits]
        later = [at for at in due if at > self.model.now]
        later = later or [t.deadline_at for t in tasks if t.deadline_at]
        if later and min(later) > self.model.now:
            self.turn(-((self.model.now - min(later)) // SECOND) * SECOND, set())

    # What holds after each

    @invariant()
    def all_is_what_the_model_says(self) -> None:
        self.each_task_is_what_the_model_says()
        self.events_and_messages_are_what_the_model_says()
        fences = [(d.task_id, d.delivery_count) for d in self.deliveries]
        assert len(fences) == len(set(fences)), "a delivery was handed out twice"

    def each_task_is_what_the_model_says(self) -> None:
        rows = self.sched.rows(TASKS)
        by_id = {row.id: row for row in rows}
        assert len(by_id) == len(rows), "a task is there twice"
        for before, task in self.model.unnamed:
            self.model.name_round(task, by_id[before.id].next_task_id)
            self.ids.append(task.id)
        self.model.unnamed.clear()
        for task in self.model.tasks.values():
            if task.id in by_id:
                self.model.learn_pause(task, by_id[task.id].execute_after)
        expected = {task.id: state_of(task) for task in self.model.tasks.values()}
        self.same({row.id: row[1:-1] for row in rows}, expected)
        self.no_record_changes({row.id: row.record for row in rows if row.record})
        for row in rows:
            assert row.retry_count <= self.model.tasks[row.id].definition.max_retries
            assert row.status == self.acknowledged.get(row.id, row.status)

    def no_record_changes(self, records: dict[str, str]) -> None:
        for task_id, record in self.records.items():
            assert task_id == self.retried or records[task_id] == record
        self.records, self.retried = records, None

    def events_and_messages_are_what_the_model_says(self) -> None:
        events = Counter({tuple(row[:3]): row[3] for row in self.sched.rows(EVENTS)})
        self.same(events, self.model.events)
        told, expected = defaultdict(list), defaultdict(list)
        for task_id, *message in self.sched.rows(OUTBOX):
            told[task_id].append(tuple(message))
        for task_id, *message in self.model.told:
            expected[task_id].append(tuple(message))
        self.same(told, expected)

    # And in the end

    def teardown(self) -> None:
        """Every task can be brought to its end, by a worker that knows nothing."""
        if self.is_told:
            self.bring_to_the_end()

    def bring_to_the_end(self) -> None:
        for queue in self.model.queues.values():
            if queue.is_paused:
                self.pause_or_resume(queue.name)
        for _ in range(60):
            if all(task.is_finished for task in self.model.tasks.values()):
                return
            self.turn(25 * HOUR, set())
            self.expire_deadlines()
            self.register()
            self.claim(0, 100, None, is_alive=True)
            held = [t.id for t in self.model.tasks.values() if t.status == "SCHEDULED"]
            self.report([Report(task_id, "SUCCESS") for task_id in held])
            self.each_task_is_what_the_model_says()
        raise AssertionError("some task does not end")


def state_of(task: Task) -> tuple[Any, ...]:
    """In the order of the columns."""
    return (
        task.status,
        task.queue,
        task.priority,
        task.attempt,
        task.retry_count,
        task.delivery_count,
        task.lost_count,
        task.lapsed_attempt,
        task.undelivered_since,
        task.deadline_at,
        task.execute_after,
        task.scheduled_time,
        task.round_index,
        0 if task.is_finished else len(task.awaits),
        task.worker_id if task.status == "SCHEDULED" else None,
        task.next and task.next.id,
        task.finished_at,
    )


@pytest.mark.timeout(600 + 2 * ASKED)
def test_tasks_are_what_the_model_says(sched: Sched) -> None:
    class Told(Story):
        def __init__(self) -> None:
            super().__init__(sched)

    run_state_machine_as_test(
        Told,
        settings=settings(
            max_examples=ASKED,
            stateful_step_count=LENGTH,
            deadline=None,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
        ),
    )
