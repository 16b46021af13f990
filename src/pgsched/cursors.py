"""
How far the claims of a worker have come, for each queue and priority.

A claim starts its scans there, instead of walking over the index entries that
earlier claims left behind.  A cursor is only a hint: what commits late lies
behind it.  So none goes beyond the *horizon*, a moment before the claim's own
time, and a sweep, a claim without cursors, may move them back.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pgsched.models import ClaimedTask

PRIORITIES = range(9, -10, -1)
# Before every id: a position that is a time alone.
NO_ID = "00000000-0000-0000-0000-000000000000"

Position = tuple[datetime, str]
Positions = dict[str, dict[str, Position]]


class Cursors:
    """Positions by queue, then by priority; the key "*" stands for all priorities not named."""

    def __init__(self) -> None:
        self._positions: Positions = {}
        self.epoch = 0

    def of(self, queues: Sequence[str]) -> Positions:
        """The positions to pass to a claim of *queues*, as they are now."""
        return {name: self._positions[name] for name in queues if name in self._positions}

    def forget(self, queues: Sequence[str]) -> None:
        """Look at these from the start."""
        for name in queues:
            self._positions.pop(name, None)

    def advance(
        self,
        queues: Sequence[str],
        limit: int,
        horizon: datetime,
        tasks: Sequence[ClaimedTask],
        *,
        epoch: int,
    ) -> None:
        """
        Note what a claim has seen, unless a sweep has ended since it began.

        A claim looks at the queues in their order and at the priorities from
        urgent to background.  With room left it has seen everything; a full
        one has ended at the last task of that order.
        """
        if epoch != self.epoch:
            return
        if len(tasks) < limit:
            for name in queues:
                self._positions[name] = {"*": (horizon, NO_ID)}
            return
        rank = {name: n for n, name in enumerate(queues)}
        last = max(tasks, key=lambda t: (rank[t.queue], -t.priority, t.execute_after, t.id))
        for name in queues[: rank[last.queue]]:
            self._positions[name] = {"*": (horizon, NO_ID)}
        before = self._positions.get(last.queue, {})
        reached = {str(p): (horizon, NO_ID) for p in PRIORITIES if p > last.priority}
        reached[str(last.priority)] = min((last.execute_after, last.id), (horizon, NO_ID))
        self._positions[last.queue] = {**before, **reached}

    def sweep(
        self,
        queues: Sequence[str],
        limit: int,
        horizon: datetime,
        tasks: Sequence[ClaimedTask],
        *,
        since: Positions,
    ) -> None:
        """
        Note what a claim without cursors has seen; it beats every claim that is under way.

        If it was full, and found what had committed late, which lies behind the
        positions *since* it began, there may be more of that in the queues it
        did not come to: claims look at those from the start.
        """
        self.epoch += 1
        is_late = any(_is_behind(task, since) for task in tasks)
        self.advance(queues, limit, horizon, tasks, epoch=self.epoch)
        if is_late and len(tasks) >= limit:
            reached = max(queues.index(name) for name in {task.queue for task in tasks})
            self.forget(queues[reached + 1 :])


def _is_behind(task: ClaimedTask, positions: Positions) -> bool:
    """Whether a claim with these cursors would not have seen it."""
    known = positions.get(task.queue, {})
    position = known.get(str(task.priority)) or known.get("*")
    return position is not None and (task.execute_after, task.id) <= position
