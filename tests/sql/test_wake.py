"""Waking the workers: who notifies, how rarely, and how long a worker may sleep."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from tests.sql.sched import HOUR, MINUTE, SECOND, Sched

# Turns the mark back, so that nobody seems to have notified just now.
FORGET = "select setval('pgsched.wake_mark', 1)"


class Ears:
    """A session that listens, and tells what it has heard until now."""

    def __init__(self, sched: Sched, speaker: Sched) -> None:
        self.conn, self.speaker = sched.conn, speaker
        self.conn.execute("listen pgsched; listen sentinel")
        self.forget()

    def forget(self) -> None:
        self.speaker.conn.execute(FORGET)
        self.heard()

    def heard(self) -> int:
        """How often the workers were notified, by all that has been committed."""
        self.speaker.conn.execute("notify sentinel")
        heard: list[object] = []
        for notice in self.conn.notifies(timeout=30):
            if notice.channel == "sentinel":
                return len(heard)
            assert notice.payload == ""
            heard.append(notice)
        raise AssertionError("the sentinel never came")


@pytest.fixture
def ears(sched: Sched, another: Sched) -> Ears:
    return Ears(another, sched)


@pytest.mark.parametrize("delay", [timedelta(), 30 * SECOND, 60 * SECOND])
def test_a_task_that_is_due_soon_wakes_the_workers(
    sched: Sched, ears: Ears, delay: timedelta
) -> None:
    sched.schedule(delay=delay)

    assert ears.heard() == 1


def test_a_task_that_is_due_later_wakes_nobody(sched: Sched, ears: Ears) -> None:
    sched.schedule(delay=61 * SECOND)

    assert ears.heard() == 0


def test_nobody_is_woken_before_the_commit_or_by_a_rollback(sched: Sched, ears: Ears) -> None:
    with sched.transaction():
        sched.schedule()

    assert ears.heard() == 0


def test_many_tasks_of_one_transaction_wake_once(sched: Sched, ears: Ears) -> None:
    with sched.conn.transaction():
        for _ in range(20):
            sched.schedule()

    assert ears.heard() == 1


THROTTLED = """
    do $$
    begin
      perform setval(
        'pgsched.wake_mark', (extract(epoch from clock_timestamp()) * 1000000)::bigint
      );
      perform pgsched.wake();
      perform set_config(
        'test.age',
        (extract(epoch from clock_timestamp()) * 1000000
          - pg_sequence_last_value('pgsched.wake_mark'))::text,
        false
      );
    end;
    $$
"""


def test_nobody_is_woken_again_within_ten_milliseconds(sched: Sched, ears: Ears) -> None:
    for _ in range(100):
        sched.conn.execute(THROTTLED)
        count = ears.heard()
        if float(sched.value("select current_setting('test.age')")) < 10_000:
            assert count == 0
            return
    pytest.fail("this machine never took less than 10 ms")


@pytest.mark.parametrize(
    "mark", ["clock_timestamp() - interval '11 ms'", "clock_timestamp() + interval '1 hour'"]
)
def test_a_mark_that_is_old_or_in_the_future_is_no_mark(
    sched: Sched, ears: Ears, mark: str
) -> None:
    sched.conn.execute(
        f"select setval('pgsched.wake_mark', (extract(epoch from {mark}) * 1000000)::bigint),"
        " pgsched.wake()".encode()
    )

    assert ears.heard() == 1


def test_after_a_crash_there_is_no_mark(sched: Sched, ears: Ears) -> None:
    """The sequence is unlogged: a crash resets it, and it has no last value."""
    sched.conn.execute("alter sequence pgsched.wake_mark restart")
    sched.conn.execute("select pgsched.wake()")

    assert ears.heard() == 1


def test_a_new_schedule_wakes_a_worker_to_compute_it(sched: Sched, ears: Ears) -> None:
    sched.call("schedule_cron", "job", "* * * * *")
    assert ears.heard() == 1

    ears.forget()
    sched.call("schedule_cron", "job", "5 * * * *")
    assert ears.heard() == 1


def settle_retry(sched: Sched) -> None:
    sched.settle(sched.claim_one(), "RETRY")


def cancelled(sched: Sched) -> str:
    (task,) = sched.tasks()
    sched.call("cancel_task", task.id)
    sched.conn.execute(FORGET)
    return str(task.id)


def let_it_hang(sched: Sched) -> None:
    sched.claim_one()
    sched.clock(HOUR)
    sched.call("expire_deadlines")


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda s: s.call("resume_queue", "default"), id="resume"),
        pytest.param(lambda s: s.settle(s.claim_one(), "RELEASED"), id="release"),
        pytest.param(lambda s: s.settle(s.claim_one(), "DEFERRED"), id="deferral"),
        pytest.param(settle_retry, id="retry"),
        pytest.param(let_it_hang, id="deadline"),
        pytest.param(lambda s: (s.claim_one(), s.goodbye()), id="goodbye"),
        pytest.param(lambda s: s.call("retry_task", cancelled(s)), id="operator's retry"),
        pytest.param(lambda s: s.run(), id="next round"),
    ],
)
def test_whatever_makes_a_task_due_wakes_the_workers(
    sched: Sched, ears: Ears, act: Callable[[Sched], object]
) -> None:
    sched.define(retry_delay=SECOND)
    sched.loop()
    ears.forget()

    act(sched)

    assert ears.heard() == 1


@pytest.mark.parametrize("outcome", ["RETRY", "DEFERRED"])
def test_what_comes_back_much_later_wakes_nobody(sched: Sched, ears: Ears, outcome: str) -> None:
    sched.call("define_external_system", "default", push_statuses=[])
    sched.define(retry_delay=HOUR)
    sched.schedule()
    claimed = sched.claim_one()
    ears.forget()

    sched.settle(claimed, outcome, delay="1 hour")

    assert ears.heard() == 0


def test_what_the_external_system_is_to_be_told_wakes_the_workers(sched: Sched, ears: Ears) -> None:
    sched.define(retry_delay=HOUR)
    sched.schedule()
    claimed = sched.claim_one()
    ears.forget()

    sched.settle(claimed, "RETRY")

    assert ears.heard() == 1


def test_an_enqueue_that_meets_its_key_wakes_nobody(sched: Sched, ears: Ears) -> None:
    sched.schedule(idempotency_key="k")
    ears.forget()
    sched.schedule(idempotency_key="k")

    assert ears.heard() == 0


# How long to sleep


def next_due_in(sched: Sched, *queues: str) -> timedelta | None:
    found: timedelta | None = sched.call("next_due_in", list(queues) or None)
    return found


def test_nothing_is_planned(sched: Sched) -> None:
    assert next_due_in(sched) is None


def test_the_next_task_of_any_priority_is_the_next(sched: Sched) -> None:
    for minutes, priority in [(3, 9), (1, -9), (2, 0)]:
        sched.schedule(delay=minutes * MINUTE, priority=priority)

    assert next_due_in(sched) == MINUTE
    sched.clock(30 * SECOND)
    assert next_due_in(sched) == 30 * SECOND


def test_a_due_task_that_cannot_be_claimed_does_not_make_a_worker_spin(sched: Sched) -> None:
    sched.schedule()
    assert next_due_in(sched) is None

    sched.schedule(delay=MINUTE)
    assert next_due_in(sched) == MINUTE


def test_only_the_queues_that_may_be_claimed_are_looked_at(sched: Sched) -> None:
    for n, name in enumerate("abc", start=1):
        sched.call("define_queue", name)
        sched.schedule(delay=n * MINUTE, queue=name)

    assert next_due_in(sched, "b", "c") == 2 * MINUTE
    sched.call("pause_queue", "b")
    assert next_due_in(sched, "b", "c") == 3 * MINUTE
    assert next_due_in(sched, "nowhere") is None


def test_what_was_claimed_is_not_waited_for(sched: Sched) -> None:
    sched.schedule()
    sched.settle(sched.claim_one())

    assert next_due_in(sched) is None


def test_the_next_schedule_is_waited_for(sched: Sched) -> None:
    schedule_id = sched.call("schedule_cron", "job", "* * * * *")
    assert next_due_in(sched) is None  # its insert has notified

    sched.fire(schedule_id, None, sched.now + 5 * MINUTE)
    sched.schedule(delay=10 * MINUTE)
    assert next_due_in(sched) == 5 * MINUTE

    sched.conn.execute("update pgsched.schedules set is_active = false")
    assert next_due_in(sched) == 10 * MINUTE


def test_the_mark_is_seen_at_once_though_its_transaction_is_open(
    sched: Sched, another: Sched
) -> None:
    """Or a hundred sessions would each notify before the first has committed."""
    sched.conn.execute(FORGET)
    with sched.transaction():
        sched.conn.execute("select pgsched.wake()")
        assert another.value("select pg_sequence_last_value('pgsched.wake_mark')") > 1
