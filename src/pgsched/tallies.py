"""Counts for metrics, made where every microsecond counts; a scrape makes something of them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

# Upper bounds, in seconds: of a call of any kind, and of how late a claim is.
CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LAG_SECONDS = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    5.0,
    15.0,
    60.0,
    300.0,
    1800.0,
    7200.0,
)
# Tasks.
SIZES = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 200.0, 300.0, 500.0, 1000.0)


class Distribution:
    """How often a value fell between which bounds, and the sum of all."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Each bound as text, and how many values did not exceed it; the last is +Inf."""
        count = 0
        for bound, more in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            count += more
            yield bound, count


class QueueTally:
    """What was claimed of one queue."""

    __slots__ = ("claimed", "lag")

    def __init__(self) -> None:
        self.claimed = 0
        self.lag = Distribution(LAG_SECONDS)


class SystemTally:
    """What was pushed to one external system."""

    __slots__ = ("batches", "outcomes", "probes", "seconds")

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.seconds = Distribution(CALL_SECONDS)
        self.batches = Distribution(SIZES)
        self.probes = 0  # under way


class WorkerTally:
    """What one worker has done since it started."""

    def __init__(self) -> None:
        self.queues: defaultdict[str, QueueTally] = defaultdict(QueueTally)
        self.systems: defaultdict[str, SystemTally] = defaultdict(SystemTally)
        self.claim_seconds = Distribution(CALL_SECONDS)
        self.claim_sizes = Distribution(SIZES)
        self.settle_seconds = Distribution(CALL_SECONDS)
        self.settle_sizes = Distribution(SIZES)
        self.unsettled: Counter[str] = Counter()  # by why
        self.reports: Counter[tuple[str, str]] = Counter()  # by status and answer
        self.news: Counter[str] = Counter()  # by outcome
        self.errors: Counter[str] = Counter()  # of the database, by their kind
        self.fires = 0
