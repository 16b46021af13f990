"""What a sweep says about the queues it did not come to."""

from __future__ import annotations

from datetime import timedelta

from pgsched.cursors import Cursors
from tests.claimed import AT, claimed

QUEUES = ["a", "b", "c"]
LATER = AT + timedelta(hours=1)


def cursors_behind_everything() -> Cursors:
    cursors = Cursors()
    cursors.advance(QUEUES, 10, LATER, [], epoch=0)
    assert set(cursors.of(QUEUES)) == {"a", "b", "c"}
    return cursors


def test_after_a_full_sweep_that_found_late_ones_the_queues_behind_are_looked_at_anew() -> None:
    cursors = cursors_behind_everything()
    late = [claimed(n)._replace(queue="a", execute_after=AT) for n in range(1, 3)]

    cursors.sweep(QUEUES, 2, LATER, late, since=cursors.of(QUEUES))

    assert set(cursors.of(QUEUES)) == {"a"}


def test_a_full_sweep_that_found_none_that_are_late_says_nothing_of_other_queues() -> None:
    cursors = cursors_behind_everything()
    new = [
        claimed(n)._replace(queue="a", execute_after=LATER + timedelta(seconds=n))
        for n in range(1, 3)
    ]

    cursors.sweep(QUEUES, 2, LATER + timedelta(hours=1), new, since=cursors.of(QUEUES))

    assert set(cursors.of(QUEUES)) == {"a", "b", "c"}


def test_what_a_claim_went_past_while_the_sweep_had_it_was_not_late() -> None:
    cursors = Cursors()
    since = cursors.of(QUEUES)
    mine = [claimed(n)._replace(queue="a", execute_after=AT) for n in range(1, 3)]
    cursors.advance(QUEUES, 10, LATER, [], epoch=0)

    cursors.sweep(QUEUES, 2, LATER, mine, since=since)

    assert set(cursors.of(QUEUES)) == {"a", "b", "c"}


def test_a_sweep_with_room_left_has_seen_all() -> None:
    cursors = cursors_behind_everything()
    late = [claimed(1)._replace(queue="a", execute_after=AT)]

    cursors.sweep(QUEUES, 2, LATER, late, since=cursors.of(QUEUES))

    assert set(cursors.of(QUEUES)) == {"a", "b", "c"}
