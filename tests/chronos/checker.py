"""
What the ledger of a schedule must hold, and whether it does. Pure.

`predict()` walks through the history of a schedule, as the simulation wrote it
down, and says for each of its instants what must have become of it: RUN,
SKIPPED or MISSED, or nothing for those of a pause.  `complaints()` compares.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from pgsched.firing import BOUND, SLICE
from tests.chronos.oracle import Spec


class Committed(NamedTuple):
    """A tick that read the schedule as due at `as_of`, and was the first to write."""

    as_of: datetime
    unfinished: dict[datetime, bool]  # its runs that had not ended: whether they wait for another


class Quiet(NamedTuple):
    """A worker asked what is due, and the schedule was not, though active."""

    as_of: datetime


class Paused(NamedTuple):
    """Somebody paused it."""

    at: datetime


class Resumed(NamedTuple):
    """Somebody resumed it, or its pause was over."""

    at: datetime


class Complaint(NamedTuple):
    """What is wrong with one instant."""

    instant: datetime
    text: str

    def __str__(self) -> str:
        return f"{self.instant:%F %T} {self.text}"


Event = Committed | Quiet | Paused | Resumed


class Fire(NamedTuple):
    """One row of the ledger."""

    scheduled_time: datetime
    outcome: str
    reason: str | None
    task_id: str | None
    folded_until: datetime | None = None
    folded_count: int = 1


class Walk:
    """Through the history of one schedule."""

    def __init__(self, spec: Spec, delay: timedelta, instants: Sequence[datetime]) -> None:
        self.expected: dict[datetime, str] = {}
        self.complaints: list[Complaint] = []
        self._spec = spec
        self._delay = delay
        self._instants = instants
        self._left = spec.max_runs or len(instants) + 1
        self._done = 0  # of the instants, so many are accounted for or fell into a pause

    def take(self, event: Event) -> None:
        if self._left == 0:
            return
        match event:
            case Committed():
                self._commit(event)
            case Quiet(as_of):
                self.complaints += [
                    Complaint(instant, f"was due at {as_of}, and no worker was told")
                    for instant in self._until(as_of)
                ]
            case Paused(at):
                for instant in self._until(at):
                    self._enter(instant, "MISSED")
            case Resumed(at):
                self._done += len(self._until(at))

    def _until(self, as_of: datetime) -> Sequence[datetime]:
        """What is due, and not accounted for."""
        end = bisect_right(self._instants, as_of - self._delay)
        return self._instants[self._done : end]

    def _enter(self, instant: datetime, outcome: str) -> None:
        self.expected[instant] = outcome
        self._done += 1
        if outcome == "RUN":
            self._left -= 1

    def _commit(self, tick: Committed) -> None:
        due = self._until(tick.as_of)
        if len(due) >= SLICE:  # too much for one tick: those that cannot be among the latest
            due = due[: SLICE - BOUND]
            wanted = 0
        else:
            wanted = self._wanted(due, tick.as_of)
        for instant in due[: len(due) - wanted]:
            self._enter(instant, "MISSED")
        self._run(due[len(due) - wanted :], self._room(tick))

    def _wanted(self, due: Sequence[datetime], as_of: datetime) -> int:
        """How many run by the misfire policy: the last so many."""
        timely = sum(as_of - (instant + self._delay) <= self._spec.grace for instant in due)
        wanted = {"none": timely, "latest": max(timely, 1), "all": len(due)}[self._spec.misfire]
        return min(wanted, len(due), BOUND)

    def _room(self, tick: Committed) -> int:
        """How many run by the overlap policy."""
        if self._spec.overlap == "allow":
            return BOUND
        room = 1 if self._spec.overlap == "skip" else 2
        if any(tick.unfinished.values()):  # one waits already
            return 0
        return room - 1 if tick.unfinished else room

    def _run(self, wanted: Sequence[datetime], room: int) -> None:
        for n, instant in enumerate(wanted):
            if self._left == 0:
                return
            self._enter(instant, "RUN" if n < room else "SKIPPED")


def predict(
    spec: Spec, delay: timedelta, instants: Sequence[datetime], history: Iterable[Event]
) -> Walk:
    """What must have become of each instant; those that fell into a pause are not there."""
    walk = Walk(spec, delay, instants)
    for event in history:
        walk.take(event)
    return walk


def complaints(
    spec: Spec,
    expected: dict[datetime, str],
    ledger: Sequence[Fire],
    tasks: Collection[tuple[str, datetime]],
) -> Iterator[Complaint]:
    """
    What is wrong with the ledger of a schedule.

    *tasks* are its tasks that nobody triggered: the id and the instant of each.
    """
    free = sorted(expected.keys() - {fire.scheduled_time for fire in ledger})
    outcomes: dict[datetime, str] = {}
    found: Counter[datetime] = Counter()
    for fire in ledger:
        covered = list(_covered(fire, expected, free))
        if fire.folded_count != len(covered):
            text = f"counts {fire.folded_count}, and stands for {len(covered)}"
            yield Complaint(fire.scheduled_time, text)
        found.update(covered)
        outcomes |= dict.fromkeys(covered, fire.outcome)

    for instant in sorted(expected.keys() | found.keys()):
        if instant not in expected:
            yield Complaint(instant, f"is {outcomes[instant]}, and was not expected")
        elif found[instant] == 0:
            yield Complaint(instant, f"should be {expected[instant]}, and is not there")
        elif found[instant] > 1:
            yield Complaint(instant, f"is there {found[instant]} times")
        elif outcomes[instant] != expected[instant]:
            yield Complaint(instant, f"should be {expected[instant]}, and is {outcomes[instant]}")
    yield from _about_runs(spec, ledger, tasks)


def _covered(
    fire: Fire, expected: Collection[datetime], free: Sequence[datetime]
) -> Iterator[datetime]:
    """The instants that a row of the ledger stands for: of others, those without a row."""
    if fire.folded_until is None or fire.scheduled_time in expected:
        yield fire.scheduled_time
    if fire.folded_until is not None:
        first, last = bisect_right(free, fire.scheduled_time), bisect_right(free, fire.folded_until)
        yield from free[first:last]


def _about_runs(
    spec: Spec, ledger: Sequence[Fire], tasks: Collection[tuple[str, datetime]]
) -> Iterator[Complaint]:
    runs = {(fire.task_id, fire.scheduled_time) for fire in ledger if fire.outcome == "RUN"}
    for task_id, instant in sorted(runs - set(tasks), key=str):
        yield Complaint(instant, f"is RUN, and its task {task_id} is not there")
    for task_id, instant in sorted(set(tasks) - runs, key=str):
        yield Complaint(instant, f"has the task {task_id}, which is not in the ledger")
    if len(set(tasks)) < len(tasks):
        yield Complaint(min(at for _, at in tasks), "or a later instant has a task twice")
    if spec.max_runs and len(runs) > spec.max_runs:
        last = max(instant for _, instant in runs)
        yield Complaint(last, f"is run {len(runs)}, and max_runs is {spec.max_runs}")
