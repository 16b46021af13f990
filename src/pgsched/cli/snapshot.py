"""What `pgsched top` shows at one instant, and the same as JSON has it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from pgsched import diagnosis, reading, watching
from pgsched.db import Connection
from pgsched.plain import plain
from pgsched.queues import QueueStatus
from pgsched.rows import FailureKind, QueueEnds, StartLatency, WorkerStatus


class Line(NamedTuple):
    """A queue, and what ends in it per second."""

    queue: QueueStatus
    done_rate: float
    failed_rate: float


class Snapshot(NamedTuple):
    at: datetime
    lines: list[Line]
    workers: list[WorkerStatus]
    failures: list[FailureKind]
    latency: StartLatency

    def document(self) -> dict[str, Any]:
        """All of it, by the names of the HTTP API."""
        return {
            "at": self.at,
            "queues": [
                plain(line.queue)
                | {"done_per_second": line.done_rate, "failed_per_second": line.failed_rate}
                for line in self.lines
            ],
            "workers": [plain(worker) for worker in self.workers],
            "failures": [plain(failure) for failure in self.failures],
            "start_latency": plain(self.latency),
        }


async def take(session: Connection) -> Snapshot:
    """Ask the database, five small questions and the time."""
    ends = {end.queue: end for end in await watching.list_ends(session)}
    queues = await reading.list_queues(session)
    return Snapshot(
        await diagnosis.clock(session),
        [_line(queue, ends.get(queue.queue)) for queue in queues],
        await watching.list_workers(session),
        await watching.list_failures(session),
        await watching.get_start_latency(session),
    )


def _line(queue: QueueStatus, ends: QueueEnds | None) -> Line:
    if ends is None:
        return Line(queue, 0.0, 0.0)
    return Line(queue, ends.done_count / ends.seconds, ends.failed_count / ends.seconds)
