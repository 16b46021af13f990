"""PgQueuer: asyncpg, as its documentation prefers, and batches of 100."""

from __future__ import annotations

import json
from datetime import timedelta

import asyncpg
import common
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

BATCH = 100


class Pgqueuer:
    def __init__(self, dsn: str) -> None:
        self.dsn = common.parts_of(dsn)

    async def install(self) -> None:
        connection = await asyncpg.connect(**self.dsn)
        await Queries(AsyncpgDriver(connection)).install()

    async def clients(self, count: int) -> common.Enqueue:
        pool = await asyncpg.create_pool(**self.dsn, min_size=count, max_size=count)
        self.queries = Queries(AsyncpgPoolDriver(pool))

        async def call(payload: common.Payload) -> None:
            await self.queries.enqueue("bench", json.dumps(payload).encode())

        return call

    async def bulk(self, payloads: list[common.Payload], delay: float | None) -> None:
        after = None if delay is None else timedelta(seconds=delay)
        for start in range(0, len(payloads), common.CHUNK):
            some = [json.dumps(p).encode() for p in payloads[start : start + common.CHUNK]]
            count = len(some)
            await self.queries.enqueue(["bench"] * count, some, [0] * count, [after] * count)

    async def work(self, job: common.Job) -> None:
        connection = await asyncpg.connect(**self.dsn)
        queuer = PgQueuer(AsyncpgDriver(connection))

        @queuer.entrypoint("bench")
        async def bench(taken: Job) -> None:
            await job.handler(json.loads(taken.payload))

        await queuer.run(batch_size=BATCH)


if __name__ == "__main__":
    common.main(Pgqueuer)
