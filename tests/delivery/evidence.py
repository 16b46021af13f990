"""What is known of each task: what the receiver wrote down, and what the database says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Reply(StrEnum):
    """How the receiver answered a push."""

    ACCEPTED = "202"
    EMPTY = "200"
    SUCCESS = "200 SUCCESS"  # its body says so
    FAILED = "200 FAILED"
    KNOWN = "409"
    BUSY = "429"
    REFUSED = "400"
    ERROR = "500"
    DOWN = "503"
    RESET = "reset"
    HALF = "half"  # of a 200 SUCCESS, and then a reset
    HANG = "hang"
    LATE = "late"  # a 200 SUCCESS that nobody waits for any more, unless asleep
    UNSAID = "unsaid"  # of a batch: nothing that is about this task


class Delivery(NamedTuple):
    """A push that the receiver was sent.  Times are seconds since 1970."""

    task_id: str
    attempt: int
    key: str
    sequence: int
    number: int  # which of the tasks it is, by its input_params
    arrived: float
    reply: str
    written: float | None  # just before the whole answer was; None: never, or nobody was there
    in_batch: bool = False


class Report(NamedTuple):
    """What the executor reported, and what it was answered."""

    task_id: str
    attempt: int | None
    status: str
    sent: float
    answered: float
    code: int  # as a report of its own would be answered; 0: nobody knows, and it was sent again
    result: str | None  # the status of the task after it


class Claim(NamedTuple):
    """A worker took the task: one delivery."""

    task_id: str
    delivery_count: int
    attempt: int
    sequence: int
    at: float


class End(NamedTuple):
    """The task went to the record."""

    task_id: str
    status: str
    sequence: int  # of the same counter as those of claims
    at: float


class Event(NamedTuple):
    """A row of `task_events`."""

    task_id: str
    at: float
    event: str
    attempt: int | None
    delivery_count: int | None
    message: str


class Task(NamedTuple):
    """What the view `tasks` shows in the end."""

    id: str
    status: str
    attempt: int
    retry_count: int
    max_retries: int
    delivery_count: int
    lapsed_attempt: int | None
    error_msg: str | None

    @property
    def why_failed(self) -> str:
        """What it failed of; one that has not failed may still say what went wrong before."""
        return (self.error_msg or "") if self.status == "FAILED" else ""


class Terms(NamedTuple):
    """What was agreed with the receiver."""

    completion: str  # callback or response
    silence: float  # the timeout of the definition, in seconds
    # An answer has been written down as settled after so many seconds, however busy the machine is.
    settled: float = 5.0


Piece = Task | Delivery | Report | Claim | End | Event


@dataclass
class Case:
    """All that is known of one task."""

    task_id: str
    tasks: list[Task] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    @property
    def task(self) -> Task:
        """Its row; `every_task_ends_once()` says if it has none, or two."""
        return self.tasks[0]

    def add(self, piece: Piece) -> None:
        match piece:
            case Task():
                self.tasks.append(piece)
            case Delivery():
                self.deliveries.append(piece)
            case Report():
                self.reports.append(piece)
            case Claim():
                self.claims.append(piece)
            case End():
                self.ends.append(piece)
            case Event():
                self.events.append(piece)

    def number_of(self, delivery: Delivery) -> int:
        """The delivery_count of its claim, 0 if nobody claimed it."""
        counts = (c.delivery_count for c in self.claims if c.sequence == delivery.sequence)
        return next(counts, 0)


def gather(
    task_ids: Iterable[str],
    evidence: Iterable[Piece],
) -> list[Case]:
    """A case for each of these tasks, and for whatever else there is evidence of."""
    cases = {task_id: Case(task_id) for task_id in task_ids}
    for piece in evidence:
        task_id = piece.id if isinstance(piece, Task) else piece.task_id
        cases.setdefault(task_id, Case(task_id)).add(piece)
    for case in cases.values():
        case.deliveries.sort(key=lambda d: (d.sequence, d.arrived))
        case.reports.sort(key=lambda r: r.answered)
        case.claims.sort(key=lambda c: c.sequence)
        case.events.sort(key=lambda e: e.at)
    return list(cases.values())
