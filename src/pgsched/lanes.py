"""The way to one external system: what waits for it, what is under way, and its breaker."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from time import monotonic
from typing import NamedTuple

from pgsched.answers import Answer, Outcome, Verdict, deferral_of, is_fault, outcome_of, reason_of
from pgsched.batches import NO_BATCHES
from pgsched.breaker import Breaker
from pgsched.clients import Client
from pgsched.complaints import Complaints
from pgsched.errors import PgschedError
from pgsched.lease import Lease
from pgsched.models import ClaimedTask, ExternalSystem
from pgsched.pace import Pace
from pgsched.settler import Settler
from pgsched.slots import Slots

log = logging.getLogger(__name__)

# Left over, in seconds, to settle a push that took all its time.
SETTLE_MARGIN = 5.0
# A fault of our own is no reason to hurry.
AFTER_A_FAULT = timedelta(seconds=60)
# What says nothing against a system.
GOOD = frozenset({Verdict.ACCEPTED, Verdict.SUCCEEDED})
MORE_HELD = 2000  # tasks at most, beyond twice the slots


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
        on_room: Callable[[], None],
        on_idle: Callable[[], None],
    ) -> None:
        """
        Args:
            slots: Requests at a time, unless the system says otherwise.
            on_room: Called when there is room again, after `is_waited_for` was set.
            on_idle: Called when nothing is held any more.
        """
        self._client = client
        self._lease = lease
        self._settler = settler
        self._breaker = breaker
        self._most_slots = slots
        self._on_room = on_room
        self._on_idle = on_idle
        self.is_waited_for = False
        self._buffer: deque[Held] = deque()
        self.under_way = 0
        self._slots = Slots(self._push_next, lambda: bool(self._buffer))
        self._pace = Pace()
        self._takes_batches = True
        self._is_closed = False
        self._complaints = Complaints()
        self._adopt(system)

    # What it holds

    @property
    def held(self) -> int:
        return len(self._buffer) + self.under_way

    @property
    def _capacity(self) -> int:
        """As many wait as are under way, and as many more as go in a moment, or in batches."""
        twice = 2 * self._slots.limit
        return twice + min(max(twice * (self._batch_size - 1), self._pace.in_a_moment), MORE_HELD)

    @property
    def has_room(self) -> bool:
        """Whether a claim is worth it."""
        return 4 * self.room >= self._capacity

    @property
    def room(self) -> int:
        """How many tasks can be taken on."""
        return max(self._capacity - self.held, 0)

    def _adopt(self, system: ExternalSystem) -> None:
        self.system = system
        self._slots.limit = system.max_in_flight or self._most_slots
        self._batch_size = system.batch_size if self._takes_batches else 1

    def _note_change(self) -> None:
        if self.is_waited_for and self.has_room:
            self.is_waited_for = False
            self._on_room()
        if not self.held:
            self._on_idle()

    def submit(self, held: Held) -> None:
        """Take a task on."""
        self._buffer.append(held)
        self._slots.wake()

    def lead_to(self, system: ExternalSystem, read_at: float) -> None:
        """Go by what the database said of the system at *read_at*, by the monotonic clock."""
        self._breaker.set_open(system.is_open, read_at)
        if self._breaker.is_open and self._buffer:
            self.give_back(keeping_probes=True)
        if system is not self.system:
            if not self.system.is_like(system):
                self._takes_batches = True
            self._adopt(system)

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
        self._note_change()

    async def end(self) -> None:
        """Cancel the pushes under way."""
        await self._slots.end()

    # The way of a task

    async def _push_next(self) -> None:
        batch = self._next()
        self.under_way += len(batch)
        try:
            if len(batch) == 1:
                await self._push_single(batch[0].task)
            elif batch:
                await self._push_batch(batch)
        except Exception as exc:
            fields = {"task_ids": [held.task.id for held in batch]}
            log.exception("tasks could not be dispatched", extra=fields)
            reason = f"could not be dispatched: {exc!r}"
            for held in batch:
                self._settler.settle(held.task, Outcome(Verdict.DEFERRED, reason, AFTER_A_FAULT))
        finally:
            self.under_way -= len(batch)
            self._pace.note(len(batch))
            self._note_change()

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

    async def _push_single(self, task: ClaimedTask) -> None:
        answer = await self._client.push_task_status(self.system, task)
        outcome = self._outcome(task, answer)
        self._settler.settle(task, outcome)
        if outcome.verdict in GOOD and self._is_well and not task.is_probe:
            self._breaker.answered_at = monotonic()  # the usual case costs no more than this
        else:
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
        again = alone + batch[len(parts) :]
        self._buffer.extendleft(reversed(again))
        for _ in again:
            self._slots.wake()
        if whole.status_code in NO_BATCHES:
            self._takes_batches = False
            self._adopt(self.system)
            fields = {"external_system": self.system.name}
            log.info("external system takes single tasks only", extra=fields)
        else:
            await self._note(whole, is_probe=False)

    def _outcome(self, task: ClaimedTask, answer: Answer) -> Outcome:
        deferrals = task.delivery_count - 1
        if task.is_probe and is_fault(answer):  # an open breaker spends nothing
            return deferral_of(answer, deferrals)
        return outcome_of(answer, self.system.completion, deferrals)

    @property
    def _is_well(self) -> bool:
        return self._breaker.is_well and self._complaints.is_silent

    async def _note(self, answer: Answer, *, is_probe: bool) -> None:
        self._complaints.hear(self.system, answer)
        try:
            told = (is_fault(answer), reason_of(answer))
            seconds = answer.elapsed.total_seconds()
            if await self._breaker.note(*told, is_probe=is_probe, seconds=seconds):
                self.give_back()
        except PgschedError as exc:  # the next failure says it again
            fields = {"external_system": self.system.name, "error": exc}
            log.warning("breaker cannot be changed yet", extra=fields)
