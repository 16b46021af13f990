"""The scanner: it asks for more before it lets what it found keep the loop busy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest

from pgsched import scanner as module
from pgsched.loops import end, forever
from pgsched.models import ClaimedTask, Json
from pgsched.scanner import ScheduleScanner
from tests.claimed import AT, claimed

LIMIT = 3


class World:
    """In place of database, lease, targets and dispatcher: what happens is written down."""

    worker_id = "worker"
    generation = 1
    is_live = True

    def __init__(self, *found: int) -> None:
        self.queues = ["default"]
        self._found = list(found)
        self.story: list[str] = []
        self.cursors: list[Json] = []
        self.is_over = asyncio.Event()

    async def refresh(self) -> None: ...

    async def wait_for_room(self, seconds: float) -> None: ...

    def queues_with_room(self) -> list[str]:
        return self.queues

    def room(self, queues: Sequence[str]) -> int:
        return 100

    async def claim(
        self, worker_id: str, limit: int, queues: list[str], cursors: Json
    ) -> tuple[datetime, list[ClaimedTask]]:
        if not self._found:
            self.is_over.set()
            await asyncio.Event().wait()
        self.story.append("claim")
        self.cursors.append(cursors)
        await asyncio.sleep(0)  # it is with the server
        count = self._found.pop(0)
        return AT, [claimed(n) for n in range(count)]

    def submit(self, task: ClaimedTask, claimed_at: float, generation: int) -> None:
        asyncio.get_running_loop().call_soon(self.story.append, "push")


async def test_the_next_claim_is_under_way_before_what_the_last_one_found_is_pushed() -> None:
    world: Any = World(LIMIT, LIMIT, 1)
    scanner = ScheduleScanner(
        world, world, world, world, asyncio.Event(), batch=LIMIT, interval=1.0
    )

    loop = asyncio.create_task(forever(scanner._scan))
    await world.is_over.wait()
    await end([loop])

    pushes = ["push"] * LIMIT
    assert world.story == ["claim", "claim", *pushes, "claim", *pushes, "push"]


async def test_a_queue_that_has_no_sweep_for_long_is_claimed_from_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world: Any = World(LIMIT, LIMIT, LIMIT)
    scanner = ScheduleScanner(
        world, world, world, world, asyncio.Event(), batch=LIMIT, interval=1.0
    )

    await scanner.scan_and_dispatch_immediate()
    await scanner.scan_and_dispatch_immediate()
    monkeypatch.setattr(module, "SWEEP_PATIENCE", -1.0)
    await scanner.scan_and_dispatch_immediate()

    assert [set(cursors) for cursors in world.cursors] == [set(), {"default"}, set()]
