"""CronGenerator: which instants an expression means, also when the clocks change."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pgsched.cron import CronGenerator, validate_cron
from pgsched.errors import Invalid
from pgsched.zones import zone as zone_of

if TYPE_CHECKING:
    from collections.abc import Iterator

NEW_YORK = "America/New_York"
HOUR = timedelta(hours=1)


def runs(expr: str, after: str, zone: str = "UTC") -> Iterator[str]:
    """The runs after a wall clock of *zone*, as wall clocks with their offset."""
    at = datetime.fromisoformat(after)
    at = at if at.tzinfo else at.replace(tzinfo=zone_of(zone))
    while True:
        at = CronGenerator.get_next_run_time(expr, at, zone)
        yield at.astimezone(zone_of(zone)).isoformat()


def first(count: int, expr: str, after: str, zone: str = "UTC") -> list[str]:
    return list(islice(runs(expr, after, zone), count))


# When the clocks change


def test_a_fixed_time_in_the_spring_gap_runs_once_right_after_the_gap() -> None:
    assert first(3, "30 2 * * *", "2026-03-07T12:00", NEW_YORK) == [
        "2026-03-08T03:00:00-04:00",
        "2026-03-09T02:30:00-04:00",
        "2026-03-10T02:30:00-04:00",
    ]


def test_fixed_times_that_the_gap_moves_together_run_once() -> None:
    assert first(2, "0,20,40 2-3 8 3 *", "2026-03-07T12:00", NEW_YORK) == [
        "2026-03-08T03:00:00-04:00",
        "2026-03-08T03:20:00-04:00",
    ]


def test_a_fixed_time_in_the_autumn_overlap_runs_the_first_time_only() -> None:
    assert first(2, "30 1 * * *", "2026-10-31T12:00", NEW_YORK) == [
        "2026-11-01T01:30:00-04:00",
        "2026-11-02T01:30:00-05:00",
    ]


def test_a_fixed_time_is_not_repeated_when_asked_from_within_the_second_hour() -> None:
    assert first(1, "30 1 * * *", "2026-11-01T01:10-05:00", NEW_YORK) == [
        "2026-11-02T01:30:00-05:00"
    ]


def test_half_hours_follow_elapsed_time_through_the_overlap() -> None:
    assert first(5, "*/30 * * * *", "2026-11-01T00:45", NEW_YORK) == [
        "2026-11-01T01:00:00-04:00",
        "2026-11-01T01:30:00-04:00",
        "2026-11-01T01:00:00-05:00",
        "2026-11-01T01:30:00-05:00",
        "2026-11-01T02:00:00-05:00",
    ]


def test_half_hours_follow_elapsed_time_over_the_gap() -> None:
    assert first(2, "*/30 * * * *", "2026-03-08T01:30", NEW_YORK) == [
        "2026-03-08T03:00:00-04:00",
        "2026-03-08T03:30:00-04:00",
    ]


def test_a_wildcard_within_the_gap_does_not_run_that_day() -> None:
    assert first(1, "*/30 2 * * *", "2026-03-08T00:00", NEW_YORK) == ["2026-03-09T02:00:00-04:00"]


def test_the_repeated_hour_is_not_forgotten_when_the_next_date_is_a_year_off() -> None:
    assert first(2, "*/50 1 1 11 *", "2026-11-01T01:50-04:00", NEW_YORK) == [
        "2026-11-01T01:00:00-05:00",
        "2026-11-01T01:50:00-05:00",
    ]


def test_the_overlap_of_another_year_starts_with_its_first_hour() -> None:
    assert first(1, "*/30 1 1-7 11 */7", "2026-11-01T01:30-05:00", NEW_YORK) == [
        "2027-11-07T01:00:00-04:00"
    ]


def test_a_gap_of_half_an_hour() -> None:
    lord_howe = "Australia/Lord_Howe"
    assert first(1, "10 2 * * *", "2026-10-04T00:00", lord_howe) == ["2026-10-04T02:30:00+11:00"]
    assert first(2, "*/20 * * * *", "2026-10-04T01:40", lord_howe) == [
        "2026-10-04T02:40:00+11:00",
        "2026-10-04T03:00:00+11:00",
    ]


def test_a_day_that_a_country_left_out() -> None:
    assert first(3, "0 12 * * *", "2011-12-29T06:00", "Pacific/Apia") == [
        "2011-12-29T12:00:00-10:00",
        "2011-12-31T00:00:00+14:00",
        "2011-12-31T12:00:00+14:00",
    ]


def test_a_midnight_that_does_not_exist() -> None:
    assert first(2, "@daily", "2026-09-05T12:00", "America/Santiago") == [
        "2026-09-06T01:00:00-03:00",
        "2026-09-07T00:00:00-03:00",
    ]


# What an expression means


def test_the_next_run_is_strictly_after_the_base_time() -> None:
    assert first(1, "0 9 * * *", "2026-05-01T09:00") == ["2026-05-02T09:00:00+00:00"]
    assert first(1, "0 9 * * *", "2026-05-01T08:59:59.999999") == ["2026-05-01T09:00:00+00:00"]


def test_the_answer_is_in_utc() -> None:
    base = datetime(2026, 1, 5, tzinfo=zone_of("Asia/Shanghai"))
    found = CronGenerator().get_next_run_time("0 9 * * *", base, "Asia/Shanghai")
    assert found == datetime(2026, 1, 5, 1, tzinfo=UTC)
    assert found.tzinfo is UTC


def test_without_a_base_time_it_counts_from_now() -> None:
    before = datetime.now(UTC)
    found = CronGenerator.get_next_run_time("* * * * * *")
    assert before < found <= datetime.now(UTC) + timedelta(seconds=1)


def test_six_fields_have_the_second_first() -> None:
    assert first(3, "*/20 30 9 * * *", "2026-05-01T00:00") == [
        "2026-05-01T09:30:00+00:00",
        "2026-05-01T09:30:20+00:00",
        "2026-05-01T09:30:40+00:00",
    ]


def test_fixed_seconds_leave_a_time_of_day_fixed() -> None:
    assert first(3, "5,10 30 1 * * *", "2026-10-31T12:00", NEW_YORK) == [
        "2026-11-01T01:30:05-04:00",
        "2026-11-01T01:30:10-04:00",
        "2026-11-02T01:30:05-05:00",
    ]
    assert first(2, "5,10 30 2 * * *", "2026-03-07T12:00", NEW_YORK) == [
        "2026-03-08T03:00:00-04:00",
        "2026-03-09T02:30:05-04:00",
    ]


@pytest.mark.parametrize(
    ("days", "dates"),
    [
        ("13 * 5", ["05-01", "05-08", "05-13"]),  # the 13th, and every Friday
        ("*/2 * 5", ["05-01", "05-15", "05-29"]),  # odd days that are Fridays
        ("1-7 * */7", ["05-03", "06-07", "07-05"]),  # the first Sunday
        ("1,*/10 * 5", ["05-01", "05-08", "05-11"]),  # no leading star: either will do
        ("L * *", ["05-31", "06-30", "07-31"]),
        ("16W * *", ["05-15", "06-16", "07-16"]),
        ("* * 5#2", ["05-08", "06-12", "07-10"]),
        ("* * L5", ["05-29", "06-26", "07-31"]),
        ("? * mon", ["05-04", "05-11", "05-18"]),
        ("* * 7", ["05-03", "05-10", "05-17"]),
        ("* * sat-sun", ["05-02", "05-03", "05-09"]),
        ("* * 0-7", ["05-01", "05-02", "05-03"]),
        ("1 jan,jul *", ["07-01", "01-01", "07-01"]),
    ],
)
def test_day_fields(days: str, dates: list[str]) -> None:
    found = first(3, f"0 12 {days}", "2026-04-30T12:00")
    assert [run[5:10] for run in found] == dates


def test_leap_days() -> None:
    assert first(2, "0 0 29 2 *", "2096-01-01T00:00") == [
        "2096-02-29T00:00:00+00:00",
        "2104-02-29T00:00:00+00:00",
    ]


@pytest.mark.parametrize(
    ("alias", "expr"),
    [("@hourly", "0 * * * *"), (" @Daily ", "0 0 * * *"), ("@weekly", "0 0 * * sun")],
)
def test_aliases(alias: str, expr: str) -> None:
    assert first(3, alias, "2026-05-01T12:00") == first(3, expr, "2026-05-01T12:00")


def test_one_reading_serves_many_threads() -> None:
    expr, base = "*/7 * * * *", datetime(2026, 5, 1, tzinfo=UTC)
    bases = [base + i * HOUR for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda at: CronGenerator.get_next_run_time(expr, at), bases))
    assert found == [at + timedelta(minutes=7) for at in bases]


# What is refused


@pytest.mark.parametrize(
    ("expr", "message"),
    [
        ("61 * * * *", "'61' is no minute: use 0-59"),
        ("* 24 * * *", "'24' is no hour: use 0-23"),
        ("* * 0 * *", "'0' is no day of month: use 1-31"),
        ("* * * 13 *", "'13' is no month: use 1-12"),
        ("* * * * funday", "'funday' is no day of week: use 0-7"),
        ("60 * * * * *", "'60' is no second"),
        ("*/0 * * * *", "'*/0' is no minute"),
        ("-1 * * * *", "'-1' is no minute"),
        ("\u0665 * * * *", "is no minute"),
        ("h * * * *", "'h' is no minute"),
        ("r * * * *", "'r' is no minute"),
        ("R(0-5) * * * *", "is no minute"),
        ("*/90 * * * *", "the step of '*/90' leaves one minute: write 0, or use `every`"),
        ("59/15 * * * *", "the step of '59/15' leaves one minute: write 59"),
        ("0 0 * 12/3 *", "the step of '12/3' leaves one month: write 12"),
        ("* * * * 6/1", "'6/1' does not say where it ends: write '6-6/1' or '6-7/1'"),
        ("* * * * mon/2", "'mon/2' does not say where it ends: write 'mon-6/2' or 'mon-7/2'"),
        ("0 22-4/3 * * *", "'22-4/3' goes on in steps past the end: write each hour"),
        ("0 0 * * 5#2,*", "'5#2,*' mixes days of every week with days of the month"),
        ("5-5 * * * *", "'5-5' is a range of one minute: write '5'"),
        ("* * * * mon-1", "range of one day of week"),
        ("0 0 15W * 1", "do not go together"),
        ("0 0 13 * 5#2", "do not go together"),
        ("0 0 31 2 *", "never happens"),
        ("0 0 31 4,6,9,11 *", "never happens"),
        ("0 0 30 2 */7", "never happens"),
        ("* * * *", "must have five fields"),
        ("* * * * * * 2026", "must have five fields"),
        ("", "must have five fields"),
        ("@reboot", "must have five fields"),
        ("0," * 600 + "0 * * * *", "of at most 1000 characters"),
        (None, "must be a text"),
        (5, "must be a text"),
        (["*"], "must be a text"),
    ],
)
def test_the_refusal_names_the_field_and_what_to_do(expr: Any, message: str) -> None:
    assert not CronGenerator.is_valid_cron(expr)
    with pytest.raises(Invalid) as refused:
        validate_cron(expr)
    assert message in str(refused.value)
    assert str(refused.value).startswith("cron_expr")


def test_a_day_that_one_side_rules_out_is_left_to_the_other() -> None:
    assert first(1, "0 0 31 2 1", "2026-01-31T00:00") == ["2026-02-02T00:00:00+00:00"]


def test_what_only_ever_falls_into_the_gap_of_its_zone_is_refused_there() -> None:
    second_sunday_of_march = "*/30 2 8-14 3 */7"
    validate_cron(second_sunday_of_march, "UTC")
    with pytest.raises(Invalid, match=f"never happens in {NEW_YORK}"):
        validate_cron(second_sunday_of_march, NEW_YORK)


@pytest.mark.parametrize(
    ("zone", "hint"),
    [
        ("Europe/Pariss", "did you mean 'Europe/Paris'"),
        ("europe/paris", "did you mean 'Europe/Paris'"),
        ("+08:00", "use an IANA name"),
        ("", "use an IANA name"),
        ("../../etc/passwd", "use an IANA name"),
        ("America", ""),
        ("localtime", ""),
        ("right/UTC", ""),
        (None, ""),
        (["UTC"], ""),
    ],
)
def test_an_unknown_zone_is_refused_with_a_hint(zone: Any, hint: str) -> None:
    with pytest.raises(Invalid, match=r"timezone .* is unknown") as refused:
        validate_cron("* * * * *", zone)
    assert hint in str(refused.value)


def test_a_naive_base_time_is_refused() -> None:
    with pytest.raises(Invalid, match="pass an aware datetime"):
        CronGenerator.get_next_run_time("* * * * *", datetime(2026, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize("expr", ["* * * * *", "0 0 1 1 *", "0 0 29 2 *", "30 2 * * *"])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", NEW_YORK])
def test_the_end_of_time_is_refused_too(expr: str, zone: str) -> None:
    end = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    with pytest.raises(Invalid, match=r"never happens in .* after 9999"):
        CronGenerator.get_next_run_time(expr, end, zone)


CRON_LIKE = st.text("0123456789*,-/#?LWlwhrHR() @adilysunmo", min_size=1, max_size=12)


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.text(), st.lists(CRON_LIKE, min_size=5, max_size=6).map(" ".join)))
@example("0 0 l-3 * *")
@example("0 0 * * #2")
@example("0 0 W * *")
@example("0-" + "9" * 900 + " * * * *")
def test_whatever_is_written_is_read_or_refused(expr: str) -> None:
    if CronGenerator.is_valid_cron(expr):
        validate_cron(expr)


# Intervals as cron


@pytest.mark.parametrize(
    ("minutes", "expr"),
    [
        (1, "* * * * *"),
        (15, "*/15 * * * *"),
        (30, "*/30 * * * *"),
        (60, "0 * * * *"),
        (120, "0 */2 * * *"),
        (720, "0 */12 * * *"),
        (1440, "0 0 * * *"),
        (10080, "0 0 * * 0"),
    ],
)
def test_an_interval_as_cron(minutes: int, expr: str) -> None:
    assert CronGenerator.generate_simple_cron(minutes) == expr


def test_every_interval_it_makes_is_kept_evenly() -> None:
    for minutes in range(1, 10_081):
        try:
            expr = CronGenerator.generate_simple_cron(minutes)
        except Invalid:
            continue
        found = [datetime.fromisoformat(run) for run in first(30, expr, "2026-02-25T00:00")]
        assert {b - a for a, b in pairwise(found)} == {timedelta(minutes=minutes)}


@pytest.mark.parametrize("minutes", [0, -5, 7, 45, 90, 300, 2880, True, 15.0, "15", None])
def test_an_interval_that_cron_cannot_keep_is_refused(minutes: Any) -> None:
    with pytest.raises(Invalid, match=r"interval_minutes .* does not fit cron"):
        CronGenerator.generate_simple_cron(minutes)
