"""What time it is by the clock of the database, without asking it each time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic

Now = Callable[[], datetime]


def here() -> datetime:
    """By the clock of this machine, which may be wrong."""
    return datetime.now(UTC)


class Clock:
    """
    Told now and then what time it is there, and goes on by itself.

    Until it is told for the first time it is the clock of this machine.
    """

    def __init__(self, elapsed: Callable[[], float] = monotonic) -> None:
        self._elapsed = elapsed
        self._told: tuple[datetime, float] | None = None

    def set(self, at: datetime) -> None:
        """It is *at* there; or was, a moment ago."""
        self._told = at, self._elapsed()

    def now(self) -> datetime:
        if self._told is None:
            return here()
        at, since = self._told
        return at + timedelta(seconds=self._elapsed() - since)
