"""uuid7(): the version and the variant, the time in front, and chance behind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tests.sql.sched import SECOND, Sched

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
COUNT = 100_000


def made(sched: Sched, count: int) -> list[UUID]:
    return [
        row.id
        for row in sched.rows("select pgsched.uuid7() as id from generate_series(1, %s)", count)
    ]


def time_of(new: UUID) -> datetime:
    return EPOCH + (new.int >> 80) * MILLISECOND


def test_the_version_is_7_and_the_variant_that_of_the_rfc(sched: Sched) -> None:
    ids = made(sched, 1000)

    assert {new.version for new in ids} == {7}
    assert {new.variant for new in ids} == {"specified in RFC 4122"}


@pytest.mark.parametrize(
    "at",
    [
        EPOCH,
        datetime(2026, 3, 2, 12, 0, 0, 123_000, tzinfo=UTC),
        datetime(2026, 3, 2, 12, 0, 0, 123_999, tzinfo=UTC),
        datetime(2037, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(9999, 1, 1, tzinfo=UTC),
    ],
)
def test_the_time_is_that_of_the_clock_down_to_the_millisecond(sched: Sched, at: datetime) -> None:
    sched.clock(at)

    (of_the_clock,) = made(sched, 1)
    given = sched.value("select pgsched.uuid7(%s)", at)

    assert (
        time_of(of_the_clock) == time_of(given) == at - at.microsecond % 1000 * MILLISECOND / 1000
    )


def test_each_millisecond_of_a_second_is_met(sched: Sched) -> None:
    query = """
        select pgsched.uuid7(pgsched.now() + n * interval '1 millisecond') as id
        from generate_series(0, 999) as n
    """
    times = [time_of(row.id) for row in sched.rows(query)]

    assert times == [sched.now + n * MILLISECOND for n in range(1000)]


def test_they_sort_by_the_time_they_were_made(sched: Sched) -> None:
    ids = []
    for _ in range(20):
        ids += made(sched, 1)
        sched.clock(MILLISECOND)

    assert ids == sorted(ids)
    sched.clock(-SECOND)
    assert made(sched, 1)[0] < ids[0]


def test_all_else_is_chance(sched: Sched) -> None:
    """74 bits of it, of which each is set in about half of the ids."""
    tails = [new.int & ~(0xF << 76 | 0b11 << 62) & (1 << 80) - 1 for new in made(sched, COUNT)]

    assert len(set(tails)) == COUNT
    share = [sum(tail >> bit & 1 for tail in tails) / COUNT for bit in range(80)]
    fixed = [bit for bit in range(80) if share[bit] == 0]
    assert fixed == [62, 63, 76, 77, 78, 79]
    assert all(0.48 < share[bit] < 0.52 for bit in range(80) if bit not in fixed)
