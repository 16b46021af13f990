"""The log of what a worker does, a line each minute."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import datetime

from pgsched.models import ClaimedTask, ReportAnswer
from pgsched.observer import Items, Observer, taken

log = logging.getLogger(__name__)

MINUTE = 60.0
# What a settle is called.
OUTCOMES = {
    "ACCEPTED": "accepted",
    "DEFERRED": "deferred",
    "RELEASED": "given_back",
    "RETRY": "retried",
    "RETRY_SAME": "retried",
    "RETRY_LAPSED": "retried",
    "REFUSED": "refused",
}


class Summary(Observer):
    """Counts what was done, and tells it once a minute, if there was something."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def claimed(self, tasks: list[ClaimedTask], horizon: datetime, seconds: float) -> None:
        if tasks:
            self._counts["claimed"] += len(tasks)

    def settled(self, settlements: Items, refused: dict[str, str], seconds: float) -> None:
        for settlement in settlements:
            if settlement["task_id"] not in refused:
                self._counts[OUTCOMES[settlement["outcome"]]] += 1

    def reported(self, reports: Items, refused: list[ReportAnswer], seconds: float) -> None:
        for status, count in taken(reports, refused).items():
            self._counts["succeeded" if status == "SUCCESS" else "failed"] += count

    def fired(self, count: int) -> None:
        self._counts["fired"] += count

    async def step(self) -> float:
        """Tell; the loop calls it again after a minute."""
        self.tell()
        return MINUTE

    def tell(self) -> None:
        """Tell what there was since the last time."""
        counts, self._counts = +self._counts, Counter()
        if counts:
            log.info("work of the last minute", extra=dict(counts))
