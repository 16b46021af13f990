"""What there is in the database, as metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from prometheus_client.core import Metric

from pgsched.census import Census, Row
from pgsched.families import gauge

IN_FLIGHT = ("scheduled", "dispatched", "running")
STATES = ("active", "paused", "broken", "ended")


class _Column(NamedTuple):
    metric: str
    about: str
    column: str


_OF_QUEUES = (
    _Column("pgsched_queue_due_tasks", "Tasks that are due, up to 10,000.", "due"),
    _Column(
        "pgsched_queue_oldest_due_seconds",
        "For how long the oldest of them has been due.",
        "oldest_due_seconds",
    ),
    _Column("pgsched_queue_later_tasks", "Tasks that come later, up to 10,000.", "later"),
    _Column(
        "pgsched_queue_waiting_tasks", "Tasks that wait for other tasks, up to 10,000.", "waiting"
    ),
    _Column("pgsched_queue_paused", "Whether nothing is claimed of it.", "is_paused"),
    _Column(
        "pgsched_queue_max_in_flight", "Its limit of tasks in flight, if any.", "max_in_flight"
    ),
    _Column(
        "pgsched_queue_max_tasks_per_second",
        "Its limit of tasks claimed in a second, if any.",
        "rate_per_second",
    ),
)
_OF_OUTBOX = (
    _Column(
        "pgsched_outbox_messages", "Changes of status yet to be told, up to 10,000.", "messages"
    ),
    _Column("pgsched_outbox_oldest_seconds", "How old the oldest of them is.", "oldest_seconds"),
    _Column(
        "pgsched_outbox_given_up_messages", "Those that were given up, up to 10,000.", "given_up"
    ),
)
_OF_SCHEDULES = (
    _Column(
        "pgsched_schedules_overdue", "Active schedules that should have fired by now.", "overdue"
    ),
    _Column(
        "pgsched_schedules_oldest_overdue_seconds",
        "For how long the first of them has been overdue.",
        "oldest_overdue_seconds",
    ),
)
_OF_SERVER = (
    _Column("pgsched_workers_alive", "Workers that hold a lease.", "workers_alive"),
    _Column(
        "pgsched_database_oldest_snapshot_seconds",
        "Age of the oldest transaction with a snapshot, of those that may be seen.",
        "oldest_snapshot_seconds",
    ),
)


def describe(census: Census | None) -> Iterator[Metric]:
    """All families; without values when the database has not been seen."""
    queues = census.queues if census else []
    yield from (_by(queues, "queue", column) for column in _OF_QUEUES)
    yield gauge(
        "pgsched_queue_in_flight_tasks",
        "Tasks that were claimed and have not ended, up to 10,000.",
        ("queue", "status"),
        (((row["queue"], state.upper()), row[state]) for row in queues for state in IN_FLIGHT),
    )
    yield _by(
        census.systems if census else [],
        "external_system",
        _Column("pgsched_breaker_state", "0 closed, 1 open, 0.5 being probed.", "breaker"),
    )
    yield gauge(
        "pgsched_schedules",
        "Schedules, by their state.",
        "state",
        ((state.upper(), census.schedules[state]) for state in STATES) if census else (),
    )
    yield from (_one(census and census.outbox, column) for column in _OF_OUTBOX)
    yield from (_one(census and census.schedules, column) for column in _OF_SCHEDULES)
    yield from (_one(census and census.server, column) for column in _OF_SERVER)


def _by(rows: Sequence[Row], label: str, column: _Column) -> Metric:
    values = ((row[label], row[column.column]) for row in rows)
    told = ((name, float(value)) for name, value in values if value is not None)
    return gauge(column.metric, column.about, label, told)


def _one(row: Row | None, column: _Column) -> Metric:
    values = [((), float(row[column.column]))] if row is not None else []
    return gauge(column.metric, column.about, (), values)
