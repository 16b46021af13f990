"""The clock of the database in a process that asks for it now and then."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pgsched.clock import Clock

THERE = datetime(2026, 3, 2, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def test_it_goes_on_from_what_it_was_told_last() -> None:
    elapsed = 100.0
    clock = Clock(lambda: elapsed)
    clock.set(THERE)
    elapsed += 5

    assert clock.now() == THERE + 5 * SECOND

    clock.set(THERE)
    elapsed += 1
    assert clock.now() == THERE + SECOND


def test_until_then_it_is_that_of_this_machine() -> None:
    assert abs(Clock().now() - datetime.now(UTC)) < SECOND
