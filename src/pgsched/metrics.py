"""The metrics of a worker: what it has counted, and how it stands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from pgsched.dispatcher import ScheduleDispatcher
from pgsched.families import counter, gauge, histogram
from pgsched.lease import Lease
from pgsched.listener import Listener
from pgsched.tallies import WorkerTally
from pgsched.targets import Targets


class Parts(NamedTuple):
    """The parts of a worker that are looked at when somebody asks."""

    dispatcher: ScheduleDispatcher
    targets: Targets
    lease: Lease
    listener: Listener
    slots: int


class WorkerCollector(Collector):
    """Reads the tally and the parts; only in the thread of the worker's event loop."""

    def __init__(self, tally: WorkerTally, parts: Parts) -> None:
        self._tally = tally
        self._parts = parts

    def collect(self) -> Iterator[Metric]:
        yield from self._claims()
        yield from self._pushes()
        yield from self._settles()
        yield from self._lanes()
        yield from self._standing()

    def _claims(self) -> Iterator[Metric]:
        tally = self._tally
        queues = sorted(tally.queues.items())
        yield counter(
            "pgsched_worker_tasks_claimed_total",
            "Tasks claimed, by queue.",
            "queue",
            ((name, queue.claimed) for name, queue in queues),
        )
        yield histogram(
            "pgsched_worker_task_lag_seconds",
            "From the time a task was due until it was claimed.",
            "queue",
            ((name, queue.lag) for name, queue in queues),
        )
        yield histogram(
            "pgsched_worker_claim_duration_seconds",
            "Duration of claims, also of those that found nothing.",
            (),
            [((), tally.claim_seconds)],
        )
        yield histogram(
            "pgsched_worker_claim_size_tasks",
            "Tasks in a claim that found some.",
            (),
            [((), tally.claim_sizes)],
        )

    def _pushes(self) -> Iterator[Metric]:
        systems = sorted(self._tally.systems.items())
        yield counter(
            "pgsched_worker_pushes_total",
            "Tasks pushed, or given back unpushed, by how that ended.",
            ("external_system", "outcome"),
            (
                ((name, outcome), count)
                for name, system in systems
                for outcome, count in sorted(system.outcomes.items())
            ),
        )
        yield histogram(
            "pgsched_worker_push_duration_seconds",
            "From the request to the answer, once for each task.",
            "external_system",
            ((name, system.seconds) for name, system in systems),
        )
        yield histogram(
            "pgsched_worker_push_batch_size_tasks",
            "Tasks in a push of several.",
            "external_system",
            ((name, system.batches) for name, system in systems),
        )

    def _settles(self) -> Iterator[Metric]:
        tally = self._tally
        yield histogram(
            "pgsched_worker_settle_duration_seconds",
            "Duration of the calls that write how pushes ended.",
            (),
            [((), tally.settle_seconds)],
        )
        yield histogram(
            "pgsched_worker_settle_size_tasks",
            "Tasks in such a call.",
            (),
            [((), tally.settle_sizes)],
        )
        yield counter(
            "pgsched_worker_settles_refused_total",
            "Tasks not settled: stale, they had been taken away; locked, they are tried again.",
            "reason",
            tally.unsettled.items(),
        )
        yield counter(
            "pgsched_worker_reports_total",
            "Results that came with the answer to a push, by status, and what the database said.",
            ("status", "answer"),
            tally.reports.items(),
        )
        yield counter(
            "pgsched_worker_status_pushes_total",
            "Messages of the outbox that were sent, by how that ended.",
            "outcome",
            tally.news.items(),
        )
        yield counter(
            "pgsched_worker_schedule_fires_total",
            "Instants of schedules that this worker brought to their end.",
            (),
            [((), tally.fires)],
        )

    def _lanes(self) -> Iterator[Metric]:
        parts, lanes = self._parts, sorted(self._parts.dispatcher.lanes.items())
        systems = sorted({s.name: s for s in parts.targets.reachable.values()}.items())
        yield gauge(
            "pgsched_worker_tasks_in_flight",
            "Tasks that are being pushed.",
            "external_system",
            ((name, lane.under_way) for name, lane in lanes),
        )
        yield gauge(
            "pgsched_worker_tasks_buffered",
            "Tasks that were claimed and wait for a slot.",
            "external_system",
            ((name, lane.held - lane.under_way) for name, lane in lanes),
        )
        yield gauge(
            "pgsched_worker_slots",
            "Requests that may be under way at a time.",
            "external_system",
            ((name, system.max_in_flight or parts.slots) for name, system in systems),
        )
        yield gauge(
            "pgsched_worker_breaker_state",
            "0 closed, 1 open, 0.5 while this worker probes.",
            "external_system",
            ((s.name, self._breaker(s.name, is_open=s.is_open)) for _, s in systems),
        )

    def _breaker(self, name: str, *, is_open: bool) -> float:
        known = self._tally.systems.get(name)
        return 0.0 if not is_open else 0.5 if known and known.probes else 1.0

    def _standing(self) -> Iterator[Metric]:
        lease, listener = self._parts.lease, self._parts.listener
        yield gauge(
            "pgsched_worker_lease_live",
            "Whether the worker holds a lease, without which it does nothing.",
            (),
            [((), lease.is_live)],
        )
        yield counter(
            "pgsched_worker_leases_lost_total",
            "Leases that had ended before they were renewed.",
            (),
            [((), max(lease.generation - 1, 0))],
        )
        yield gauge(
            "pgsched_worker_listen_connected",
            "Whether LISTEN is up; without it the worker polls.",
            (),
            [((), listener.is_connected)],
        )
        yield counter(
            "pgsched_worker_wakeups_total", "Wake-ups heard.", (), [((), listener.wake_count)]
        )
        yield counter(
            "pgsched_worker_database_errors_total",
            "Calls of the database that failed, by the kind of error.",
            "error",
            self._tally.errors.items(),
        )
