"""What is wrong with an external system, told once, and once when it is right again."""

from __future__ import annotations

import logging

from pgsched.answers import Answer, deferral_of, is_deferral
from pgsched.models import ExternalSystem

log = logging.getLogger(__name__)


class Complaints:
    """Remembers what was told last of one system; another status is another complaint."""

    def __init__(self) -> None:
        self._told: int | None = None

    @property
    def is_silent(self) -> bool:
        """Whether there is nothing to take back."""
        return self._told is None

    def hear(self, system: ExternalSystem, answer: Answer) -> None:
        """Tell of *answer* if it is news."""
        where = f"external system {system.name} ({system.base_url})"
        if not is_deferral(answer):
            if self._told is not None:
                log.info("%s takes tasks again", where)
            self._told = None
        elif self._told != (answer.status_code or 0):
            self._told = answer.status_code or 0
            outcome = deferral_of(answer, 0)
            if outcome.is_misconfigured:
                log.error("%s is misconfigured: %s", where, outcome.reason)
            else:
                log.warning("%s takes no tasks: %s", where, outcome.reason)
