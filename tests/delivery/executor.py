"""What a receiver does with what it has taken: it works on it, and reports more or less well."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import httpx

from tests.delivery.evidence import Report

# How often it reports how, in percent.
HABITS = {
    "success": 52,
    "running": 12,
    "failed": 7,
    "twice": 6,  # the same again
    "contradiction": 4,  # FAILED after SUCCESS
    "regret": 4,  # SUCCESS after FAILED
    "ahead": 4,  # first for an attempt that was never pushed
    "unnumbered": 3,  # without an attempt
    "late": 4,  # when the deadline has passed
    "silent": 2,
    "stalled": 2,  # RUNNING, and silent then
}
# Reports in one request at most.
BATCH = 500

Planned = tuple[float, str, int | None]  # after so many seconds, which status, of which attempt


def plan(rng: random.Random, attempt: int, silence: float) -> list[Planned]:
    """What will be reported of an execution."""
    habit = rng.choices(list(HABITS), list(HABITS.values()))[0]
    soon = rng.uniform(0, 0.4)
    success = (soon, "SUCCESS", attempt)
    failed = (soon, "FAILED", attempt)
    plans: dict[str, list[Planned]] = {
        "success": [success],
        "running": [(soon / 2, "RUNNING", attempt), success],
        "failed": [failed],
        "twice": [success, (soon + 0.1, "SUCCESS", attempt)],
        "contradiction": [success, (soon + 0.1, "FAILED", attempt)],
        "regret": [failed, (soon + 0.1, "SUCCESS", attempt)],
        "ahead": [(soon, "SUCCESS", attempt + 1), (soon + 0.1, "SUCCESS", attempt)],
        "unnumbered": [(soon, "SUCCESS", None)],
        "late": [(silence + 1.5 + soon, "SUCCESS", attempt)],
        "silent": [],
        "stalled": [(soon, "RUNNING", attempt)],
    }
    return plans[habit]


class Executor:
    """
    Works on each execution once, however often it was pushed.

    What it reports it sends in lists, and writes down how each was answered;
    what was not answered it sends again.
    """

    def __init__(self, api: str, silence: float) -> None:
        self.reports: list[Report] = []
        self.outstanding = 0  # reports that are planned, or under way
        self._url = f"{api}/api/tasks/status"
        self._silence = silence
        self._keys: set[str] = set()
        self._due: list[dict[str, Any]] = []
        self._arrived = asyncio.Event()

    def take(self, rng: random.Random, task_id: str, attempt: int) -> None:
        """Work on an execution, unless it is known already."""
        key = f"{task_id}:{attempt}"
        if key in self._keys:
            return
        self._keys.add(key)
        for delay, status, of_attempt in plan(rng, attempt, self._silence):
            report: dict[str, Any] = {"task_id": task_id, "status": status}
            if of_attempt is not None:
                report["attempt"] = of_attempt
            self.outstanding += 1
            asyncio.get_running_loop().call_later(delay, self._report, report)

    def _report(self, report: dict[str, Any]) -> None:
        self._due.append(report)
        self._arrived.set()

    async def run(self) -> None:
        """Send what is due until cancelled."""
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
            while True:
                await self._arrived.wait()
                await asyncio.sleep(0.01)
                batch, self._due = self._due[:BATCH], self._due[BATCH:]
                if not self._due:
                    self._arrived.clear()
                await self._send(client, batch)

    async def _send(self, client: httpx.AsyncClient, batch: list[dict[str, Any]]) -> None:
        sent = time.time()
        try:
            response = await client.post(self._url, json=batch)
            results = response.raise_for_status().json()["results"]
        except httpx.HTTPError:  # it may have been taken; whoever is not sure says it again
            results = [{"code": "PS000", "status": None}] * len(batch)
            self.outstanding += len(batch)
            for report in batch:
                asyncio.get_running_loop().call_later(0.2, self._report, report)
        answered = time.time()
        for report, result in zip(batch, results, strict=True):
            code = int(result.get("code", "PS200").removeprefix("PS"))
            self.reports.append(
                Report(
                    report["task_id"],
                    report.get("attempt"),
                    report["status"],
                    sent,
                    answered,
                    code,
                    result["status"],
                )
            )
        self.outstanding -= len(batch)
