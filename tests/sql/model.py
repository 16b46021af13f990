"""
What docs/state_machine.md says, as plain Python: tasks, workers and queues in memory.

A method is an SQL function, and answers as that does; a refusal is its SQLSTATE.
What the database alone can know is told to the model afterwards: the id of a
round (`name_round()`), and how long the pause before a retry is (`learn_pause()`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

ZERO, SECOND, DAY = timedelta(), timedelta(seconds=1), timedelta(days=1)
LEASE = 30 * SECOND
HOLD = 60 * SECOND  # 30 s, and the longest request_timeout
RAMP = 10 * SECOND

FINISHED = ("SUCCESS", "FAILED", "CANCELLED")

Answer = tuple[str, str | None]


class Definition(NamedTuple):
    name: str
    max_retries: int
    retry_delay: timedelta
    timeout: timedelta
    on_dependency_failure: str


class Loop(NamedTuple):
    id: str
    interval: timedelta
    max_rounds: int
    goes_on: bool  # after a round that FAILED


class Delivery(NamedTuple):
    """One claim of one task: what the worker shows when it settles."""

    task_id: str
    attempt: int
    delivery_count: int
    worker_id: str


class Settlement(NamedTuple):
    delivery: Delivery
    outcome: str
    delay: timedelta = ZERO


class Report(NamedTuple):
    task_id: str
    status: str
    attempt: int | None = None
    stop_loop: bool = False


class End(NamedTuple):
    task: Task
    status: str
    stop_loop: bool = False
    is_reported: bool = False


@dataclass
class Worker:
    lease_since: datetime
    lease_expires_at: datetime


@dataclass
class Queue:
    name: str
    max_in_flight: int | None = None
    is_paused: bool = False
    resumed_at: datetime | None = None
    tokens: int = 0  # while the rate ramps up


@dataclass(eq=False)
class Task:
    id: str
    definition: Definition
    queue: str
    priority: int
    scheduled_time: datetime
    execute_after: datetime
    loop: Loop | None = None
    round_index: int = 0
    next: Task | None = None
    depends_on: tuple[str, ...] = ()
    awaits: set[str] = field(default_factory=set)
    status: str = "PENDING"
    attempt: int = 1
    retry_count: int = 0
    delivery_count: int = 0
    lost_count: int = 0
    lapsed_attempt: int | None = None
    undelivered_since: datetime | None = None
    deadline_at: datetime | None = None
    finished_at: datetime | None = None
    worker_id: str | None = None
    is_open: bool = False  # its latest delivery is neither answered nor given back
    slack: timedelta = ZERO  # it may be due so much later than execute_after

    @property
    def is_finished(self) -> bool:
        return self.status in FINISHED

    @property
    def has_budget(self) -> bool:
        return self.retry_count < self.definition.max_retries


class Model:
    def __init__(self, now: datetime, queues: Iterable[Queue]) -> None:
        self.now = now
        self.queues = {queue.name: queue for queue in queues}
        self.workers: dict[str, Worker] = {}
        self.tasks: dict[str, Task] = {}
        self.unnamed: list[tuple[Task, Task]] = []  # a round, and the next, whose id is not known
        self.events: Counter[tuple[str, str, int]] = Counter()
        self.told: list[tuple[str, str, int]] = []

    # What the database alone can know

    def name_round(self, task: Task, task_id: str) -> None:
        task.id = task_id
        self.tasks[task_id] = task

    def learn_pause(self, task: Task, execute_after: datetime) -> None:
        if task.execute_after <= execute_after <= task.execute_after + task.slack:
            task.execute_after = execute_after
        task.slack = ZERO

    # Enqueue

    def schedule(
        self,
        task_id: str,
        definition: Definition,
        queue: str,
        priority: int,
        delay: timedelta = ZERO,
        loop: Loop | None = None,
        depends_on: tuple[str, ...] = (),
    ) -> None:
        at = self.now + delay
        task = Task(task_id, definition, queue, priority, at, at, loop, depends_on=depends_on)
        task.awaits = self.unfinished_of(depends_on)
        self.tasks[task_id] = task

    def unfinished_of(self, task_ids: Iterable[str]) -> set[str]:
        return {task_id for task_id in task_ids if not self.tasks[task_id].is_finished}

    def refuses(self, definition: Definition, depends_on: Iterable[str]) -> bool:
        """Whether one of these has failed, for a task that minds."""
        failed = [t for t in depends_on if self.tasks[t].status in ("FAILED", "CANCELLED")]
        return bool(failed) and definition.on_dependency_failure == "cancel"

    # Workers

    def register(self, worker_id: str) -> None:
        self.workers[worker_id] = Worker(self.now, self.now + LEASE)

    def heartbeat(self, worker_id: str) -> str | timedelta:
        worker = self.workers.get(worker_id)
        if worker is None:
            return "PS404"
        if worker.lease_expires_at <= self.now:
            worker.lease_since = self.now
        worker.lease_expires_at = self.now + LEASE
        return LEASE

    def held_by(self, worker_ids: Iterable[str]) -> list[Task]:
        found = [t for t in self.tasks.values() if t.status == "SCHEDULED"]
        return [task for task in found if task.worker_id in set(worker_ids)]

    def goodbye(self, worker_id: str) -> int:
        self.workers.pop(worker_id, None)
        held = self.held_by([worker_id])
        for task in held:
            self.put_back(task, self.now)
        return len(held)

    def release_dead(self, worker_id: str) -> int:
        judge = self.workers.get(worker_id)
        if not judge or judge.lease_expires_at <= self.now or judge.lease_since > self.now - LEASE:
            return 0
        dead = {i: w for i, w in self.workers.items() if w.lease_expires_at <= self.now}
        held = self.held_by(dead)
        self.lose(held)
        for i, worker in dead.items():
            if worker.lease_expires_at <= self.now - 10 * LEASE:
                del self.workers[i]
        return len(held)

    # Queues

    def pause(self, name: str) -> None:
        self.queues[name].is_paused = True

    def resume(self, name: str) -> None:
        queue = self.queues[name]
        if queue.is_paused and queue.resumed_at != self.now:
            queue.resumed_at, queue.tokens = self.now, 1
        queue.is_paused = False

    def turn(self, by: timedelta) -> None:
        """Turn the clock, by whole seconds: each fills the bucket of a ramp."""
        self.now += by
        for queue in self.queues.values():
            if queue.resumed_at:
                past = min(self.now - queue.resumed_at, RAMP)
                queue.tokens = 2 * 2 ** (past // SECOND)

    def room(self, queue: Queue) -> int:
        room = 10_000
        if queue.resumed_at and queue.resumed_at > self.now - RAMP:
            room = queue.tokens
        if queue.max_in_flight is not None:
            under_way = [
                t
                for t in self.tasks.values()
                if t.queue == queue.name and t.deadline_at is not None
            ]
            room = min(room, queue.max_in_flight - len(under_way))
        return room

    # Claim

    def claim(
        self, worker_id: str, limit: int, queues: list[str] | None = None
    ) -> str | list[Delivery]:
        worker = self.workers.get(worker_id)
        if worker is None or worker.lease_expires_at <= self.now:
            return "PS409"
        found: list[Task] = []
        for name in queues or sorted(self.queues):
            found += self.claim_from(self.queues[name], limit - len(found))
        found.sort(key=lambda t: (-t.priority, t.execute_after, t.id))
        return [self.hand_out(task, worker_id) for task in found]

    def claim_from(self, queue: Queue, limit: int) -> list[Task]:
        due = [t for t in self.tasks.values() if t.queue == queue.name and self.is_due(t)]
        due.sort(key=lambda t: (-t.priority, t.execute_after, t.id))
        taken = [] if queue.is_paused else due[: max(0, min(limit, self.room(queue)))]
        queue.tokens -= len(taken)
        return taken

    def is_due(self, task: Task) -> bool:
        return task.status == "PENDING" and not task.awaits and task.execute_after <= self.now

    def hand_out(self, task: Task, worker_id: str) -> Delivery:
        task.status, task.worker_id, task.is_open = "SCHEDULED", worker_id, True
        task.delivery_count += 1
        task.deadline_at = self.now + HOLD
        return Delivery(task.id, task.attempt, task.delivery_count, worker_id)

    # Settle

    def settle(self, settlements: list[Settlement]) -> dict[str, str]:
        """All are judged by what is there before; only what is refused is answered."""
        verdicts = [(given, self.judge_settlement(given)) for given in settlements]
        applied = [given for given, verdict in verdicts if verdict == "APPLY"]
        stale = [given for given, verdict in verdicts if verdict == "STALE"]
        accepted = {s.delivery.task_id for s in settlements if s.outcome == "ACCEPTED"}
        self.tell_of_cancelled([self.tasks[i] for i in accepted])
        for given in applied:
            if given.outcome in ("DEFERRED", "RELEASED", "REFUSED"):
                self.note(self.tasks[given.delivery.task_id], given.outcome)
        for outcomes, apply in self.settling():
            apply([given for given in applied if given.outcome in outcomes])
        for given in stale:
            self.events[given.delivery.task_id, "SETTLE_REFUSED", given.delivery.attempt] += 1
        return {given.delivery.task_id: "STALE" for given in stale}

    def judge_settlement(self, given: Settlement) -> str:
        task = self.tasks[given.delivery.task_id]
        fence = (given.delivery.attempt, given.delivery.delivery_count)
        if task.is_finished:
            return "SILENT"
        if given.outcome == "ACCEPTED" and task.status in ("DISPATCHED", "RUNNING"):
            return "SILENT"
        if fence != (task.attempt, task.delivery_count):
            return "STALE"
        if task.status == "SCHEDULED":
            return "APPLY"
        is_late = given.outcome == "ACCEPTED" and task.status == "PENDING" and task.is_open
        return "APPLY" if is_late else "STALE"

    def settling(self) -> list[tuple[tuple[str, ...], Callable[[list[Settlement]], None]]]:
        return [
            (("ACCEPTED",), self.accept),
            (("DEFERRED", "RELEASED"), self.give_back),
            (("RETRY", "RETRY_SAME", "RETRY_LAPSED"), self.retry_settled),
            (("REFUSED",), self.refuse),
        ]

    def accept(self, settlements: list[Settlement]) -> None:
        for given in settlements:
            task = self.tasks[given.delivery.task_id]
            task.status = "DISPATCHED"
            self.hear_of(task)

    def hear_of(self, task: Task) -> None:
        """The external system has it: it may be silent for as long as the definition says."""
        task.deadline_at = self.now + task.definition.timeout
        task.lost_count, task.undelivered_since = 0, None

    def give_back(self, settlements: list[Settlement]) -> None:
        for given in settlements:
            task = self.tasks[given.delivery.task_id]
            since = task.undelivered_since
            if given.outcome == "DEFERRED" and since and since + DAY <= self.now:
                self.finish([End(task, "FAILED")])
                continue
            self.put_back(task, self.now + given.delay)
            if given.outcome == "DEFERRED":
                task.undelivered_since = since or self.now
                task.is_open = False

    def put_back(self, task: Task, execute_after: datetime) -> None:
        task.status, task.deadline_at = "PENDING", None
        task.execute_after = execute_after

    def retry_settled(self, settlements: list[Settlement]) -> None:
        self.fail([(End(self.tasks[s.delivery.task_id], "FAILED"), s.outcome) for s in settlements])

    def refuse(self, settlements: list[Settlement]) -> None:
        self.finish([End(self.tasks[s.delivery.task_id], "FAILED") for s in settlements])

    # Report

    def report(self, reports: list[Report]) -> list[Answer]:
        """The status and the code of each, in the order given."""
        answers: dict[int, Answer] = {}
        waiting = dict(enumerate(reports))
        while waiting:
            first: dict[str, int] = {}
            for index, report in waiting.items():
                first.setdefault(report.task_id, index)
            answers |= self.report_distinct({i: waiting.pop(i) for i in first.values()})
        return [answers[i] for i in range(len(reports))]

    def report_one(self, report: Report) -> str:
        """The one that raises, and takes its event back with it."""
        verdict = self.judge_report(report)
        if verdict.startswith("PS"):
            return verdict
        ((status, _),) = self.report([report])
        return status

    def report_distinct(self, reports: dict[int, Report]) -> dict[int, Answer]:
        verdicts = {i: self.judge_report(report) for i, report in reports.items()}
        answers = {i: self.answer(reports[i], verdict) for i, verdict in verdicts.items()}

        def those(verdict: str) -> list[Report]:
            return [report for i, report in reports.items() if verdicts[i] == verdict]

        for report in those("RUN"):
            task = self.tasks[report.task_id]
            task.status = "RUNNING"
            self.hear_of(task)
        ends = [End(self.tasks[r.task_id], r.status, r.stop_loop, True) for r in those("FINISH")]
        self.finish(ends)
        failed = [End(self.tasks[r.task_id], "FAILED", r.stop_loop) for r in those("FAIL")]
        self.fail([(end, "RETRY") for end in failed])
        for report in [*those("PS409"), *those("PS422")]:
            attempt = report.attempt or 0
            self.events[report.task_id, "REPORT_REFUSED", attempt] += 1
        return answers

    def judge_report(self, report: Report) -> str:
        task = self.tasks[report.task_id]
        attempt = task.attempt if report.attempt is None else report.attempt
        if task.delivery_count == 0 or not 1 <= attempt <= task.attempt:
            return "PS422"
        if task.is_finished and task.status != report.status:
            return "PS409"
        is_in_time = task.lapsed_attempt is not None and attempt >= task.lapsed_attempt
        if attempt == task.attempt or (report.status == "SUCCESS" and is_in_time):
            if task.is_finished:
                return "KNOWN"
            return {"RUNNING": "RUN", "FAILED": "FAIL"}.get(report.status, "FINISH")
        if report.status == "FAILED" and not task.is_finished:
            return "KNOWN"
        return "PS409"

    def answer(self, report: Report, verdict: str) -> Answer:
        task = self.tasks[report.task_id]
        after = {
            "RUN": "RUNNING",
            "FINISH": report.status,
            "FAIL": "PENDING" if task.has_budget else "FAILED",
        }
        return after.get(verdict, task.status), verdict if verdict.startswith("PS") else None

    # What time does

    def expire(self) -> int:
        late = [t for t in self.tasks.values() if t.deadline_at and t.deadline_at <= self.now]
        held = [task for task in late if task.status == "SCHEDULED"]
        silent = [task for task in late if task.status != "SCHEDULED"]
        self.fail([(End(task, "FAILED"), "RETRY_LAPSED") for task in silent])
        self.lose(held)
        return len(late)

    def lose(self, tasks: list[Task]) -> None:
        for task in tasks:
            self.note(task, "LOST")
        self.finish([End(task, "FAILED") for task in tasks if task.lost_count + 1 >= 10])
        for task in tasks:
            if not task.is_finished:
                task.lost_count += 1
                self.put_back(task, self.now)

    # Operators

    def cancel(self, task_id: str) -> str:
        task = self.tasks[task_id]
        if task.is_finished:
            return "PS409"
        self.note(task, "CANCELLED")
        self.finish([End(task, "CANCELLED")])
        return "CANCELLED"

    def retry(self, task_id: str) -> str:
        task = self.tasks[task_id]
        if task.status not in ("FAILED", "CANCELLED"):
            return "PS409"
        if self.refuses(task.definition, task.depends_on):
            return "PS409"
        task.awaits = self.unfinished_of(task.depends_on)
        task.attempt += 1
        task.retry_count = task.lost_count = 0
        task.lapsed_attempt = task.undelivered_since = task.finished_at = None
        task.is_open = False
        self.put_back(task, self.now)
        self.note(task, "OPERATOR_RETRY")
        self.tell(task, "PENDING")
        return "PENDING"

    def stop_loop(self, task_id: str) -> str | None:
        loop = self.tasks[task_id].loop
        if loop is None:
            return "PS404"
        for task in self.tasks.values():
            if task.loop and task.loop.id == loop.id and not task.next and not task.is_finished:
                self.note(task, "LOOP_STOPPED")
                if task.status == "PENDING":
                    self.finish([End(task, "CANCELLED")])
                else:
                    task.loop = task.loop._replace(max_rounds=task.round_index + 1)
                return task.id
        return None

    # Ends, and tries again

    def fail(self, failures: list[tuple[End, str]]) -> None:
        """Each with the outcome that says what becomes of the attempt."""
        self.finish([end for end, _ in failures if not end.task.has_budget])
        for end, outcome in failures:
            task = end.task
            if task.is_finished:
                continue
            delay = min(task.definition.retry_delay * 2**task.retry_count, DAY)
            self.put_back(task, self.now + delay)
            task.slack = delay / 10
            if outcome == "RETRY_LAPSED" and task.lapsed_attempt is None:
                task.lapsed_attempt = task.attempt
            task.attempt += outcome != "RETRY_SAME"
            task.retry_count += 1
            task.undelivered_since, task.is_open = None, False
            self.note(task, "RETRY")
            self.tell(task, "PENDING")

    def finish(self, ends: list[End]) -> None:
        """Go on to what waited for these, level by level."""
        while ends:
            for end in ends:
                if end.status != "SUCCESS" and not end.is_reported:
                    self.tell(end.task, end.status)
            for end in ends:
                end.task.status, end.task.deadline_at = end.status, None
                end.task.finished_at = self.now
                self.begin_next(end)
            ends = self.unblock({end.task.id for end in ends})

    def begin_next(self, end: End) -> None:
        task, loop = end.task, end.task.loop
        if loop is None or task.next or end.stop_loop:
            return
        goes_on = end.status == "SUCCESS" or (end.status == "FAILED" and loop.goes_on)
        if not goes_on or task.round_index + 1 >= loop.max_rounds:
            return
        pause = task.definition.retry_delay if end.status == "FAILED" else ZERO
        at = max(self.now + pause, task.scheduled_time + loop.interval)
        task.next = Task(
            "", task.definition, task.queue, task.priority, at, at, loop, task.round_index + 1
        )
        self.unnamed.append((task, task.next))

    def unblock(self, ended: set[str]) -> list[End]:
        ends = []
        for task in self.tasks.values():
            over = task.awaits & ended
            task.awaits -= over
            if not over or task.is_finished:
                continue
            if self.refuses(task.definition, over):
                task.awaits.clear()
                self.note(task, "CANCELLED")
                ends.append(End(task, "CANCELLED"))
            else:
                task.execute_after = max(task.execute_after, self.now)
        return ends

    # What is left behind

    def note(self, task: Task, event: str) -> None:
        self.events[task.id, event, task.attempt] += 1

    def tell(self, task: Task, status: str) -> None:
        """Put it into the outbox, if the executor has heard of the task."""
        if task.delivery_count > 0:
            self.told.append((task.id, status, task.attempt))

    def tell_of_cancelled(self, tasks: list[Task]) -> None:
        for task in tasks:
            is_lately = task.finished_at is not None and task.finished_at > self.now - DAY
            if task.status == "CANCELLED" and is_lately:
                self.told.append((task.id, "CANCELLED", task.attempt))
