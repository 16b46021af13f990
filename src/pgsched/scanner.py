"""Find due tasks and hand them to the dispatcher: the one claimer of a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import chain, repeat
from time import monotonic
from typing import Protocol

from pgsched.cursors import Cursors
from pgsched.database import Database
from pgsched.errors import Unavailable
from pgsched.lease import Lease
from pgsched.loops import end, forever, wait
from pgsched.models import ClaimedTask, Json
from pgsched.targets import Targets

# An empty claim costs by the queue.
MAX_QUEUES = 16
# A commit can be later than the wake-up it relied on, so we look again; and where there was
# something there is soon more, of which nobody tells for as long as it comes fast.
SECOND_LOOKS = (0.002, 0.01, 0.05, 0.25)
# So soon that it is not worth asking whether something is due before, in seconds.
SOON = SECOND_LOOKS[0]
# Sweeps walk over what cursors avoid: this far apart, and a twentieth of the time.
SWEEP_SPACING = 0.02
SWEEP_SHARE = 20
# Where claims take all the room that there is, they do without cursors instead: in seconds.
SWEEP_PATIENCE = 2.0


class Dispatcher(Protocol):
    """Where claimed tasks go."""

    async def wait_for_room(self, seconds: float) -> None: ...
    def queues_with_room(self) -> list[str]: ...
    def room(self, queues: Sequence[str]) -> int: ...
    def submit(self, task: ClaimedTask, claimed_at: float, generation: int) -> None: ...


class ScheduleScanner:
    """
    Claims batches of due tasks while the dispatcher has room.

    It sleeps until a wake-up, until the next task is due, or for the scan
    interval, whichever comes first.
    """

    def __init__(
        self,
        database: Database,
        lease: Lease,
        targets: Targets,
        dispatcher: Dispatcher,
        wake: asyncio.Event,
        *,
        batch: int,
        interval: float,
    ) -> None:
        """
        Args:
            batch: Tasks per claim at most.
            interval: Seconds to sleep at most.
        """
        self._database = database
        self._lease = lease
        self._targets = targets
        self._dispatcher = dispatcher
        self._wake = wake
        self._batch = batch
        self._interval = interval
        self._cursors = Cursors()
        self._turn = 0
        self._looks = _looks()
        self._sweep_due = asyncio.Event()
        self._sweep_pause = 0.0
        self._swept_at: dict[str, float] = {}  # by queue
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._loops = [
            asyncio.create_task(forever(self._scan), name="scan"),
            asyncio.create_task(forever(self._sweep), name="sweep"),
        ]

    async def stop(self) -> None:
        """Claim nothing more; what was claimed is the dispatcher's."""
        await end(self._loops)

    async def _scan(self) -> float:
        await self._targets.refresh()
        await self._dispatcher.wait_for_room(self._interval)
        self._wake.clear()
        found, is_full = await self.scan_and_dispatch_immediate()
        if found:
            self._looks = _looks()
        if not is_full and await wait(self._wake, await self._nap()):
            self._looks = _looks()
        return 0

    async def _nap(self) -> float:
        seconds = min(next(self._looks), self._interval)
        if seconds <= SOON:
            return seconds
        due = await self._database.next_due_in(self._targets.queues)
        return seconds if due is None else min(seconds, max(due.total_seconds(), 0.001))

    async def scan_and_dispatch_immediate(self) -> tuple[int, bool]:
        """
        Claim tasks that are due now, as many as there is room for, and hand them on.

        Returns how many there were, and whether there may be more for which there is room.
        """
        found, limit = 0, 1
        for queues in self._turns():
            limit = self._limit(queues)
            self._forget_stale(queues)
            epoch = self._cursors.epoch
            horizon, tasks = await self._claim(queues, limit, self._cursors.of(queues))
            self._cursors.advance(queues, limit, horizon, tasks, epoch=epoch)
            if found := len(tasks):
                break
        self._sweep_due.set()
        return found, found >= limit

    async def _sweep(self) -> float:
        await self._sweep_due.wait()
        await self._dispatcher.wait_for_room(self._interval)
        self._sweep_due.clear()
        spent = 0.0
        for queues in self._turns():
            await self._dispatcher.wait_for_room(self._interval)
            began, since, limit = monotonic(), self._cursors.of(queues), self._limit(queues)
            horizon, tasks = await self._claim(queues, limit, {})
            spent += monotonic() - began
            self._swept_at |= dict.fromkeys(queues, began)
            self._cursors.sweep(queues, limit, horizon, tasks, since=since)
            if tasks:
                self._wake.set()
        self._sweep_pause = max(SWEEP_SPACING, spent * SWEEP_SHARE)
        return self._sweep_pause

    def _forget_stale(self, queues: list[str]) -> None:
        """Claim from the start what has had no sweep for long, since claims took all the room."""
        now = monotonic()
        long_ago = now - 2 * self._sweep_pause - SWEEP_PATIENCE
        stale = [name for name in queues if self._swept_at.get(name, 0) < long_ago]
        self._cursors.forget(stale)
        self._swept_at |= dict.fromkeys(stale, now)

    def _limit(self, queues: list[str]) -> int:
        return max(min(self._batch, self._dispatcher.room(queues)), 1)

    async def _claim(
        self, queues: list[str], limit: int, cursors: Json
    ) -> tuple[datetime, list[ClaimedTask]]:
        if not self._lease.is_live:
            raise Unavailable("the lease could not be renewed: nothing is claimed")
        claimed_at, generation = monotonic(), self._lease.generation
        horizon, tasks = await self._database.claim(self._lease.worker_id, limit, queues, cursors)
        for task in tasks:
            self._dispatcher.submit(task, claimed_at, generation)
        return horizon, tasks

    def _turns(self) -> Iterator[list[str]]:
        """The queues with room in portions, so that each is the first one in its turn."""
        names = self._dispatcher.queues_with_room()
        self._turn += 1
        for n in range(0, len(names), MAX_QUEUES):
            start = (self._turn + n) % len(names)
            yield [*names[start:], *names[:start]][: min(MAX_QUEUES, len(names) - n)]


def _looks() -> Iterator[float]:
    return chain(SECOND_LOOKS, repeat(float("inf")))
