"""
The circuit breaker of one external system, as one worker sees it.

Each worker counts by itself; the database holds what they agree on: until when
the breaker is open, and who may probe.  So the first to see a system fail
spares the others finding out.
"""

from __future__ import annotations

import logging
from datetime import datetime
from time import monotonic
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
        self.answered_at = float("-inf")  # the latest good answer, by the monotonic clock
        self._is_asking = False
        self._changed_at = float("-inf")
        self.is_open = False

    @property
    def is_well(self) -> bool:
        """Whether a good answer would change nothing."""
        return not self._failures and not self.is_open

    def set_open(self, is_open: bool, read_at: float) -> None:
        """Go by what the database said at *read_at* (monotonic), unless we know better by now."""
        if read_at >= self._changed_at:
            self._set(is_open)

    def _set(self, is_open: bool) -> None:
        if self.is_open and not is_open:
            self._failures = 0
        self.is_open = is_open

    async def note(
        self, is_fault: bool, reason: str, *, is_probe: bool, seconds: float = 0.0
    ) -> bool:
        """Take in how a push went and how long it took; whether the breaker has opened just now."""
        self._count(is_fault, seconds)
        if is_probe:
            await (self._keep_open(reason) if is_fault else self._close())
            return False
        if self.is_open or self._is_asking or self._failures < THRESHOLD:
            return False
        return await self._open(reason)

    def _count(self, is_fault: bool, seconds: float) -> None:
        now = monotonic()
        if not is_fault:
            self._failures, self.answered_at = 0, now
        # Of many pushes at a time the slow ones end together, and those are the ones that
        # nobody answers.  What began before the latest good answer says nothing new.
        elif now - seconds >= self.answered_at:
            self._failures += 1

    async def _open(self, reason: str) -> bool:
        failures, self._is_asking = self._failures, True
        try:
            until = await self._store.open_breaker(self._system, reason)
        finally:
            self._is_asking = False
        if until is None:  # somebody else is at it
            return False
        self._changed_at = monotonic()
        self._set(True)
        self._tell(until, f"{failures} failures in a row")
        return True

    async def _keep_open(self, reason: str) -> None:
        until = await self._store.open_breaker(self._system, reason)
        if until is not None:
            self._tell(until, "a failed probe")

    async def _close(self) -> None:
        if await self._store.close_breaker(self._system):
            self._changed_at = monotonic()
            self._set(False)
            log.info("breaker closed", extra={"external_system": self._system})

    def _tell(self, until: datetime, cause: str) -> None:
        fields = {"external_system": self._system, "until": until, "cause": cause}
        log.warning("breaker open", extra=fields)
