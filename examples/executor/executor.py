"""A whole external system: it checks, accepts once, works, and reports."""

import asyncio
import os
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response
from standardwebhooks import Webhook, WebhookVerificationError

app = FastAPI()
http = httpx.AsyncClient(timeout=10)
webhook = Webhook(os.environ["SIGNING_SECRET"])
seen: set[str] = set()  # in a table of yours, if it is to outlive this process
jobs: dict[str, asyncio.Task[None]] = {}


@app.post("/api/tasks/status")
async def take(request: Request) -> Response:
    try:
        push = webhook.verify(await request.body(), dict(request.headers))
    except WebhookVerificationError as exc:
        return Response(str(exc), 401)
    if push["status"] == "CANCELLED" and (job := jobs.pop(push["task_id"], None)):
        job.cancel()
    elif push["status"] == "READY_FOR_EXECUTION" and push["idempotency_key"] not in seen:
        seen.add(push["idempotency_key"])
        jobs[push["task_id"]] = asyncio.create_task(run(push))
    return Response(status_code=202)


async def run(push: dict[str, Any]) -> None:
    for percent in (0, 50):  # the work
        if not await report(push, status="RUNNING", progress={"percent": percent}):
            return
        await asyncio.sleep(push["metadata"]["input_params"].get("seconds", 0.1) / 2)
    await report(push, status="SUCCESS", output_ref=f"done:{push['task_id']}")


async def report(push: dict[str, Any], **body: Any) -> bool:
    headers = {"Authorization": f"Bearer {push['callback_token']}"}
    answer = await http.post(push["callback_url"], json=body, headers=headers)
    return answer.status_code != 409  # which says: stop working on it
