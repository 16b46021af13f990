"""The checker finds what a mistake in the database does to the tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.delivery.checker import CLAUSES
from tests.delivery.hostile import Habits
from tests.delivery.world import World, world
from tests.waiting import eventually

TASKS = 400

SOURCE = """
    select pg_get_functiondef(p.oid)
    from pg_proc as p
    where p.pronamespace = 'pgsched'::regnamespace and p.proname = %s
"""
# The function, what is replaced in it, by what, and what is wrong then.
SABOTAGE = {
    "the success of a silent attempt is refused": (
        ("judge_report", "report).attempt >= p_lapsed_attempt", "report).attempt < 0"),
        "which was not over",
    ),
    "the success of a failed attempt is taken": (
        ("judge_report", "report).attempt >= p_lapsed_attempt", "report).attempt > 0"),
        "which does not count",
    ),
    "a success is acknowledged and forgotten": (
        ("apply_reports", "perform pgsched.finish_tasks(v_ends, v_now);", ""),
        "took SUCCESS of attempt",
    ),
    "a failed attempt is tried again as the same": (
        ("fail_attempts", "t.attempt + f.new_attempt::integer", "t.attempt"),
        "which is claimed again",
    ),
    "an attempt that may be under way is begun anew": (
        ("fail_attempts", "t.attempt + f.new_attempt::integer", "t.attempt + 1"),
        "executions were begun",
    ),
    "a deferral begins a new attempt": (
        ("return_tasks", "'PENDING',", "'PENDING', attempt = t.attempt + 1,"),
        "executions were begun",
    ),
    "a retry is not counted": (
        ("fail_attempts", "t.retry_count + 1", "t.retry_count"),
        "and its events say",
    ),
    "deadlines pass too early": (
        ("accept_tasks", "p_now + d.timeout", "p_now + d.timeout / 10"),
        "was not silent for so long",
    ),
}


def found(it: World) -> list[str]:
    """What is wrong so far, with tasks that may be unfinished."""
    it.read_ledger()
    cases = [case for case in it.cases() if case.tasks and case.ends]
    return [text for case in cases for clause in CLAUSES for text in clause(it.terms, case)]


@pytest.mark.parametrize("name", SABOTAGE)
def test_a_mistake_is_found(
    postgresql: psycopg.Connection[Any], dsn: str, tmp_path: Path, name: str
) -> None:
    (function, text, by), wrong = SABOTAGE[name]
    habits = Habits("", 1, "callback", request_timeout=0.5, silence=1.0)
    with world(postgresql, dsn, tmp_path, habits) as it:
        [(source,)] = postgresql.execute(SOURCE, [function]).fetchall()
        assert text in source, source
        postgresql.execute(source.replace(text, by).encode())
        it.schedule(TASKS)
        it.start_worker()

        eventually(lambda: any(wrong in one for one in found(it)), timeout=40)
