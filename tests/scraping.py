"""Ask for metrics as Prometheus does, and read them with its own parser."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from pgsched.configuration import load_settings
from pgsched.worker import Worker
from tests.roles import as_role
from tests.waiting import until

OPENMETRICS = "application/openmetrics-text;version=1.0.0"
# What the library tells of a process.
FOREIGN = ("process_", "python_")


class Scrape:
    """One exposition."""

    def __init__(self, text: str, *, is_openmetrics: bool = False) -> None:
        parse: Any = openmetrics.text_string_to_metric_families if is_openmetrics else None
        self.families = list((parse or text_string_to_metric_families)(text))
        self.samples = [sample for family in self.families for sample in family.samples]

    @property
    def kinds(self) -> dict[str, str]:
        """The type of each of our metrics by its name, counters with their suffix."""
        return {
            family.name + ("_total" if family.type == "counter" else ""): family.type
            for family in self.families
            if not family.name.startswith(FOREIGN)
        }

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        """The values of a series by those of its labels, which are in alphabetical order."""
        return {tuple(s.labels.values()): s.value for s in self.samples if s.name == name}

    def value(self, name: str, *labels: str) -> float:
        return self.values(name)[labels]


async def scrape(url: str, accept: str = "text/plain") -> Scrape:
    async with httpx.AsyncClient() as client:
        answer = await client.get(url, headers={"Accept": accept})
    assert answer.status_code == 200, answer.text
    return Scrape(answer.text, is_openmetrics="openmetrics" in answer.headers["content-type"])


@contextlib.asynccontextmanager
async def measured_worker(dsn: str, **settings: Any) -> AsyncIterator[str]:
    """A worker in this event loop; the base URL of its endpoint."""
    stop = asyncio.Event()
    given = {"schedule_scan_interval": 0.1, "metrics_port": 0} | settings
    worker = Worker(load_settings(database_url=as_role(dsn, "worker"), **given))
    running = asyncio.create_task(worker.run(stop))
    try:
        await until(lambda: worker.observation.port or running.done())
        yield f"http://127.0.0.1:{worker.observation.port}"
    finally:
        stop.set()
        await running
