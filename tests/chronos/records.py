"""What happened in a simulated year: for the checker, and for the reader of a failure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from pgsched.due import DueSchedule
from tests.chronos.checker import Committed, Event, Paused, Quiet, Resumed
from tests.chronos.oracle import BEGIN, HOUR

# Of each schedule its runs that have not ended: whether each waits for another.
Unfinished = dict[str, dict[datetime, bool]]


class Reading(NamedTuple):
    """What a ticker was told, and which state of each schedule that was."""

    due: dict[str, DueSchedule]
    states: dict[str, int]


class Records:
    """
    The history of each schedule, by its name, and a journal.

    Each change of a schedule is a new state of it, and so is each tick: of
    those who write what they made of the same state, the first one counts.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.now = BEGIN
        self.history: dict[str, list[Event]] = {name: [] for name in names}
        self.complaints: list[str] = []
        self.paused: dict[str, datetime | None] = {}  # until when
        self._journal: list[tuple[datetime, str]] = []
        self._states: dict[str, int] = defaultdict(int)

    def note(self, text: str) -> None:
        self._journal.append((self.now, text))

    def story(self, name: str, instant: datetime) -> list[str]:
        """What happened around an instant of a schedule."""
        first, last = instant - 2 * HOUR, instant + 50 * HOUR
        told = [
            f"    {at:%F %T} {text}"
            for at, text in self._journal
            if first <= at <= last and (name in text or "clock" in text or "nobody" in text)
        ]
        return told[:15]

    # Ticks

    def read(self, due: dict[str, DueSchedule]) -> Reading:
        """Somebody asked, and was told this."""
        for name in self.history.keys() - due.keys() - self.paused.keys():
            self.history[name].append(Quiet(self.now))
        return Reading(due, dict(self._states))

    def wrote(self, reading: Reading, unfinished: Unfinished) -> None:
        """A tick was committed."""
        for name, due in reading.due.items():
            if self._states[name] == reading.states.get(name, 0):
                self.history[name].append(Committed(due.as_of, unfinished.get(name, {})))
                self._states[name] += 1

    # Pauses

    def pause(self, name: str, until: datetime | None) -> None:
        self.paused[name] = until
        self.history[name].append(Paused(self.now))
        self._states[name] += 1

    def resume(self, name: str) -> None:
        """Now, or at the end of its pause if that is over."""
        until = self.paused.pop(name)
        self.history[name].append(Resumed(min(until or self.now, self.now)))
        self._states[name] += 1

    def end_pauses(self) -> None:
        """Whoever asks what is due ends the pauses that are over."""
        for name, until in list(self.paused.items()):
            if until is not None and until <= self.now:
                self.resume(name)
