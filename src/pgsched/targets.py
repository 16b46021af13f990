"""Which queues a worker claims from, and the external system each leads to."""

from __future__ import annotations

import logging
import os
from time import monotonic

from pgsched.database import Database
from pgsched.errors import ConfigError
from pgsched.models import Completion, ExternalSystem, Target
from pgsched.settings import PREFIX, Settings, secrets_of
from pgsched.signing import read_secrets

log = logging.getLogger(__name__)

_OWN = frozenset(f"{PREFIX}{name.upper()}" for name in Settings.model_fields)

# A change in the database takes effect after so many seconds.
MAX_AGE = 1.0


class Targets:
    """
    The routing table, read from the database and read again as it ages.

    A system without a base_url of its own gets the one of the settings.  A
    queue that leads nowhere, or whose pushes could not be signed as they
    should be, is not claimed from.
    """

    def __init__(self, database: Database, settings: Settings, *, is_local: bool = False) -> None:
        """
        Args:
            is_local: Whether all tasks are handled in this process, wherever their queues lead.
        """
        self._database = database
        self._settings = settings
        self._is_local = is_local
        self.read_at = float("-inf")  # by the monotonic clock
        self._complaints: dict[str, str] = {}  # by queue
        self.queues: list[str] = []
        self.systems: dict[str, ExternalSystem] = {}  # by name
        # By queue; where it leads is told of changes of status while it is paused, too.
        self.reachable: dict[str, ExternalSystem] = {}
        self._systems: dict[str, ExternalSystem] = {}  # by queue

    def system_of(self, queue: str) -> ExternalSystem | None:
        """Where tasks of *queue* go, if that is known."""
        return self._systems.get(queue)

    async def refresh(self) -> None:
        """Read the table again if it is too old."""
        asked = monotonic()
        if asked - self.read_at < MAX_AGE:
            return
        rows = await self._database.dispatch_targets()
        self.read_at = asked
        self._systems, self.reachable = {}, {}
        for row in rows:
            try:
                system = self._resolve(row)
            except ConfigError as exc:
                self._complain(row.queue, str(exc))
                continue
            self._complaints.pop(row.queue, None)
            if not row.is_paused:
                self._systems[row.queue] = system
            if self._is_ours(row.queue):
                self.reachable[row.queue] = system
        self.systems = {system.name: system for system in self._systems.values()}
        self.queues = [queue for queue in self._systems if self._is_ours(queue)]

    def _is_ours(self, queue: str) -> bool:
        wanted = self._settings.queues
        return wanted is None or queue in wanted

    def _complain(self, queue: str, reason: str) -> None:
        if self._is_ours(queue) and self._complaints.get(queue) != reason:
            self._complaints[queue] = reason
            log.warning("queue is not served", extra={"queue": queue, "error": reason})

    def _resolve(self, row: Target) -> ExternalSystem:
        base_url = row.base_url or self._settings.external_system_url
        if self._is_local:
            return self._local(row)
        if base_url is None:
            raise ConfigError(
                f"external system {row.external_system} has no base_url; set it with"
                " pgsched.define_external_system(), or set PGSCHED_EXTERNAL_SYSTEM_URL"
            )
        return ExternalSystem(
            row.external_system,
            base_url,
            self._api_key(row),
            Completion(row.completion),
            row.request_timeout,
            self._secrets(row),
            row.batch_size,
            row.max_in_flight,
            row.is_open,
        )

    def _local(self, row: Target) -> ExternalSystem:
        return ExternalSystem(
            row.external_system,
            "this process",
            None,
            Completion.RESPONSE,
            row.request_timeout,
            max_in_flight=row.max_in_flight,
            is_open=row.is_open,
        )

    def _api_key(self, row: Target) -> str | None:
        if row.api_key_env and (key := _variable(row, row.api_key_env)) is not None:
            return key
        given = self._settings.external_system_api_key
        return given.get_secret_value() if given and row.base_url is None else None

    def _secrets(self, row: Target) -> tuple[bytes, ...]:
        if row.signing_secret_env is None:
            given = self._settings.external_system_signing_secret
            return secrets_of(given) if row.base_url is None else ()
        try:
            return read_secrets(_variable(row, row.signing_secret_env) or "")
        except ValueError as exc:
            raise ConfigError(
                f"{row.signing_secret_env}, the signing_secret_env of external system"
                f" {row.external_system}, {exc}"
            ) from None


def _variable(row: Target, name: str) -> str | None:
    """
    A variable of the environment that an external system names.

    Raises:
        ConfigError: It is a setting: who may write to external_systems would have it sent away.
    """
    if name.upper() in _OWN:
        raise ConfigError(
            f"external system {row.external_system} names {name}, which is a setting of"
            " pgsched and nobody's key"
        )
    return os.environ.get(name)
