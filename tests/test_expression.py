"""Reading an expression, and walking the wall clocks that it means."""

from __future__ import annotations

import calendar
import random
from datetime import date, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from croniter import croniter

from pgsched.errors import Invalid
from pgsched.expression import read
from pgsched.fields import RANGES
from tests.expressions import ALIASES, some_expression


def years(*span: int) -> list[date]:
    first, end = (date(year, 1, 1) for year in span)
    return [first + timedelta(days=i) for i in range((end - first).days)]


# The walk, against croniter's own


def for_croniter(expr: str) -> str:
    """Six fields; and of stars only leading ones, for another misleads it in day fields."""
    fields = ALIASES.get(expr, expr).split()
    fields = ["0"] * (6 - len(fields)) + fields
    return " ".join(field.replace(",*", f",{RANGES[i]}") for i, field in enumerate(fields))


def after_in_croniter(expr: str, wall: datetime) -> datetime:
    cron = croniter(for_croniter(expr), wall, implement_cron_bug=True, second_at_beginning=True)
    found: datetime = cron.get_next(datetime)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_the_walk_is_that_of_croniter(seed: int) -> None:
    rng, asked = random.Random(seed), 0
    wrong = []
    while asked < 1000:
        expr = some_expression(rng).ours
        if rng.random() < 0.05:
            expr = f"30 4,5 {rng.choice(('{}W', 'W{}')).format(rng.randint(1, 31))} * */2"
        try:
            expression = read(expr)
        except Invalid:
            continue
        asked += 1
        wall = datetime(1990, 1, 1) + timedelta(seconds=rng.uniform(0, 60 * 365 * 86_400))  # noqa: DTZ001
        if expression.after(wall) != after_in_croniter(expr, wall):
            wrong.append((expr, wall))

    assert wrong == []


def test_it_is_strict_and_drops_fractions() -> None:
    cron, wall = read("*/5 * * * * *"), datetime(2026, 5, 1, 12, 0, 5)  # noqa: DTZ001
    assert cron.after(wall) == wall + timedelta(seconds=5)
    assert cron.after(wall - timedelta(microseconds=1)) == wall


@pytest.mark.parametrize("expr", ["0 0 29 2 *", "0 0 * * *", "* * * * * *"])
def test_the_walk_ends_with_the_year_9999(expr: str) -> None:
    with pytest.raises(ValueError, match="year"):
        read(expr).after(datetime(9999, 12, 31, 23, 59, 59))  # noqa: DTZ001


# The fields


def test_every_stepped_range_of_weekdays_counts_on_to_sunday() -> None:
    for low, high, step in product(range(8), range(8), range(1, 7)):
        wanted = {day % 7 for day in range(low, high + 1, step)}
        if len(wanted) > 1:
            assert read(f"0 0 * * {low}-{high}/{step}").days.weekdays == wanted


def test_a_range_may_go_past_the_end() -> None:
    assert read("0 22-2 * * *").hours == (0, 1, 2, 22, 23)
    assert read("0 0 * * fri-mon").days.weekdays == {5, 6, 0, 1}
    assert read("0 0 * nov-feb *").months == (1, 2, 11, 12)


@pytest.mark.parametrize(
    ("expr", "fixed"),
    [
        ("0 3 * * *", True),
        ("0-59 0-23 * * *", True),
        ("5,* 3 * * *", True),
        ("* 3 * * *", False),
        ("0 */2 * * *", False),
        ("*,5 3 * * *", False),
        ("0 0 3 * * *", True),
        ("*/30 0 3 * * *", False),
    ],
)
def test_a_leading_star_makes_a_time_of_day_a_wildcard(expr: str, fixed: bool) -> None:
    assert read(expr).fixed is fixed


def test_spaces_and_case_do_not_matter() -> None:
    assert read("  0\t3 *  JAN   Mon ") == read("0 3 * 1 1")


# The days of a month


def is_workday(day: date) -> bool:
    return day.weekday() < 5


@pytest.mark.parametrize("wanted", range(1, 32))
def test_w_is_the_nearest_monday_to_friday_of_the_same_month(wanted: int) -> None:
    expression = read(f"0 0 {wanted}W * *")
    for year in range(2000, 2028):
        for month in range(1, 13):
            length = calendar.monthrange(year, month)[1]
            workdays = filter(is_workday, (date(year, month, d) for d in range(1, length + 1)))
            target = date(year, month, min(wanted, length))
            nearest = min(workdays, key=lambda day: abs(day - target))
            assert expression.days_of(year, month) == (nearest.day,)


def test_nth_and_last_weekdays() -> None:
    fifth, last = read("0 0 * * 5#5"), read("0 0 * * L5")
    for day in years(2000, 2028):
        is_friday, next_week = day.isoweekday() == 5, day + timedelta(days=7)
        assert (day.day in last.days_of(day.year, day.month)) == (
            is_friday and next_week.month != day.month
        )
        assert (day.day in fifth.days_of(day.year, day.month)) == (is_friday and day.day > 28)


@pytest.mark.parametrize("days", ["31 2", "30 2", "29 2", "31 4", "31 4,5", "30,31 2,6", "L 2"])
@pytest.mark.parametrize("weekday", ["*", "*/7", "*/6", "5"])
def test_it_is_refused_exactly_if_it_never_happens(days: str, weekday: str) -> None:
    dates, months = days.split()
    happens = any(
        (str(day.day) in dates.split(",") or (dates == "L" and is_last(day)))
        and str(day.month) in months.split(",")
        and (
            weekday == "*"
            or (weekday == "*/7" and day.isoweekday() == 7)
            or (weekday == "*/6" and day.isoweekday() in (6, 7))
        )
        for day in years(2000, 2028)
    )
    expr = f"0 0 {days} {weekday}"
    if happens or weekday == "5":  # in which case any Friday of these months will do
        read(expr)
    else:
        with pytest.raises(Invalid, match="never happens"):
            read(expr)


def is_last(day: date) -> bool:
    return (day + timedelta(days=1)).day == 1


@pytest.mark.parametrize("expr", ["", "*", "0 0 * * 8", None, 5, b"* * * * *", ["* * * * *"]])
def test_the_refusal_names_the_argument(expr: Any) -> None:
    with pytest.raises(Invalid, match=r"^cron_expr"):
        read(expr)
