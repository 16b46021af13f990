"""Push claimed tasks, each through one short pipeline: check, push, judge, settle."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from time import monotonic
from typing import NamedTuple

from pgsched.answers import Outcome, Verdict, outcome_of
from pgsched.external import ExternalSystemClient
from pgsched.lease import Lease
from pgsched.models import ClaimedTask, ExternalSystem
from pgsched.settler import Settler
from pgsched.targets import Targets

log = logging.getLogger(__name__)

# Left over, in seconds, to settle a push that took all its time.
SETTLE_MARGIN = 5.0
# A fault of our own is no reason to hurry.
AFTER_A_FAULT = timedelta(seconds=60)


class _Held(NamedTuple):
    task: ClaimedTask
    until: float  # by the monotonic clock
    generation: int  # of the lease it was claimed under


class ScheduleDispatcher:
    """
    A bounded number of slots that push, and a small buffer before them.

    What was held too long, or under a lease that was lost, is not pushed but
    given back.
    """

    def __init__(
        self,
        client: ExternalSystemClient,
        targets: Targets,
        lease: Lease,
        settler: Settler,
        *,
        slots: int,
    ) -> None:
        self._client = client
        self._targets = targets
        self._lease = lease
        self._settler = settler
        self._slots = slots
        self._buffer: asyncio.Queue[_Held] = asyncio.Queue()
        self._held = 0
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._is_closed = False
        self._complaints: dict[str, int] = {}

    @property
    def room(self) -> int:
        """How many tasks can be taken on: as many wait as are pushed."""
        return max(2 * self._slots - self._held, 0)

    async def wait_for_room(self) -> None:
        """Wait until a claim is worth it."""
        await self._has_room.wait()

    def submit(self, task: ClaimedTask, claimed_at: float, generation: int) -> None:
        """Take a task on; *claimed_at* is the monotonic time before it was claimed."""
        if self._is_closed:
            self._settler.release(task)
            return
        self._held += 1
        self._buffer.put_nowait(_Held(task, claimed_at + task.hold_seconds, generation))
        self._note_room()

    async def run(self) -> None:
        """Push until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._slots):
                group.create_task(self._slot())

    async def _slot(self) -> None:
        while True:
            held = await self._buffer.get()
            try:
                await self._dispatch(held)
            except Exception as exc:
                log.exception("task %s could not be dispatched", held.task.id)
                reason = f"could not be dispatched: {exc!r}"
                self._settler.settle(held.task, Outcome(Verdict.DEFERRED, reason, AFTER_A_FAULT))
            finally:
                self._held -= 1
                self._note_room()

    async def _dispatch(self, held: _Held) -> None:
        task = held.task
        system = self._targets.system_of(task.queue)
        if system is None or not self._can_push(held, system):
            self._settler.release(task)
            return
        answer = await self._client.push_task_status(system, task)
        outcome = outcome_of(answer, system.completion, task.delivery_count - 1)
        self._settler.settle(task, outcome)
        self._complain(system, answer.status_code, outcome)

    def _can_push(self, held: _Held, system: ExternalSystem) -> bool:
        latest_end = monotonic() + system.request_timeout.total_seconds() + SETTLE_MARGIN
        return latest_end < held.until and self._lease.holds(held.generation)

    def _note_room(self) -> None:
        if self.room >= max(self._slots // 2, 1):
            self._has_room.set()
        else:
            self._has_room.clear()
        if self._held:
            self._is_idle.clear()
        else:
            self._is_idle.set()

    def _complain(self, system: ExternalSystem, status: int | None, outcome: Outcome) -> None:
        """Say once what is wrong with a system, and once when it is right again."""
        where = f"external system {system.name} ({system.base_url})"
        if outcome.delay is None:
            if self._complaints.pop(system.name, None) is not None:
                log.info("%s takes tasks again", where)
        elif self._complaints.get(system.name) != (status or 0):
            self._complaints[system.name] = status or 0
            if outcome.is_misconfigured:
                log.error("%s is misconfigured: %s", where, outcome.reason)
            else:
                log.warning("%s takes no tasks: %s", where, outcome.reason)

    def close(self) -> None:
        """Begin no more pushes: give back what waits, and what is still submitted."""
        self._is_closed = True
        while not self._buffer.empty():
            self._settler.release(self._buffer.get_nowait().task)
            self._held -= 1
        self._note_room()

    async def drain(self, grace: float) -> None:
        """Let the pushes under way end, within *grace* seconds."""
        try:
            async with asyncio.timeout(grace):
                await self._is_idle.wait()
        except TimeoutError:
            log.warning("%d pushes did not end within %g s", self._held, grace)
