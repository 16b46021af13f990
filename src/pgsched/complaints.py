"""What is wrong with an external system, told once, and once when it is right again."""

from __future__ import annotations

import logging
from time import monotonic

from pgsched.answers import Answer, cause_of, deferral_of, is_deferral
from pgsched.models import ExternalSystem

log = logging.getLogger(__name__)


# A system is right again when nothing was wrong for so long, in seconds; what is wrong is
# told again after a longer while.
QUIET = 5.0
REPEAT = 60.0


class Complaints:
    """Remembers what was told last of one system; another status is another complaint."""

    def __init__(self) -> None:
        self._told: dict[int, float] = {}  # when, by status
        self._wrong_at = float("-inf")

    @property
    def is_silent(self) -> bool:
        """Whether there is nothing to take back."""
        return not self._told

    def hear(self, system: ExternalSystem, answer: Answer) -> None:
        """Tell of *answer* if it is news."""
        now = monotonic()
        if is_deferral(answer):
            self._wrong_at = now
            status = answer.status_code or 0
            if now - self._told.get(status, float("-inf")) >= REPEAT:
                self._told[status] = now
                _complain(system, answer)
        elif self._told and now - self._wrong_at >= QUIET:
            self._told = {}
            log.info("external system takes tasks again", extra=_fields_of(system))


def _complain(system: ExternalSystem, answer: Answer) -> None:
    fields = {**_fields_of(system), "answer": cause_of(answer)}
    if deferral_of(answer, 0).is_misconfigured:
        log.error("external system is misconfigured", extra=fields)
    else:
        log.warning("external system takes no tasks", extra=fields)


def _fields_of(system: ExternalSystem) -> dict[str, str]:
    return {"external_system": system.name, "base_url": system.base_url}
