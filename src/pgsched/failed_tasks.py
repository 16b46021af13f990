"""The log of tasks that have failed, one line for each."""

from __future__ import annotations

import logging
from datetime import datetime

from pgsched.database import Database
from pgsched.due import NewFailure
from pgsched.lease import Lease
from pgsched.loops import jittered

log = logging.getLogger(__name__)

# From look to look, in seconds.
INTERVAL = 2.0


class FailedTasks:
    """
    Tells of each task that has ended FAILED, however it did.

    What its error says is left out, since it may quote what the task carries;
    of a flood only the first tasks are told one by one.
    """

    def __init__(self, database: Database, lease: Lease) -> None:
        self._database = database
        self._lease = lease
        self._until: datetime | None = None

    async def step(self) -> float:
        """Tell of those since the last look."""
        found = await self._database.new_failures(self._lease.worker_id, self._until)
        self._until = found[0].until
        for failure in found:
            if failure.task_id is not None:
                log.warning("task failed", extra=_fields_of(failure))
        if (more := found[0].failed_count - len(found)) > 0:
            log.warning("more tasks failed", extra={"count": more})
        return jittered(INTERVAL)


def _fields_of(failure: NewFailure) -> dict[str, object]:
    return {
        "task_id": failure.task_id,
        "trace_id": failure.trace_id,
        "definition": failure.definition_name,
        "queue": failure.queue,
        "attempt": failure.attempt,
    }
