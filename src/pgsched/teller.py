"""Send what the external systems are to be told of changes of status, beside the dispatch."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from itertools import groupby
from time import monotonic

from pgsched.answers import Answer
from pgsched.batches import NO_BATCHES
from pgsched.database import Database
from pgsched.external import ExternalSystemClient
from pgsched.lease import Lease
from pgsched.loops import end, wait
from pgsched.models import ExternalSystem, Json
from pgsched.news import StatusPush, is_outage, released, result_of
from pgsched.targets import Targets

log = logging.getLogger(__name__)

# Requests at a time, in all and to one system.
SLOTS = 16
SLOTS_PER_SYSTEM = 2
# Messages of one system in one claim.
LIMIT = 50
# The workers are woken for other things a hundred times a second.
SPACING = 0.1
INTERVAL = 1.0
# Left over, in seconds, to settle what took all its time.
SETTLE_MARGIN = 5.0


class StatusPusher:
    """
    Claims messages for the systems that have a free slot, and sends them.

    It has slots of its own, so that it neither waits for pushes of tasks nor
    holds them up, and no system takes more than its share of these.  Nothing
    here counts for a breaker or against a task.
    """

    def __init__(
        self,
        database: Database,
        client: ExternalSystemClient,
        targets: Targets,
        lease: Lease,
        wake: asyncio.Event,
    ) -> None:
        self._database = database
        self._client = client
        self._targets = targets
        self._lease = lease
        self._wake = wake
        self._under_way: dict[asyncio.Task[None], str] = {}  # by whom they are for
        self._without_batches: set[tuple[str, str]] = set()
        self._is_closed = False

    async def step(self) -> float:
        """Claim once, and wait until there may be more; the loop calls it again at once."""
        self._wake.clear()
        if not self._is_closed and await self._claim():
            return 0
        await asyncio.sleep(SPACING)
        await wait(self._wake, INTERVAL)
        return 0

    async def _claim(self) -> int:
        await self._targets.refresh()
        queues = self._queues_with_room()
        if not queues:
            return 0
        began = monotonic()
        found = await self._database.claim_news(self._lease.worker_id, LIMIT, queues)
        for name, group in groupby(found, key=lambda push: push.external_system):
            pushes = list(group)
            until = began + pushes[0].hold_seconds - SETTLE_MARGIN
            task = asyncio.create_task(self._deliver(pushes, until))
            self._under_way[task] = name
            task.add_done_callback(self._done)
        return len(found)

    def _queues_with_room(self) -> list[str]:
        taken = Counter(self._under_way.values())
        free = SLOTS - len(self._under_way)
        with_room: dict[str, bool] = {}
        for system in self._targets.reachable.values():
            most = min(SLOTS_PER_SYSTEM, system.max_in_flight or SLOTS_PER_SYSTEM)
            if system.name not in with_room and taken[system.name] < most and free > 0:
                with_room[system.name] = True
                free -= 1
        return [q for q, system in self._targets.reachable.items() if system.name in with_room]

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        self._wake.set()
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.warning("status pushes will be sent again", extra={"error": exc})

    async def _deliver(self, pushes: list[StatusPush], until: float) -> None:
        system = self._targets.reachable.get(pushes[0].queue)
        results = await self._send(system, pushes, until) if system else []
        settled = {result["sequence"] for result in results}
        results += [released(push) for push in pushes if push.sequence not in settled]
        await self._database.settle_news(results)

    async def _send(
        self, system: ExternalSystem, pushes: list[StatusPush], until: float
    ) -> list[dict[str, Json]]:
        """Send them while there is time; what came of those that were sent."""
        latest = until - system.request_timeout.total_seconds()
        results: list[dict[str, Json]] = []
        left, alone = pushes, 0
        while left and not self._is_closed and monotonic() < latest:
            if alone or len(left) == 1 or not self._takes_batches(system):
                answer = await self._client.push_news(system, left[0])
                results.append(result_of(left[0], answer))
                left, alone = left[1:], max(alone - 1, 0)
            else:
                answer, some, left, alone = await self._send_batch(system, left)
                results += some
            if is_outage(answer):
                return results + [result_of(push, answer) for push in left]
        return results

    async def _send_batch(
        self, system: ExternalSystem, pushes: list[StatusPush]
    ) -> tuple[Answer, list[dict[str, Json]], list[StatusPush], int]:
        """One request; its answer, what came of it, what is left, and how many of these alone."""
        whole, parts = await self._client.push_news_batch(system, pushes[: system.batch_size])
        if whole.status_code in NO_BATCHES:
            self._without_batches.add((system.name, system.base_url))
        sent = list(zip(pushes, parts, strict=False))
        alone = [push for push, part in sent if part is None]
        results = [result_of(push, part) for push, part in sent if part is not None]
        return whole, results, alone + pushes[len(parts) :], len(alone)

    def _takes_batches(self, system: ExternalSystem) -> bool:
        known = (system.name, system.base_url) in self._without_batches
        return system.batch_size > 1 and not known

    def close(self) -> None:
        """Begin no more requests."""
        self._is_closed = True

    async def drain(self, grace: float) -> None:
        """Let the requests under way end, within *grace* seconds."""
        if self._under_way:
            _, left = await asyncio.wait(self._under_way, timeout=grace)
            if left:
                fields = {"count": len(left), "grace_seconds": grace}
                log.warning("status pushes did not end in time", extra=fields)

    async def abandon(self) -> None:
        """Leave what is under way; its leases end."""
        await end(self._under_way)
