"""Which queues a worker claims from, and the external system each leads to."""

from __future__ import annotations

import logging
import os
from time import monotonic

from pgsched.database import Database
from pgsched.models import Completion, ExternalSystem, Target
from pgsched.settings import Settings

log = logging.getLogger(__name__)

# A change in the database takes effect after so many seconds.
MAX_AGE = 1.0


class Targets:
    """
    The routing table, read from the database and read again as it ages.

    A system without a base_url of its own gets the one of the settings; a
    queue that leads nowhere is not claimed from.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._read_at = float("-inf")
        self._silent: set[str] = set()
        self.queues: list[str] = []
        self._systems: dict[str, ExternalSystem] = {}  # by queue

    def system_of(self, queue: str) -> ExternalSystem | None:
        """Where tasks of *queue* go, if that is known."""
        return self._systems.get(queue)

    async def refresh(self) -> None:
        """Read the table again if it is too old."""
        if monotonic() - self._read_at < MAX_AGE:
            return
        rows = await self._database.dispatch_targets()
        self._read_at = monotonic()
        self._systems = {row.queue: system for row in rows if (system := self._resolve(row))}
        self.queues = [row.queue for row in rows if self._is_ours(row)]

    def _is_ours(self, row: Target) -> bool:
        wanted = self._settings.queues
        if wanted is not None and row.queue not in wanted:
            return False
        if row.queue in self._systems:
            return True
        if row.queue not in self._silent:
            self._silent.add(row.queue)
            log.warning(
                "queue %s is not served: external system %s has no base_url; set it with "
                "pgsched.define_external_system(), or set PGSCHED_EXTERNAL_SYSTEM_URL",
                row.queue,
                row.external_system,
            )
        return False

    def _resolve(self, row: Target) -> ExternalSystem | None:
        base_url, api_key = row.base_url, None
        if row.api_key_env:
            api_key = os.environ.get(row.api_key_env)
        if base_url is None:
            base_url = self._settings.external_system_url
            if api_key is None and self._settings.external_system_api_key:
                api_key = self._settings.external_system_api_key.get_secret_value()
        if base_url is None:
            return None
        return ExternalSystem(
            row.external_system, base_url, api_key, Completion(row.completion), row.request_timeout
        )
