"""Who looks on while a worker works: puts parts that count, or trace, in place of plain ones."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pgsched import tracing
from pgsched.clients import Client
from pgsched.clock import Clock
from pgsched.database import HORIZON, Database
from pgsched.dispatcher import ScheduleDispatcher
from pgsched.endpoint import Endpoint
from pgsched.lease import Lease
from pgsched.listener import Listener
from pgsched.measuring import MeasuredClient, MeasuredSettler, Measurer
from pgsched.models import ClaimedTask
from pgsched.observer import ObservedDatabase, Observer
from pgsched.settings import Settings
from pgsched.settler import Settler
from pgsched.summary import Summary
from pgsched.tallies import WorkerTally
from pgsched.targets import Targets


class _Setter(Observer):
    """Sets a clock with each claim."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def claimed(self, tasks: list[ClaimedTask], horizon: datetime, seconds: float) -> None:
        self._clock.set(horizon + HORIZON)


class Observation:
    """The log always looks on; metrics and traces where they are wanted."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tally = None if settings.metrics_port is None else WorkerTally()
        self.summary = Summary()
        self.clock = Clock()
        self._observers: list[Observer] = [self.summary, _Setter(self.clock)]
        if self._tally is not None:
            self._observers.append(Measurer(self._tally))
        self._endpoint: Endpoint | None = None
        self._tracer = tracing.tracer()
        if self._tracer is not None:
            from pgsched.traced import SpanObserver

            self._observers.append(SpanObserver(self._tracer))

    @property
    def port(self) -> int | None:
        """Where the metrics are, once it has started."""
        return self._endpoint.port if self._endpoint else None

    def database(self, dsn: str, **options: Any) -> Database:
        return ObservedDatabase(dsn, self._observers, **options)

    def settler(self, database: Database, targets: Targets) -> Settler:
        if self._tally is None:
            return Settler(database)
        return MeasuredSettler(database, targets, self._tally)

    def client(self, client: Client) -> Client:
        if self._tracer is not None:
            from pgsched.traced import TracedClient

            client = TracedClient(client, self._tracer)
        return MeasuredClient(client, self._tally) if self._tally else client

    async def start(
        self,
        version: str,
        dispatcher: ScheduleDispatcher,
        targets: Targets,
        lease: Lease,
        listener: Listener,
    ) -> None:
        """
        Answer those who ask for metrics, with how these parts stand as well.

        Raises:
            ConfigError: The address cannot be had.
        """
        host, port = self._settings.metrics_host, self._settings.metrics_port
        if self._tally is None or port is None:
            return
        # Only here: the library takes 50 ms to import.
        from pgsched.families import registry_of, render
        from pgsched.metrics import Parts, WorkerCollector

        parts = Parts(dispatcher, targets, lease, listener, self._settings.push_slots)
        registry = registry_of(WorkerCollector(self._tally, parts), version)
        self._endpoint = Endpoint(host, port, lambda accept: render(registry, accept))
        await self._endpoint.start()

    def stop(self) -> None:
        self.summary.tell()
        if self._endpoint is not None:
            self._endpoint.stop()
