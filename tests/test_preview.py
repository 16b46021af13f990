"""preview(): the next runs of a schedule, and what the change of clocks does to them."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest

from pgsched.cron import CronGenerator
from pgsched.errors import Invalid
from pgsched.expression import read
from pgsched.preview import Run, preview, preview_every
from pgsched.zones import zone as zone_of
from tests.expressions import some_expression

PARIS = "Europe/Paris"
APIA = "Pacific/Apia"
LORD_HOWE = "Australia/Lord_Howe"
HOUR = timedelta(hours=1)
FORWARD = "the clocks go from 02:00 to 03:00"


def at(text: str, zone: str = "UTC") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone_of(zone))


def said(runs: list[Run]) -> list[tuple[str, str | None]]:
    return [(run.local.strftime("%d %H:%M%z"), run.note) for run in runs]


# Cron


def test_it_lists_the_next_runs_in_utc_and_in_the_zone() -> None:
    runs = preview("0 9 * * 1-5", PARIS, 3, datetime(2026, 5, 1, 12, tzinfo=UTC))

    assert [run.at for run in runs] == [datetime(2026, 5, day, 7, tzinfo=UTC) for day in (4, 5, 6)]
    assert [run.local.isoformat() for run in runs] == [
        f"2026-05-0{day}T09:00:00+02:00" for day in (4, 5, 6)
    ]
    assert [run.note for run in runs] == [None] * 3
    assert all(run.at.tzinfo is UTC and run.local.tzinfo is zone_of(PARIS) for run in runs)


def test_it_begins_now_and_lists_five() -> None:
    before = datetime.now(UTC)
    runs = preview("* * * * *")

    assert before < runs[0].at <= datetime.now(UTC) + timedelta(minutes=1)
    assert len(runs) == 5
    assert runs[0].local == runs[0].at


def test_the_end_of_time_cuts_it_short() -> None:
    runs = preview("0 0 1 1 *", count=1000, after=at("9998-06-01"))
    assert [run.at.year for run in runs] == [9999]


def test_the_last_run_of_all_has_its_note_too() -> None:
    (run,) = preview("30 2 28 3 *", PARIS, 5, at("9998-06-01"))  # a Sunday in 9999
    assert run.note == f"02:30 does not exist that day: {FORWARD}; runs right after"


# Notes on fixed times


def test_a_time_that_is_skipped() -> None:
    assert said(preview("30 2 * * *", PARIS, 2, at("2026-03-28T12:00", PARIS))) == [
        ("29 03:00+0200", f"02:30 does not exist that day: {FORWARD}; runs right after"),
        ("30 02:30+0200", None),
    ]


@pytest.mark.parametrize(
    ("minutes", "times"), [("0,30", "02:00 and 02:30"), ("5-59", "02:05, 02:06 …")]
)
def test_several_times_that_are_skipped_together(minutes: str, times: str) -> None:
    (run,) = preview(f"{minutes} 2 * * *", PARIS, 1, at("2026-03-28T12:00", PARIS))
    assert run.note == f"{times} do not exist that day: {FORWARD}; runs once, right after"


def test_the_end_of_a_gap_as_such_is_no_news() -> None:
    assert said(preview("0 3 * * *", PARIS, 1, at("2026-03-28T12:00", PARIS))) == [
        ("29 03:00+0200", None)
    ]


def test_a_time_that_is_skipped_with_its_whole_day() -> None:
    skipped = "the clocks go from 2011-12-30 00:00 to 2011-12-31 00:00"
    assert said(preview("0 12 * * *", APIA, 3, at("2011-12-29T11:00", APIA))) == [
        ("29 12:00-1000", None),
        ("31 00:00+1400", f"2011-12-30 12:00 does not exist: {skipped}; runs right after"),
        ("31 12:00+1400", None),
    ]


def test_a_time_that_comes_twice() -> None:
    assert said(preview("30 2 * * *", PARIS, 2, at("2026-10-24T12:00", PARIS))) == [
        ("25 02:30+0200", "02:30 comes twice that day: runs the first time only"),
        ("26 02:30+0100", None),
    ]


def test_seconds_are_told_where_there_are_any() -> None:
    (run,) = preview("15 30 2 * * *", PARIS, 1, at("2026-10-24T12:00", PARIS))
    assert run.note == "02:30:15 comes twice that day: runs the first time only"


# Notes on wildcards


def test_a_repeated_hour() -> None:
    assert said(preview("*/30 * * * *", PARIS, 5, at("2026-10-25T01:45", PARIS))) == [
        ("25 02:00+0200", None),
        ("25 02:30+0200", None),
        ("25 02:00+0100", "the clocks went back from 03:00 to 02:00: 02:00 a second time"),
        ("25 02:30+0100", "the clocks went back from 03:00 to 02:00: 02:30 a second time"),
        ("25 03:00+0100", None),
    ]


def test_a_skipped_hour() -> None:
    assert said(preview("*/30 * * * *", PARIS, 3, at("2026-03-29T01:15", PARIS))) == [
        ("29 01:30+0100", None),
        (
            "29 03:00+0200",
            "the clocks went forward from 02:00 to 03:00: nothing runs in between",
        ),
        ("29 03:30+0200", None),
    ]


def test_a_skipped_hour_on_a_day_without_another_run() -> None:
    skipped = "from 2026-03-29 02:00 to 2026-03-29 03:00"
    assert said(preview("*/30 2 * * *", PARIS, 2, at("2026-03-28T02:15", PARIS))) == [
        ("28 02:30+0100", None),
        ("30 02:00+0200", f"the clocks went forward {skipped}: nothing runs in between"),
    ]


def test_half_an_hour() -> None:
    assert said(preview("*/20 * * * *", LORD_HOWE, 2, at("2026-10-04T01:40", LORD_HOWE))) == [
        (
            "04 02:40+1100",
            "the clocks went forward from 02:00 to 02:30: nothing runs in between",
        ),
        ("04 03:00+1100", None),
    ]


@pytest.mark.parametrize("expr", ["*/5 9-17 * * *", "0 8 * * *", "0 */4 * * 1"])
def test_what_runs_at_other_hours_has_no_notes(expr: str) -> None:
    runs = preview(expr, PARIS, 1000, at("2026-02-01", PARIS))
    assert {run.note for run in runs} == {None}


@pytest.mark.parametrize("zone", [PARIS, LORD_HOWE, "America/Santiago", "Antarctica/Troll", "UTC"])
def test_runs_are_those_of_the_generator_and_notes_are_where_clocks_differ(zone: str) -> None:
    rng = random.Random(zone)
    for _ in range(150):
        expr = some_expression(rng).ours
        if not CronGenerator.is_valid_cron(expr):
            continue
        base = datetime(2026, rng.randint(1, 12), rng.randint(1, 28), tzinfo=UTC)
        expression = read(expr)
        for run in preview(expr, zone, 20, base):
            assert run.at == CronGenerator.get_next_run_time(expr, base, zone)
            assert run.local.astimezone(UTC) == run.at
            before = base.astimezone(zone_of(zone))
            # By wall clocks alone it would have run at this time, and at no other.
            if run.note is None and not before.fold:
                assert naive(run.local) == expression.after(naive(before))
            base = run.at


def naive(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None)


# Elapsed time


def test_every_counts_elapsed_time_from_its_anchor() -> None:
    anchor = at("2026-03-01T09:00", PARIS)
    runs = preview_every(24 * HOUR, anchor, PARIS, 3, at("2026-03-28T00:00", PARIS))

    assert said(runs) == [
        ("28 09:00+0100", None),
        ("29 10:00+0200", "the clocks went forward: 10:00 instead of 09:00"),
        ("30 10:00+0200", None),
    ]
    assert {b.at - a.at for a, b in pairwise(runs)} == {24 * HOUR}


def test_every_when_the_clocks_go_back() -> None:
    anchor = at("2026-03-01T00:00")
    assert said(preview_every(HOUR, anchor, PARIS, 3, at("2026-10-25T00:30", PARIS))) == [
        ("25 01:00+0200", None),
        ("25 02:00+0200", None),
        ("25 02:00+0100", "the clocks went back: 02:00 instead of 03:00"),
    ]


def test_every_begins_with_its_anchor() -> None:
    anchor = at("2030-01-01T00:00")
    runs = preview_every(HOUR, anchor, count=2, after=at("2026-01-01T00:00"))
    assert [run.at for run in runs] == [anchor, anchor + HOUR]


# What is refused


@pytest.mark.parametrize("count", [0, -1, 1001, True, 5.0, "5", None])
def test_a_count_out_of_range(count: Any) -> None:
    with pytest.raises(Invalid, match=r"count .* must be a number from 1 to 1000"):
        preview("* * * * *", count=count)
    with pytest.raises(Invalid, match=r"count .* must be a number from 1 to 1000"):
        preview_every(HOUR, at("2026-01-01"), count=count)


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (datetime(2026, 1, 1), "has no time zone"),  # noqa: DTZ001
        (datetime(1969, 12, 31, tzinfo=UTC), "must be between 1970 and 9998"),
        (datetime(9999, 1, 1, tzinfo=UTC), "must be between 1970 and 9998"),
        (datetime.min.replace(tzinfo=timezone(HOUR)), "must be between 1970 and 9998"),
    ],
)
def test_a_time_that_is_no_good(after: datetime, why: str) -> None:
    with pytest.raises(Invalid, match=f"after .* {why}"):
        preview("* * * * *", after=after)
    with pytest.raises(Invalid, match=f"after .* {why}"):
        preview_every(HOUR, at("2026-01-01"), after=after)
    with pytest.raises(Invalid, match=f"anchor .* {why}"):
        preview_every(HOUR, after)


@pytest.mark.parametrize(
    "every", [timedelta(0), -HOUR, timedelta(milliseconds=999), timedelta(days=366, seconds=1)]
)
def test_an_interval_out_of_range(every: timedelta) -> None:
    with pytest.raises(Invalid, match=r"every .* must be between 1 second and 366 days"):
        preview_every(every, at("2026-01-01"))


def test_an_expression_or_a_zone_that_is_no_good() -> None:
    with pytest.raises(Invalid, match="cron_expr '61"):
        preview("61 * * * *")
    with pytest.raises(Invalid, match="timezone 'Paris'"):
        preview("1 * * * *", "Paris")
    with pytest.raises(Invalid, match="timezone 'Paris'"):
        preview_every(HOUR, at("2026-01-01"), "Paris")
    with pytest.raises(Invalid, match="never happens in America/New_York"):
        preview("*/30 2 8-14 3 */7", "America/New_York")
