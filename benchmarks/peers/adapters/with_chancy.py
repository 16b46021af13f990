"""Chancy: the asyncio executor, which polls again as soon as a job has ended."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import common
from chancy import Chancy, Job, Queue, Worker
from chancy import job as chancy_job

current: list[common.Handler] = []


@chancy_job(queue="bench")
async def bench(**payload: object) -> None:
    await current[0](payload)


class Peer:
    def __init__(self, dsn: str) -> None:
        quiet = logging.getLogger("quiet")
        quiet.setLevel(logging.ERROR)
        self.chancy = Chancy(
            common.uri_of(dsn), min_connection_pool_size=1, max_connection_pool_size=70, log=quiet
        )

    async def install(self) -> None:
        async with self.chancy:
            await self.chancy.migrate()

    def job(self, payload: common.Payload, at: datetime | None = None) -> Job:
        made = bench.job.with_kwargs(**payload)
        return made if at is None else made.with_scheduled_at(at)

    async def clients(self, count: int) -> common.Enqueue:
        await self.chancy.__aenter__()

        async def call(payload: common.Payload) -> None:
            await self.chancy.push(self.job(payload))

        return call

    async def bulk(self, payloads: list[common.Payload], delay: float | None) -> None:
        at = None if delay is None else datetime.now(UTC) + timedelta(seconds=delay)
        jobs = [self.job(p, at) for p in payloads]
        async for _ in self.chancy.push_many(jobs, batch_size=common.CHUNK):
            pass

    async def work(self, job: common.Job) -> None:
        current.append(job.handler)
        async with self.chancy as chancy:
            await chancy.declare(
                Queue(
                    "bench",
                    concurrency=job.slots,
                    executor=Chancy.Executor.Async,
                    eager_polling=True,
                    polling_interval=1,
                ),
                upsert=True,
            )
            async with Worker(chancy) as worker:
                await worker.wait_for_shutdown()


if __name__ == "__main__":
    common.main(Peer)
