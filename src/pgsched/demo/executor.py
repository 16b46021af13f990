"""
A small external system: it accepts tasks, works on them, and reports back.

What it does is in the `content` of the definition: `answer_after` seconds until
it accepts, `work` seconds until it is done, and `fail_attempts`, how many
attempts fail first.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request, Response


class Executor:
    """Accepts with 202, runs what it has not seen, and reports RUNNING, then how it ended."""

    def __init__(self) -> None:
        self._http = httpx.AsyncClient(timeout=10)
        self._seen: set[str] = set()
        self._under_way: set[asyncio.Task[None]] = set()

    async def accept(self, request: Request) -> Response:
        push = await request.json()
        if push["status"] != "READY_FOR_EXECUTION":  # news of a task: nothing to run
            return Response(status_code=202)
        await asyncio.sleep(push["metadata"]["content"].get("answer_after", 0))
        key = request.headers["Idempotency-Key"]
        if key not in self._seen:  # the same delivery may come twice
            self._seen.add(key)
            task = asyncio.create_task(self._work(push, _authorization(push, request)))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        return Response(status_code=202)

    async def _work(self, push: dict[str, Any], authorization: str) -> None:
        content = push["metadata"]["content"]
        await self._report(push, authorization, status="RUNNING", progress=0)
        await asyncio.sleep(content.get("work", 0.2))
        if push["attempt"] <= content.get("fail_attempts", 0):
            outcome = {"status": "FAILED", "error_msg": "flaky on purpose"}
        else:
            outcome = {"status": "SUCCESS", "output_ref": f"demo://{push['task_id']}"}
        await self._report(push, authorization, **outcome)

    async def _report(self, push: dict[str, Any], authorization: str, **body: Any) -> None:
        headers = {"Authorization": authorization}
        for _ in range(5):
            try:
                answer = await self._http.post(push["callback_url"], json=body, headers=headers)
                if answer.status_code < 500:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.5)


def _authorization(push: dict[str, Any], request: Request) -> str:
    """What the report carries: the token that came with the push, else the key."""
    token = push.get("callback_token")
    return f"Bearer {token}" if token else request.headers.get("Authorization", "")


def create_app() -> FastAPI:
    app = FastAPI()
    app.add_api_route("/api/tasks/status", Executor().accept, methods=["POST"], response_model=None)
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    uvicorn.run(create_app(), port=parser.parse_args().port, log_level="warning")
