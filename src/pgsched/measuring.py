"""What a worker's parts count, for its metrics, while they do their work."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pgsched.answers import Answer, Outcome, Verdict
from pgsched.batches import BatchAnswer
from pgsched.clients import Client
from pgsched.database import HORIZON, Database
from pgsched.errors import PgschedError
from pgsched.external import Answering
from pgsched.models import ClaimedTask, ExternalSystem, ReportAnswer
from pgsched.observer import Items, Observer, taken
from pgsched.settler import Settler
from pgsched.tallies import SystemTally, WorkerTally
from pgsched.targets import Targets

RELEASED = "released"
# The three kinds of counted retries are one here.
OUTCOMES = {
    Verdict.ACCEPTED: "accepted",
    Verdict.SUCCEEDED: "success",
    Verdict.DEFERRED: "deferred",
    Verdict.RETRY: "retry",
    Verdict.RETRY_SAME: "retry",
    Verdict.RETRY_LAPSED: "retry",
    Verdict.FAILED: "failed",
    Verdict.REFUSED: "refused",
}


class Measurer(Observer):
    """Counts what the calls of the database brought."""

    def __init__(self, tally: WorkerTally) -> None:
        self._tally = tally

    def claimed(self, tasks: list[ClaimedTask], horizon: datetime, seconds: float) -> None:
        self._tally.claim_seconds.observe(seconds)
        if not tasks:
            return
        self._tally.claim_sizes.observe(len(tasks))
        at, queues = horizon + HORIZON, self._tally.queues
        for task in tasks:
            tally = queues[task.queue]
            tally.claimed += 1
            tally.lag.observe((at - task.execute_after).total_seconds())

    def settled(self, settlements: Items, refused: dict[str, str], seconds: float) -> None:
        self._tally.settle_seconds.observe(seconds)
        self._tally.settle_sizes.observe(len(settlements))
        self._tally.unsettled.update(map(str.lower, refused.values()))

    def reported(self, reports: Items, refused: list[ReportAnswer], seconds: float) -> None:
        self._tally.settle_seconds.observe(seconds)
        self._tally.settle_sizes.observe(len(reports))
        for status, count in taken(reports, refused).items():
            self._tally.reports[status, "ok"] += count
        for answer in refused:
            status = reports[answer.report_index]["status"]
            self._tally.reports[status, str(answer.code)] += 1

    def told(self, results: Items) -> None:
        self._tally.news.update(result["outcome"].lower() for result in results)

    def fired(self, count: int) -> None:
        self._tally.fires += count

    def failed(self, exc: Exception) -> None:
        is_ours = isinstance(exc, PgschedError)
        self._tally.errors[type(exc).__name__ if is_ours else "Unexpected"] += 1


class MeasuredSettler(Settler):
    """Counts how each push ended, by the external system it went to."""

    def __init__(self, database: Database, targets: Targets, tally: WorkerTally) -> None:
        super().__init__(database)
        self._targets = targets
        self._tally = tally
        self._by_queue: dict[str, SystemTally] = {}
        self._read_at = float("-inf")

    def settle(self, task: ClaimedTask, outcome: Outcome) -> None:
        super().settle(task, outcome)
        tally = self._of(task)
        tally.outcomes[OUTCOMES[outcome.verdict]] += 1
        if outcome.elapsed is not None:
            tally.seconds.observe(outcome.elapsed.total_seconds())

    def release(self, task: ClaimedTask) -> None:
        super().release(task)
        self._of(task).outcomes[RELEASED] += 1

    def _of(self, task: ClaimedTask) -> SystemTally:
        # Where a queue leads is known anew every second; one that leads nowhere led somewhere.
        if self._read_at != self._targets.read_at:
            self._read_at = self._targets.read_at
            for queue, system in self._targets.reachable.items():
                self._by_queue[queue] = self._tally.systems[system.name]
        return self._by_queue.get(task.queue) or self._tally.systems["unknown"]


class MeasuredClient:
    """Counts what goes together, and how many probes are under way."""

    def __init__(self, client: Client, tally: WorkerTally) -> None:
        self._client = client
        self._tally = tally

    def push_task_status(self, system: ExternalSystem, task: ClaimedTask) -> Answering:
        """No coroutine of its own but for probes: it would cost each push."""
        push = self._client.push_task_status(system, task)
        return self._probe(system, push) if task.is_probe else push

    async def _probe(self, system: ExternalSystem, push: Answering) -> Answer:
        tally = self._tally.systems[system.name]
        tally.probes += 1
        try:
            return await push
        finally:
            tally.probes -= 1

    async def push_batch(self, system: ExternalSystem, tasks: Sequence[ClaimedTask]) -> BatchAnswer:
        found = await self._client.push_batch(system, tasks)
        self._tally.systems[system.name].batches.observe(len(found.parts))
        return found
