"""Where claimed tasks go: each to the lane of its external system, which pushes it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from pgsched.breaker import Breaker
from pgsched.clients import Client, Handler, HandlerClient
from pgsched.database import Database
from pgsched.lanes import Held, Lane
from pgsched.lease import Lease
from pgsched.loops import wait
from pgsched.models import ClaimedTask, ExternalSystem
from pgsched.settler import Settler
from pgsched.targets import Targets

log = logging.getLogger(__name__)


class ScheduleDispatcher:
    """
    A lane for each external system, and who has room.

    What was held too long, or under a lease that was lost, is not pushed but
    given back.
    """

    def __init__(
        self,
        database: Database,
        targets: Targets,
        lease: Lease,
        settler: Settler,
        *,
        client: Client | None = None,
        handler: Handler | None = None,
        slots: int,
        wake: asyncio.Event | None = None,
    ) -> None:
        """
        Args:
            client: How tasks are pushed.
            handler: A function that takes their place; see `HandlerClient`.
            slots: Pushes to one external system under way at a time, unless it says otherwise.
            wake: Set whenever there is room again where there was none.

        Raises:
            ValueError: Neither a client nor a handler was given, or both.
        """
        if handler is not None and client is None:
            client = HandlerClient(handler)
        elif client is None or handler is not None:
            raise ValueError("give one of client and handler")
        self._client = client
        self._database = database
        self._targets = targets
        self._lease = lease
        self._settler = settler
        self._slots = slots
        self._wake = wake or asyncio.Event()
        self._has_room = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._is_closed = False
        self._lanes: dict[str, Lane] = {}  # by external system

    @property
    def lanes(self) -> Mapping[str, Lane]:
        """By external system, for those who look on."""
        return self._lanes

    def room(self, queues: Sequence[str]) -> int:
        """How many tasks of any of these queues can be taken on."""
        return min((lane.room for lane in self._lanes_of(queues)), default=0)

    async def wait_for_room(self, seconds: float) -> None:
        """Wait until a claim is worth it, *seconds* at most."""
        if self._targets.queues and not self.queues_with_room():
            self._has_room.clear()
            await wait(self._has_room, seconds)

    def queues_with_room(self) -> list[str]:
        """Those of the worker's queues that are worth a claim."""
        for name, lane in self._lanes.items():
            if (system := self._targets.systems.get(name)) is not None:
                lane.lead_to(system, self._targets.read_at)
        with_room: list[str] = []
        for queue in self._targets.queues:
            for lane in self._lanes_of([queue]):
                if lane.has_room:
                    with_room.append(queue)
                else:
                    lane.is_waited_for = True
        return with_room

    def submit(self, task: ClaimedTask, claimed_at: float, generation: int) -> None:
        """Take a task on; *claimed_at* is the monotonic time before it was claimed."""
        lane = next(self._lanes_of([task.queue]), None)
        if self._is_closed or lane is None:
            self._settler.release(task)
            return
        self._is_idle.clear()
        lane.submit(Held(task, claimed_at + task.hold_seconds, generation))

    def _lanes_of(self, queues: Sequence[str]) -> Iterator[Lane]:
        for queue in queues:
            if (system := self._targets.system_of(queue)) is not None:
                yield self._lanes.get(system.name) or self._new_lane(system)

    def _new_lane(self, system: ExternalSystem) -> Lane:
        lane = self._lanes[system.name] = Lane(
            system,
            self._client,
            self._lease,
            self._settler,
            Breaker(system.name, self),
            slots=self._slots,
            on_room=self._note_room,
            on_idle=self._note_idle,
        )
        lane.lead_to(system, self._targets.read_at)
        return lane

    def _note_room(self) -> None:
        self._has_room.set()
        self._wake.set()

    def _note_idle(self) -> None:
        if not any(lane.held for lane in self._lanes.values()):
            self._is_idle.set()

    # The breakers' store

    async def open_breaker(self, system: str, reason: str) -> datetime | None:
        """Open the breaker of *system* for all workers; until when, None if that has to wait."""
        return await self._database.open_breaker(system, reason, self._lease.worker_id)

    async def close_breaker(self, system: str) -> bool:
        """Close the breaker of *system*, if this worker's probe is what it waits for."""
        return await self._database.close_breaker(system, self._lease.worker_id)

    # The end

    def close(self) -> None:
        """Begin no more pushes: give back what waits, and what is still submitted."""
        self._is_closed = True
        for lane in self._lanes.values():
            lane.close()

    async def drain(self, grace: float) -> None:
        """Let the pushes under way end, within *grace* seconds."""
        try:
            async with asyncio.timeout(grace):
                await self._is_idle.wait()
        except TimeoutError:
            held = sum(lane.held for lane in self._lanes.values())
            log.warning("pushes did not end in time", extra={"count": held, "grace_seconds": grace})

    async def abandon(self) -> None:
        """Cancel the pushes under way."""
        for lane in self._lanes.values():
            await lane.end()
