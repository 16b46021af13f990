"""
The circuit breaker of one external system, as one worker sees it.

Each worker counts by itself; the database holds what they agree on: until when
the breaker is open, and who may probe.  So the first to see a system fail
spares the others finding out.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Protocol

log = logging.getLogger(__name__)

# Failures in a row that open it.
THRESHOLD = 10


class Store(Protocol):
    """Where the state that all workers share is kept."""

    async def open_breaker(self, system: str, reason: str) -> datetime | None: ...
    async def close_breaker(self, system: str) -> bool: ...


class Breaker:
    """Counts the failures in a row, and opens; a probe's end keeps it open, or closes it."""

    def __init__(self, system: str, store: Store) -> None:
        self._system = system
        self._store = store
        self._failures = 0
        self.is_open = False

    def set_open(self, is_open: bool) -> None:
        """Go by what the database says."""
        if self.is_open and not is_open:
            self._failures = 0
        self.is_open = is_open

    async def note(self, is_fault: bool, reason: str, *, is_probe: bool) -> bool:
        """Take in how a push went; whether the breaker has opened just now."""
        if not is_fault:
            self._failures = 0
            if is_probe and await self._store.close_breaker(self._system):
                self.is_open = False
                log.info("external system %s answers again: its breaker is closed", self._system)
            return False
        self._failures += 1
        if not is_probe and (self.is_open or self._failures < THRESHOLD):
            return False
        until = await self._store.open_breaker(self._system, reason)
        if until is None:  # somebody else is at it
            return False
        self.is_open = True
        log.warning(
            "external system %s: its breaker is open until %s, after %s; the last answer: %s",
            self._system,
            until.isoformat(timespec="seconds"),
            "a failed probe" if is_probe else f"{self._failures} failures in a row",
            reason,
        )
        return not is_probe
