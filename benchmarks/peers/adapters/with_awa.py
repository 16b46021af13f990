"""awa: the Rust engine under its Python client."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import awa
import common


@dataclass
class Bench:
    number: int = 0
    at: float = 0


class Peer:
    def __init__(self, dsn: str) -> None:
        self.dsn = common.uri_of(dsn)

    async def install(self) -> None:
        await awa.migrate(self.dsn)
        # The first worker makes the storage engine of a new database the active one.
        await self.worker().start([("bench", 1)])
        await asyncio.sleep(1)

    async def clients(self, count: int) -> common.Enqueue:
        self.client = awa.AsyncClient(self.dsn, max_connections=count)

        async def call(payload: common.Payload) -> None:
            await self.client.insert(Bench(**payload), queue="bench")

        return call

    async def bulk(self, payloads: list[common.Payload], delay: float | None) -> None:
        extra: dict[str, Any] = {}
        if delay is not None:
            extra["run_at"] = datetime.now(UTC) + timedelta(seconds=delay)
        for start in range(0, len(payloads), common.CHUNK * 10):
            some = [Bench(**p) for p in payloads[start : start + common.CHUNK * 10]]
            await self.client.enqueue_many_copy(some, queue="bench", **extra)

    def worker(self, handler: common.Handler | None = None) -> awa.AsyncClient:
        client = awa.AsyncClient(self.dsn, max_connections=20)

        @client.task(Bench, queue="bench")
        async def bench(job: Any) -> None:
            if handler:
                await handler(vars(job.args))

        return client

    async def work(self, job: common.Job) -> None:
        await self.worker(job.handler).start([("bench", 4 * job.slots)])
        await asyncio.Event().wait()


if __name__ == "__main__":
    common.main(Peer)
