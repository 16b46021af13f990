"""How many are worth having at hand."""

from __future__ import annotations

import pytest

from pgsched.pace import MOMENT, Pace


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> Pace:
    return Pace(clock)


def test_before_anything_is_done_nothing_is(pace: Pace, clock: Clock) -> None:
    assert pace.in_a_moment == 0

    clock.now += 60

    assert pace.in_a_moment == 0


def test_a_moment_is_what_the_last_one_was(pace: Pace, clock: Clock) -> None:
    pace.note(300)
    pace.note(50)
    clock.now += MOMENT

    assert pace.in_a_moment == 350


def test_within_a_moment_nothing_changes(pace: Pace, clock: Clock) -> None:
    pace.note(300)
    clock.now += MOMENT
    assert pace.in_a_moment == 300
    pace.note(900)
    clock.now += MOMENT / 2

    assert pace.in_a_moment == 300


def test_a_longer_look_is_scaled_to_a_moment(pace: Pace, clock: Clock) -> None:
    pace.note(1000)
    clock.now += 10 * MOMENT

    assert pace.in_a_moment == 100


def test_what_stands_still_is_noticed_at_the_next_look(pace: Pace, clock: Clock) -> None:
    pace.note(300)
    clock.now += MOMENT
    assert pace.in_a_moment == 300
    clock.now += MOMENT

    assert pace.in_a_moment == 0
