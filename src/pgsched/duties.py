"""What any worker does for all, now and then: each duty returns when it is next."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from pgsched import zones
from pgsched.database import Database
from pgsched.failed_tasks import FailedTasks
from pgsched.lease import Lease
from pgsched.loops import jittered

log = logging.getLogger(__name__)

INTERVAL = 1.0
# As many as the functions of these duties take at once: there may be more.
FULL = 1000
MAINTENANCE_INTERVAL = 60.0


class Duties:
    """Takes back what is late or lost, lets run what has waited, cleans up, and tells."""

    def __init__(self, database: Database, lease: Lease) -> None:
        self._database = database
        self._lease = lease

    @property
    def steps(self) -> list[Callable[[], Awaitable[float]]]:
        return [
            self._recompute_schedules,
            self._resolve_dependencies,
            self._expire_deadlines,
            self._release_dead_workers,
            self._maintain,
            FailedTasks(self._database, self._lease).step,
        ]

    async def _recompute_schedules(self) -> float:
        """Another worker may have computed with older zone data, or we have newer ones now."""
        stale = await self._database.recompute_schedules(zones.VERSION)
        return 0 if stale >= FULL else jittered(MAINTENANCE_INTERVAL)

    async def _resolve_dependencies(self) -> float:
        await self._database.resolve_dependencies()
        return jittered(INTERVAL)

    async def _expire_deadlines(self) -> float:
        expired = await self._database.expire_deadlines()
        if expired:
            log.warning("tasks ran into their deadline", extra={"count": expired})
        return 0 if expired >= FULL else jittered(INTERVAL)

    async def _release_dead_workers(self) -> float:
        released = await self._database.release_dead_workers(self._lease.worker_id)
        if released:
            log.warning("tasks taken back from dead workers", extra={"count": released})
        return jittered(INTERVAL)

    async def _maintain(self) -> float:
        await self._database.maintain()
        return jittered(MAINTENANCE_INTERVAL)
