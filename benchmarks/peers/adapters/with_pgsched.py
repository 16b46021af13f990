"""pgsched itself, as its README says: SchedulerService, and one Worker."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import common
import psycopg
from psycopg_pool import AsyncConnectionPool

from pgsched import SchedulerService, migrator
from pgsched.settings import Settings
from pgsched.worker import Worker

BULK = 10_000


class Pgsched:
    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.service = SchedulerService()

    async def install(self) -> None:
        migrator.migrate(self.dsn)
        async with await psycopg.AsyncConnection.connect(self.dsn) as connection:
            await self.service.define_task(connection, "bench")

    async def clients(self, count: int) -> common.Enqueue:
        options = {"autocommit": True}
        self.pool = AsyncConnectionPool(self.dsn, min_size=count, kwargs=options, open=False)
        await self.pool.open(wait=True)

        async def call(payload: common.Payload) -> None:
            async with self.pool.connection() as connection:
                await self.service.schedule_immediate(connection, "bench", payload)

        return call

    async def bulk(self, payloads: list[common.Payload], delay: float | None) -> None:
        extra = {} if delay is None else {"delay": timedelta(seconds=delay)}
        tasks = [{"definition": "bench", "input_params": p, **extra} for p in payloads]
        async with self.pool.connection() as connection:
            for start in range(0, len(tasks), BULK):
                await self.service.schedule_many(connection, tasks[start : start + BULK])

    async def work(self, job: common.Job) -> None:
        await self.lead_to(job)
        settings = Settings(
            database_url=self.dsn,
            external_system_url=job.url,
            public_url=job.url,
            log_level="WARNING",
            push_slots=job.slots,
        )

        async def handle(body: common.Payload) -> None:
            await job.handler(body["metadata"]["input_params"])

        await Worker(settings, None if job.kind == "post" else handle).run(asyncio.Event())

    async def lead_to(self, job: common.Job) -> None:
        """A 2xx is the end of a task, as with the others."""
        async with await psycopg.AsyncConnection.connect(self.dsn) as connection:
            await self.service.define_external_system(
                connection, "default", completion="response", batch_size=job.batch
            )


if __name__ == "__main__":
    common.main(Pgsched)
