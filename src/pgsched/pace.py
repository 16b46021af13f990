"""How fast something is going, and so how much of it is worth having at hand."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

# In seconds: long against a call of the database, short against anybody's patience.
MOMENT = 0.05


class Pace:
    """Counts what gets done, and tells how much that is in a moment, going by the last one."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        """
        Args:
            clock: Seconds, from any start; never goes back.
        """
        self._clock = clock
        self._since = clock()
        self._done = 0
        self._in_a_moment = 0

    def note(self, count: int) -> None:
        """So many more are done."""
        self._done += count

    @property
    def in_a_moment(self) -> int:
        """How many are done in `MOMENT` seconds at the present pace, rounded down."""
        elapsed = (now := self._clock()) - self._since
        if elapsed >= MOMENT:
            self._in_a_moment = int(self._done * MOMENT / elapsed)
            self._since, self._done = now, 0
        return self._in_a_moment
