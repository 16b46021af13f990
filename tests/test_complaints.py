"""What is told of an external system: once, and when it is over."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pgsched import complaints
from pgsched.answers import Answer, Reply
from pgsched.complaints import QUIET, REPEAT, Complaints
from pgsched.models import Completion, ExternalSystem

SYSTEM = ExternalSystem(
    "crm", "http://crm.example", None, Completion.CALLBACK, timedelta(seconds=5)
)
GOOD, BUSY, WRONG = (Answer(Reply.ANSWERED, status) for status in (202, 503, 401))


class Hearing:
    """Complaints under a clock that the test turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture) -> None:
        self.now, self._log, self._complaints = 1000.0, log, Complaints()
        log.set_level("INFO")
        monkeypatch.setattr(complaints, "monotonic", lambda: self.now)

    def hear(self, *answers: Answer) -> list[str]:
        """The levels of what is told."""
        self._log.clear()
        for answer in answers:
            self._complaints.hear(SYSTEM, answer)
        return [record.levelname for record in self._log.records]


@pytest.fixture
def hearing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Hearing:
    return Hearing(monkeypatch, caplog)


def test_nothing_is_told_of_a_system_that_is_well(hearing: Hearing) -> None:
    assert hearing.hear(GOOD, GOOD) == []


def test_each_status_is_told_once_and_what_is_misconfigured_loudly(hearing: Hearing) -> None:
    assert hearing.hear(BUSY, BUSY, WRONG, BUSY, WRONG) == ["WARNING", "ERROR"]


def test_a_system_that_is_sometimes_well_is_no_news_each_time(hearing: Hearing) -> None:
    assert hearing.hear(*[BUSY, GOOD] * 100) == ["WARNING"]


def test_it_is_right_again_after_a_while_without_fault(hearing: Hearing) -> None:
    hearing.hear(BUSY)
    hearing.now += QUIET

    assert hearing.hear(GOOD, GOOD) == ["INFO"]
    assert hearing.hear(BUSY) == ["WARNING"]


def test_what_goes_on_is_told_again_after_a_longer_while(hearing: Hearing) -> None:
    hearing.hear(BUSY)
    hearing.now += REPEAT

    assert hearing.hear(BUSY, BUSY) == ["WARNING"]
