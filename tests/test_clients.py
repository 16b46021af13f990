"""A Python function in place of an external system, by itself and in a whole worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgsched.answers import Reply, Verdict, outcome_of
from pgsched.clients import Handler, HandlerClient
from pgsched.configuration import load_settings
from pgsched.models import Completion, ExternalSystem
from pgsched.worker import Worker
from tests.claimed import claimed
from tests.executing import task_row
from tests.roles import as_role
from tests.waiting import until

SYSTEM = ExternalSystem("s", "this process", None, Completion.RESPONSE, timedelta(seconds=0.05))


async def outcome(handler: Any) -> Any:
    answer = await HandlerClient(handler).push_task_status(SYSTEM, claimed(7))
    return outcome_of(answer, SYSTEM.completion, 0)


async def test_the_handler_is_given_the_body_of_a_push() -> None:
    given: list[dict[str, Any]] = []

    async def handler(push: dict[str, Any]) -> None:
        given.append(push)

    assert (await outcome(handler)).verdict is Verdict.SUCCEEDED
    (push,) = given
    assert push["task_id"] == claimed(7).id
    assert push["idempotency_key"] == f"{claimed(7).id}:1"
    assert push["metadata"]["content"] == {"kind": "mail"}


async def test_what_it_returns_is_what_a_body_says() -> None:
    async def handler(push: dict[str, Any]) -> dict[str, Any]:
        return {"output_ref": "a\0b", "next_input": {"n": 1}, "stop_loop": True}

    found = await outcome(handler)

    assert found.verdict is Verdict.SUCCEEDED
    assert (found.output_ref, found.next_input, found.stop_loop) == ("ab", {"n": 1}, True)


async def test_it_may_say_that_it_failed() -> None:
    async def handler(push: dict[str, Any]) -> dict[str, Any]:
        return {"status": "FAILED", "error_msg": "no such address"}

    found = await outcome(handler)

    assert (found.verdict, found.error_msg) == (Verdict.FAILED, "no such address")


async def test_raising_is_failing_and_says_what_was_raised() -> None:
    async def handler(push: dict[str, Any]) -> None:
        raise LookupError("no such address")

    found = await outcome(handler)

    assert (found.verdict, found.error_msg) == (Verdict.FAILED, "LookupError: no such address")


async def test_its_own_timeout_is_a_failure_like_any_other() -> None:
    async def handler(push: dict[str, Any]) -> None:
        raise TimeoutError("of a library")

    assert (await outcome(handler)).verdict is Verdict.FAILED


async def test_one_that_takes_too_long_is_cancelled_and_ends_unanswered() -> None:
    was_cancelled = asyncio.Event()

    async def handler(push: dict[str, Any]) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            was_cancelled.set()
            raise

    answer = await HandlerClient(handler).push_task_status(SYSTEM, claimed())

    assert answer.reply is Reply.TIMED_OUT
    assert was_cancelled.is_set()


async def work(dsn: str, handler: Handler, is_over: Callable[[], bool]) -> None:
    """Have a worker call *handler* until it is over."""
    stop = asyncio.Event()
    settings = load_settings(database_url=as_role(dsn, "worker"))
    worker = asyncio.create_task(Worker(settings, handler).run(stop))
    await until(is_over)
    stop.set()
    await worker


@pytest.mark.parametrize("count", [300])
async def test_a_worker_with_a_handler_needs_no_external_system(dsn: str, count: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("select pgsched.define_task('job', p_retry_delay => '0')")
        query = "select pgsched.schedule_immediate('job', jsonb_build_object('n', n))::text"
        rows = conn.execute(f"{query} from generate_series(1, %s) as n", [count]).fetchall()
    seen: list[int] = []

    async def handler(push: dict[str, Any]) -> dict[str, Any]:
        n = push["metadata"]["input_params"]["n"]
        seen.append(n)
        if n == 1 and push["attempt"] == 1:
            raise RuntimeError("only once")
        return {"output_ref": f"ref-{n}"}

    await work(dsn, handler, lambda: len(seen) == count + 1)

    first = task_row(dsn, rows[0][0])
    assert (first["status"], first["retry_count"], first["output_ref"]) == ("SUCCESS", 1, "ref-1")
    with psycopg.connect(dsn) as conn:
        row = conn.execute(
            "select count(*), min(status), max(status) from pgsched.tasks"
        ).fetchone()
    assert row == (count, "SUCCESS", "SUCCESS")
    assert sorted(seen) == [1, *range(1, count + 1)]


async def test_a_handler_may_give_the_next_round_whatever_json_can_hold(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("select pgsched.define_task('job')")
        conn.execute("select pgsched.schedule_loop('job', p_max_rounds => 2)")
    seen: list[dict[str, Any]] = []

    async def handler(push: dict[str, Any]) -> dict[str, Any]:
        seen.append(push["metadata"]["input_params"])
        return {"next_input": {1: 2**70}}  # neither of which orjson writes

    await work(dsn, handler, lambda: len(seen) == 2)

    assert list(seen[1]) == ["1"]
