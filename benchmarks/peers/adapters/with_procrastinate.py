"""Procrastinate: a pool of psycopg connections, one worker with many coroutines, LISTEN."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import common
import procrastinate


class Procrastinate:
    def __init__(self, dsn: str) -> None:
        logging.getLogger("procrastinate").setLevel(logging.ERROR)
        self.connector = procrastinate.PsycopgConnector(conninfo=dsn, max_size=70)
        self.app = procrastinate.App(connector=self.connector)
        self.handler: common.Handler

        @self.app.task(name="bench")
        async def bench(**payload: object) -> None:
            await self.handler(payload)

        self.task = bench

    async def install(self) -> None:
        async with self.app.open_async():
            await self.app.schema_manager.apply_schema_async()

    async def clients(self, count: int) -> common.Enqueue:
        await self.app.open_async()

        async def call(payload: common.Payload) -> None:
            await self.task.defer_async(**payload)

        return call

    async def bulk(self, payloads: list[common.Payload], delay: float | None) -> None:
        at = None if delay is None else datetime.now(UTC) + timedelta(seconds=delay)
        for start in range(0, len(payloads), common.CHUNK):
            some = payloads[start : start + common.CHUNK]
            await self.task.configure(schedule_at=at).batch_defer_async(*some)

    async def work(self, job: common.Job) -> None:
        self.handler = job.handler
        async with self.app.open_async():
            await self.app.run_worker_async(concurrency=job.slots, install_signal_handlers=False)


if __name__ == "__main__":
    common.main(Procrastinate)
