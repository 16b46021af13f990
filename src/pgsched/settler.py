"""Write down how pushes ended, many in one call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from pgsched.answers import Outcome, Verdict
from pgsched.database import Database
from pgsched.errors import Unavailable
from pgsched.loops import PAUSE
from pgsched.models import ClaimedTask, Json

log = logging.getLogger(__name__)

# Outcomes are gathered this long, in seconds, before they are written.
GATHER = 0.005
# Tasks in one call at most.
BATCH = 500
# A row that another session has locked is tried again after this, in seconds.
LOCKED_PAUSE = 0.05
# What a report can do without.
_DETAILS = {"output_ref", "next_input"}

_Batch = list[dict[str, Json]]


class Settler:
    """
    Gathers outcomes and writes them in batches.

    What a body or a 2xx in response mode settles is a report, and fenced by
    the attempt; all else is a settlement, and fenced by the delivery as well.
    Nothing is dropped: what could not be written is written later.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._settlements: list[dict[str, Json]] = []
        self._reports: list[dict[str, Json]] = []
        self._arrived = asyncio.Event()

    def settle(self, task: ClaimedTask, outcome: Outcome) -> None:
        """Note how the push of *task* ended."""
        if log.isEnabledFor(logging.DEBUG):
            log.debug("push ended", extra=_fields_of(task, outcome))
        match outcome.verdict:
            case Verdict.SUCCEEDED | Verdict.FAILED:
                self._reports.append(_report(task, outcome))
            case _:
                self._settlements.append(_settlement(task, outcome.verdict, outcome))
        self._arrived.set()

    def release(self, task: ClaimedTask) -> None:
        """Give back a task that was never pushed."""
        self._settlements.append(_settlement(task, "RELEASED"))
        self._arrived.set()

    async def step(self) -> float:
        """Write what has arrived; the loop calls it again at once."""
        await self._arrived.wait()
        if len(self._reports) < BATCH and len(self._settlements) < BATCH:
            await asyncio.sleep(GATHER)
        return await self.flush()

    async def flush(self) -> float:
        """Write what there is now; how long to wait before the next time, in seconds."""
        self._arrived.clear()
        settlements, self._settlements = self._settlements[:BATCH], self._settlements[BATCH:]
        reports, self._reports = self._reports[:BATCH], self._reports[BATCH:]
        locked = 0
        try:
            locked += await _in_parts(self._write_settlements, settlements)
            settlements = []
            locked += await _in_parts(self._write_reports, reports)
            reports = []
        finally:
            self._settlements += settlements
            self._reports += reports
            if self.is_pending:
                self._arrived.set()
        return LOCKED_PAUSE if locked else 0

    @property
    def is_pending(self) -> bool:
        return bool(self._settlements or self._reports)

    async def drain(self) -> None:
        """Write until nothing is left."""
        while self.is_pending:
            try:
                await asyncio.sleep(await self.flush())
            except Exception as exc:  # the caller bounds how long we try
                log.warning("results cannot be written yet", extra={"error": exc})
                await asyncio.sleep(PAUSE)

    async def _write_settlements(self, settlements: list[dict[str, Json]]) -> int:
        if not settlements:
            return 0
        refused = await self._database.settle(settlements)
        if not refused:
            return 0
        locked = [s for s in settlements if refused.get(s["task_id"]) == "LOCKED"]
        self._settlements += locked
        for task_id in (t for t, result in refused.items() if result == "STALE"):
            log.info("result came too late: task has moved on", extra={"task_id": task_id})
        return len(locked)

    async def _write_reports(self, reports: list[dict[str, Json]]) -> int:
        if not reports:
            return 0
        locked = 0
        for answer in await self._database.report(reports):  # the refused ones
            if answer.code == "LOCKED":
                self._reports.append(reports[answer.report_index])
                locked += 1
            elif answer.code == "PS422" and _DETAILS & reports[answer.report_index].keys():
                fields = {"task_id": answer.task_id, "error": answer.message}
                log.warning("result written without its details", extra=fields)
                report = reports[answer.report_index]
                self._reports.append({k: v for k, v in report.items() if k not in _DETAILS})
            else:
                fields = {"task_id": answer.task_id, "error": answer.message}
                log.info("result refused", extra=fields)
        return locked


async def _in_parts(write: Callable[[_Batch], Awaitable[int]], batch: _Batch) -> int:
    """Write *batch*; if something in it cannot be written, all the rest."""
    try:
        return await write(batch)
    except Unavailable:
        raise
    except Exception:
        if len(batch) == 1:  # its deadline takes the task back
            log.exception("task cannot be settled", extra={"task_id": batch[0]["task_id"]})
            return 0
    half = len(batch) // 2
    return await _in_parts(write, batch[:half]) + await _in_parts(write, batch[half:])


def _fields_of(task: ClaimedTask, outcome: Outcome) -> dict[str, object]:
    return {
        "task_id": task.id,
        "trace_id": task.trace_id,
        "definition": task.definition_name,
        "queue": task.queue,
        "attempt": task.attempt,
        "delivery": task.delivery_count,
        "outcome": outcome.verdict.value,
        "seconds": outcome.elapsed and outcome.elapsed.total_seconds(),
    }


def _settlement(task: ClaimedTask, verdict: str, outcome: Outcome | None = None) -> dict[str, Json]:
    settlement = {
        "task_id": task.id,
        "attempt": task.attempt,
        "delivery_count": task.delivery_count,
        "outcome": verdict,
    }
    if outcome is not None and verdict != Verdict.ACCEPTED:
        settlement["error_msg"] = outcome.reason
        if outcome.delay is not None:
            settlement["delay"] = f"{outcome.delay.total_seconds():f} seconds"
        if outcome.elapsed is not None:
            settlement["response_time"] = f"{outcome.elapsed.total_seconds():f} seconds"
    return settlement


def _report(task: ClaimedTask, outcome: Outcome) -> dict[str, Json]:
    is_success = outcome.verdict is Verdict.SUCCEEDED
    report = {
        "task_id": task.id,
        "attempt": task.attempt,
        "status": "SUCCESS" if is_success else "FAILED",
        "output_ref": outcome.output_ref,
        "error_msg": outcome.error_msg or (None if is_success else outcome.reason),
        "next_input": outcome.next_input,
        "stop_loop": outcome.stop_loop or None,
    }
    return {key: value for key, value in report.items() if value is not None}
