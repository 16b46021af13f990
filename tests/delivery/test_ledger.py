"""
Every task ends as the contract says, whatever the receiver answers.

It answers at random: 200, 202, 409, 429, 500, 503, a result, a reset, half an
answer, none, or a late one; and reports what it has taken on time, late, twice,
with the wrong attempt, or never.  Meanwhile one of two workers is killed, and
the other one sleeps for longer than its lease, and goes on; with more tasks than
TASKS all connections to the database break as well.  Then what became of each
task is held against what the receiver has written down.  (Only when they are due
is not as it would be: the last ones are hurried.)

PGSCHED_TEST_DELIVERY_TASKS says how many tasks, by default TASKS; `make
delivery` runs 20,000.  The answers come from PGSCHED_TEST_DELIVERY_SEED.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.asked import asked, default
from tests.delivery.checker import spared, unheard, violations
from tests.delivery.evidence import Case, Reply
from tests.delivery.hostile import Habits
from tests.delivery.world import world

TASKS = default("PGSCHED_TEST_DELIVERY_TASKS")
ASKED = asked("PGSCHED_TEST_DELIVERY_TASKS")
BURST = ASKED // 4
SEED = asked("PGSCHED_TEST_DELIVERY_SEED")
BATCH_SIZE = 20
# Of the answers, so many may have come when their worker had just given up waiting.
UNHEARD = 0.1
# A breaker opens seldom, if at all, and a probe of it may fail.
PROBES = 5
# What a worker holds: for each of its slots as much as it pushes at a time and as
# much again, up to 2000, and what it was just claiming.
HELD = {1: 2 * 64 + 100, BATCH_SIZE: 2000 + 100}


# All four where there is time, as in `make delivery`.
WAYS = [("callback", 1), ("response", BATCH_SIZE)]
if ASKED > TASKS:
    WAYS += [("callback", BATCH_SIZE), ("response", 1)]


@pytest.mark.timeout(120 + ASKED // 20)
@pytest.mark.parametrize(("completion", "batch_size"), WAYS)
def test_every_task_ends_as_the_contract_says(
    postgresql: psycopg.Connection[Any],
    dsn: str,
    tmp_path: Path,
    completion: str,
    batch_size: int,
) -> None:
    # All slots at once push so much in batches that the receiver takes its time.
    timeout = 0.5 if batch_size == 1 else 2.0
    habits = Habits("", SEED, completion, request_timeout=timeout, silence=2.0)
    began = time.monotonic()
    with world(postgresql, dsn, tmp_path, habits, batch_size=batch_size) as it:
        it.schedule(ASKED - 2 * BURST)
        victim, sleeper = it.start_worker(), it.start_worker()
        it.wait_until_unfinished(ASKED // 4, 30 + ASKED / 50)
        it.stop_with_full_hands(victim, BURST)
        victim.kill()
        it.stop_with_full_hands(sleeper, BURST)
        it.start_worker()
        it.wake_without_its_tasks(sleeper)
        if ASKED > TASKS:
            it.wait_until_unfinished(ASKED // 5, 30 + ASKED / 50)
            it.break_connections()
        it.wait_until_unfinished(0, 90 + ASKED / 50)
        ended = time.monotonic()
        it.wait_for_the_executor()
        cases = it.cases()
    found = list(violations(it.terms, cases))

    print(f"{completion}, {batch_size} a push: {ended - began:.1f} s; {summary(cases)}")
    assert len(cases) == len(it.tasks) >= ASKED
    if found:
        pytest.fail("\n".join([f"{len(found)} complaints", *found[:20], *stories(cases, found)]))
    # What is excused must be little, or it is nothing that is proved.
    assert sum(len(unheard(case)) for case in cases) < UNHEARD * len(it.ledger["deliveries"])
    assert sum(len(spared(it.terms, case)) for case in cases) <= PROBES
    assert count_events(cases)["LOST"] <= 2 * HELD[batch_size]
    assert missing(cases, batch_size) == set()


def summary(cases: Sequence[Case]) -> str:
    """What happened, in numbers."""
    replies = Counter(d.reply for case in cases for d in case.deliveries)
    reports = Counter(f"{r.status} {r.code}" for case in cases for r in case.reports)
    events = count_events(cases)
    statuses = Counter(case.task.status for case in cases if case.tasks)
    not_heard = sum(len(unheard(case)) for case in cases)
    told = (statuses, replies, reports, events)
    return f"{[dict(sorted(one.items())) for one in told]}, {not_heard} unheard"


def stories(cases: Sequence[Case], found: Sequence[str]) -> Iterator[str]:
    """All that is known of the first tasks with which something is wrong."""
    about = [case for case in cases if any(case.task_id in text for text in found)]
    for case in about[:3]:
        yield f"task {case.task_id}"
        pieces = (case.tasks, case.claims, case.deliveries, case.reports, case.events, case.ends)
        yield from (f"  {piece}" for several in pieces for piece in several)


def count_events(cases: Sequence[Case]) -> Counter[str]:
    return Counter(event.event for case in cases for event in case.events)


def missing(cases: Sequence[Case], batch_size: int) -> set[str]:
    """What should have happened, or nothing was tested."""
    happened = {d.reply for case in cases for d in case.deliveries}
    happened |= {f"{r.status} {r.code}" for case in cases for r in case.reports}
    happened |= {event.event for case in cases for event in case.events}
    happened |= {case.task.status for case in cases}
    expected = {str(reply) for reply in Reply} | {
        *("SUCCESS 200", "SUCCESS 409", "SUCCESS 422", "FAILED 200", "FAILED 409", "RUNNING 200"),
        *("SUCCESS", "FAILED", "RETRY", "DEFERRED", "LOST", "REPORT_REFUSED"),
    }
    if batch_size == 1:
        expected -= {Reply.UNSAID}
    elif ASKED <= TASKS:  # too few requests to meet what is rare
        expected -= {Reply.HALF, Reply.LATE}
    return expected - happened
