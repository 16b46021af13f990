"""The way to one external system: what waits for it, what is under way, and its breaker."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from time import monotonic
from typing import NamedTuple, cast

from pgsched.answers import (
    Answer,
    Outcome,
    Verdict,
    deferral_of,
    is_fault,
    outcome_of,
    reason_of,
)
from pgsched.batches import NO_BATCHES
from pgsched.breaker import Breaker
from pgsched.clients import Client
from pgsched.complaints import Complaints
from pgsched.errors import PgschedError
from pgsched.lease import Lease
from pgsched.models import ClaimedTask, ExternalSystem
from pgsched.settler import Settler

log = logging.getLogger(__name__)

# Left over, in seconds, to settle a push that took all its time.
SETTLE_MARGIN = 5.0
# A fault of our own is no reason to hurry.
AFTER_A_FAULT = timedelta(seconds=60)
# Tasks that a lane holds at most on account of its batches.
MOST_HELD = 2000


class Held(NamedTuple):
    """A task in the hands of this worker."""

    task: ClaimedTask
    until: float  # by the monotonic clock
    generation: int  # of the lease it was claimed under
    is_alone: bool = False  # not in a batch: one with it was not answered


class Lane:
    """
    Pushes to one external system, a bounded number of requests at a time.

    Each system has its own, so that one that is slow, or dead, takes nothing
    from the others.  While its breaker is open only probes are pushed.
    """

    def __init__(
        self,
        system: ExternalSystem,
        client: Client,
        lease: Lease,
        settler: Settler,
        breaker: Breaker,
        *,
        slots: int,
        on_change: Callable[[], None],
    ) -> None:
        """
        Args:
            slots: Requests at a time, unless the system says otherwise.
            on_change: Called when there is room again, and when nothing is held any more.
        """
        self.system = system
        self._client = client
        self._lease = lease
        self._settler = settler
        self._breaker = breaker
        self._most_slots = slots
        self._on_change = on_change
        self._buffer: deque[Held] = deque()
        self._under_way = 0
        self._slots: set[asyncio.Task[None]] = set()
        self._takes_batches = True
        self._is_closed = False
        self._complaints = Complaints()

    # What it holds

    @property
    def held(self) -> int:
        return len(self._buffer) + self._under_way

    @property
    def has_room(self) -> bool:
        """Whether a claim is worth it."""
        return 4 * self.room >= self._capacity

    @property
    def room(self) -> int:
        """How many tasks can be taken on: as many wait as are pushed."""
        return max(self._capacity - self.held, 0)

    @property
    def _capacity(self) -> int:
        return max(2 * self._limit, min(2 * self._limit * self._batch_size, MOST_HELD))

    @property
    def _limit(self) -> int:
        return self.system.max_in_flight or self._most_slots

    @property
    def _batch_size(self) -> int:
        return self.system.batch_size if self._takes_batches else 1

    def submit(self, held: Held) -> None:
        """Take a task on."""
        self._buffer.append(held)
        self._open_slots()

    def lead_to(self, system: ExternalSystem, read_at: float) -> None:
        """Go by what the database said of the system at *read_at*, by the monotonic clock."""
        self._breaker.set_open(system.is_open, read_at)
        if self._breaker.is_open and self._buffer:
            self.give_back(keeping_probes=True)
        if system[:6] != self.system[:6] or system.batch_size != self.system.batch_size:
            self._takes_batches = True
        self.system = system

    def close(self) -> None:
        """Begin no more pushes, and release what waits."""
        self._is_closed = True
        self.give_back()

    def give_back(self, *, keeping_probes: bool = False) -> None:
        """Release what has not been pushed."""
        buffer, self._buffer = self._buffer, deque()
        for held in buffer:
            if keeping_probes and held.task.is_probe:
                self._buffer.append(held)
            else:
                self._settler.release(held.task)
        self._on_change()

    @property
    def slots(self) -> set[asyncio.Task[None]]:
        """The pushes under way, to be awaited or cancelled."""
        return self._slots

    # The way of a task

    def _open_slots(self) -> None:
        for _ in range(min(self._limit - len(self._slots), len(self._buffer))):
            self._slots.add(asyncio.create_task(self._slot()))

    async def _slot(self) -> None:
        try:
            await self._push_all()
        finally:  # at once, for whoever submits next looks here
            self._slots.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _push_all(self) -> None:
        while self._buffer and len(self._slots) <= self._limit:
            batch = self._next()
            self._under_way += len(batch)
            try:
                await self._push(batch)
            except Exception as exc:
                log.exception("%s could not be dispatched", [held.task.id for held in batch])
                reason = f"could not be dispatched: {exc!r}"
                for held in batch:
                    self._settler.settle(
                        held.task, Outcome(Verdict.DEFERRED, reason, AFTER_A_FAULT)
                    )
            finally:
                self._under_way -= len(batch)
                self._on_change()

    def _next(self) -> list[Held]:
        """One task, or several for one request; none if what waited cannot be pushed any more."""
        batch: list[Held] = []
        while self._buffer and len(batch) < self._batch_size:
            if batch and (self._buffer[0].is_alone or self._buffer[0].task.is_probe):
                break
            held = self._buffer.popleft()
            if not self._can_push(held):
                self._settler.release(held.task)
                continue
            batch.append(held)
            if held.is_alone or held.task.is_probe:
                break
        return batch

    def _can_push(self, held: Held) -> bool:
        latest_end = monotonic() + self.system.request_timeout.total_seconds() + SETTLE_MARGIN
        return (
            not self._is_closed
            and latest_end < held.until
            and self._lease.holds(held.generation)
            and (held.task.is_probe or not self._breaker.is_open)
        )

    async def _push(self, batch: list[Held]) -> None:
        match batch:
            case []:
                pass
            case [held]:
                await self._push_single(held.task)
            case _:
                await self._push_batch(batch)

    async def _push_single(self, task: ClaimedTask) -> None:
        answer = await self._client.push_task_status(self.system, task)
        self._settler.settle(task, self._outcome(task, answer))
        await self._note(answer, is_probe=task.is_probe)

    async def _push_batch(self, batch: list[Held]) -> None:
        whole, parts = await self._client.push_batch(self.system, [held.task for held in batch])
        alone: list[Held] = []
        for held, part in zip(batch, parts, strict=False):
            if part is None:
                alone.append(held._replace(is_alone=True))
            elif part is whole:
                self._settler.settle(held.task, deferral_of(whole, held.task.delivery_count - 1))
            else:
                self._settler.settle(held.task, self._outcome(held.task, part))
        self._buffer.extendleft(reversed(alone + batch[len(parts) :]))
        self._open_slots()
        if whole.status_code in NO_BATCHES:
            self._takes_batches = False
            log.info("external system %s takes single tasks only", self.system.name)
        else:
            await self._note(whole, is_probe=False)

    def _outcome(self, task: ClaimedTask, answer: Answer) -> Outcome:
        deferrals = task.delivery_count - 1
        if task.is_probe and is_fault(answer):  # an open breaker spends nothing
            return deferral_of(answer, deferrals)
        return outcome_of(answer, self.system.completion, deferrals)

    async def _note(self, answer: Answer, *, is_probe: bool) -> None:
        self._complaints.hear(self.system, answer)
        try:
            if await self._breaker.note(is_fault(answer), reason_of(answer), is_probe=is_probe):
                self.give_back()
        except PgschedError as exc:  # the next failure says it again
            log.warning("breaker of external system %s: %s", self.system.name, exc)
