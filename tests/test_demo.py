"""The parts of the demo that its own run would not show to be wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import orjson

from pgsched.demo.executor import create_app
from pgsched.testing.server import LoopbackServer, Reply, Request
from tests.waiting import eventually


async def test_the_executor_runs_what_is_ready_and_passes_over_news() -> None:
    reports: list[Request] = []

    def take(report: Request) -> Reply:
        reports.append(report)
        return Reply(200)

    api = LoopbackServer(take)
    ready: dict[str, Any] = {
        "task_id": "t",
        "status": "READY_FOR_EXECUTION",
        "attempt": 1,
        "idempotency_key": "t:1",
        "metadata": {"content": {"work": 0}},
        "callback_url": f"{api.url}/t",
    }
    news: dict[str, Any] = {
        "task_id": "t",
        "status": "PENDING",
        "idempotency_key": "t:status:2",
        "metadata": {},
    }
    transport = httpx.ASGITransport(create_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://demo") as client:
        for body in (news, ready, ready, news):
            headers = {"Authorization": "Bearer demo", "Idempotency-Key": body["idempotency_key"]}
            answer = await client.post("/api/tasks/status", json=body, headers=headers)
            assert answer.status_code == 202
        await asyncio.to_thread(eventually, lambda: len(reports) == 2)
    await asyncio.to_thread(api.stop)

    assert [orjson.loads(report.raw)["status"] for report in reports] == ["RUNNING", "SUCCESS"]
