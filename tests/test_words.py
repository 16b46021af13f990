"""explain(): a cron expression in words."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgsched.cron import CronGenerator, validate_cron
from pgsched.errors import Invalid
from pgsched.expression import read
from pgsched.words import FIXED, WILDCARD, explain
from tests.expressions import some_expression, some_field

PARIS = "Europe/Paris"

WORDS = """
* * * * *            | Every minute.
*/5 * * * *          | Every 5 minutes.
*,5 * * * *          | Every minute.
*/7 * * * *          | At every 7th minute from 0 to 56 of every hour.
5/15 * * * *         | Every 15 minutes from 00:05 to 23:50.
30 * * * *           | Every hour from 00:30 to 23:30.
0,30 * * * *         | Every 30 minutes.
0,20 * * * *         | At minutes 0 and 20 of every hour.
5-10 * * * *         | At minutes 5 to 10 of every hour.
1,*/10 * * * *       | At minutes 0, 1, 10, 20, 30, 40 and 50 of every hour.
0 8 * * *            | At 08:00 every day.
0 8,12,18 * * *      | At 08:00, 12:00 and 18:00 every day.
0,30 8,12 * * *      | At 08:00, 08:30, 12:00 and 12:30 every day.
0 8-18 * * *         | Every hour from 08:00 to 18:00 every day.
0 9-17/2 * * *       | Every 2 hours from 09:00 to 17:00 every day.
* 8 * * *            | Every minute from 08:00 to 08:59 every day.
0-29 9 * * *         | Every minute from 09:00 to 09:29 every day.
0 */2 * * *          | Every 2 hours from 00:00 to 22:00 every day.
0 */7 * * *          | At 00:00, 07:00, 14:00 and 21:00 every day.
0 22-2 * * *         | At 00:00, 01:00, 02:00, 22:00 and 23:00 every day.
*/15 8-18 * * mon-fri| Every 15 minutes from 08:00 to 18:45, Monday to Friday.
*/15 8-18/2 * * *    | At minutes 0, 15, 30 and 45 of every 2nd hour from 8 to 18 every day.
* * * * * *          | Every second.
*/10 * * * * *       | Every 10 seconds.
30 * * * * *         | Every minute from 00:00:30 to 23:59:30.
0 30 9 * * *         | At 09:30 every day.
5,10 30 1 * * *      | At 01:30:05 and 01:30:10 every day.
*/10 * 9-17 * * *    | Every 10 seconds from 09:00:00 to 17:59:50 every day.
15,30 */5 8 * * *    | At seconds 15 and 30 of every 5th minute from 0 to 55 of hour 8 every day.
30 */5 * * * *       | Every 5 minutes from 00:00:30 to 23:55:30.
0 0 1 * *            | At 00:00 on the 1st of the month.
0 0 1,15 * *         | At 00:00 on the 1st and 15th of the month.
0 0 1-7,15 * *       | At 00:00 on the 1st to 7th and 15th of the month.
0 0 */2 * *          | At 00:00 on every 2nd day from the 1st to the 31st of the month.
0 0 L * *            | At 00:00 on the last day of the month.
0 0 15,L * *         | At 00:00 on the 15th and the last day of the month.
0 0 15W * *          | At 00:00 on the weekday nearest the 15th of the month.
0 0 30W * *          | At 00:00 on the weekday nearest the 30th or last day of the month.
0 0 31W * *          | At 00:00 on the weekday nearest the last day of the month.
0 0 22,23 11-13 * *  | At 22:00 and 23:00 on the 11th to 13th of the month.
0 0 29 2 *           | At 00:00 on the 29th of February.
0 0 1 */3 *          | At 00:00 on the 1st of January, April, July and October.
0 0 1,15 jan-mar *   | At 00:00 on the 1st and 15th of January to March.
0 0 1 */2 *          | At 00:00 on the 1st of every 2nd month from January to November.
0 0 * 12 *           | At 00:00 every day in December.
* * * 2 *            | Every minute in February.
0 0 * * 7            | At 00:00 on Sundays.
0 0 * * sat-sun      | At 00:00 on Saturdays and Sundays.
0 0 * * 5-7          | At 00:00, Friday to Sunday.
0 0 * * fri-mon      | At 00:00 on Mondays, Fridays, Saturdays and Sundays.
0 0 ? * 1            | At 00:00 on Mondays.
0 0 * 7 1            | At 00:00 on Mondays in July.
0 0 * 7 1-5          | At 00:00, Monday to Friday in July.
0 0 * * 5#2          | At 00:00 on the second Friday of the month.
0 0 * * 5#2,1#1      | At 00:00 on the first Monday and second Friday of the month.
0 0 * 3 L5           | At 00:00 on the last Friday of March.
0 0 * * L5,1#3       | At 00:00 on the third Monday and last Friday of the month.
0 0 13 * 5           | At 00:00 on the 13th of the month or on Fridays.
0 0 13 * 1-5         | At 00:00 on the 13th of the month or Monday to Friday.
0 0 13 3 5           | At 00:00 in March, on the 13th or on Fridays.
0 0 1-31 * 5         | At 00:00 every day.
0 0 13 * 0-6         | At 00:00 every day.
0 0 */1 * 5          | At 00:00 on Fridays.
0 0 */9 * 5          | At 00:00 on the 1st, 10th, 19th and 28th of the month and only on Fridays.
0 0 1-7 * */7        | At 00:00 on the 1st to 7th of the month and only on Sundays.
0 0 13 * */4         | At 00:00 on the 13th of the month and only on Thursdays and Sundays.
0 0 1-7 3,9 */7      | At 00:00 in March and September, on the 1st to 7th and only on Sundays.
0 0 */11 5 5#2       | At 00:00 in May, on the 1st, 12th and 23rd and only on the second Friday.
@hourly              | Every hour.
@daily               | At 00:00 every day.
@weekly              | At 00:00 on Sundays.
@monthly             | At 00:00 on the 1st of the month.
@YEARLY              | At 00:00 on the 1st of January.
"""
ROWS = [[part.strip() for part in line.split("|")] for line in WORDS.splitlines() if line]


@pytest.mark.parametrize(("expr", "words"), ROWS)
def test_the_words_of(expr: str, words: str) -> None:
    assert explain(expr) == words


# All there is


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False))
def test_every_valid_expression_has_words(rng: random.Random) -> None:
    expr = some_expression(rng).ours
    if not CronGenerator.is_valid_cron(expr):
        return
    words = explain(expr, PARIS)

    assert words[0].isupper()
    assert words.endswith(".")
    assert "  " not in words
    assert "None" not in words


def meaning(expr: str) -> object:
    """When it runs in UTC: at which times, and on which days of each month of every shape."""
    cron = read(expr)
    days = [cron.days.of(first, length) for first in range(7) for length in range(28, 32)]
    return cron.hours, cron.minutes, cron.seconds, cron.months, days


def some_time(rng: random.Random) -> str:
    return " ".join([*(some_field(rng, i).ours for i in range(3)), "* * *"])


def some_day(rng: random.Random) -> str:
    return " ".join(["0 0", *(some_field(rng, i).ours for i in range(3, 6))])


@pytest.mark.parametrize("some", [some_time, some_day])
def test_what_is_said_alike_runs_alike(some: Any) -> None:
    rng = random.Random(20_26)
    said: dict[str, tuple[str, object]] = {}
    wrong = []
    for _ in range(2000):
        expr = some(rng)
        if CronGenerator.is_valid_cron(expr):
            means = meaning(expr)
            other, meant = said.setdefault(explain(expr), (expr, means))
            if means != meant:
                wrong.append((expr, other))

    assert wrong == []
    assert len(said) > 500


# The change of clocks


@pytest.mark.parametrize(
    ("expr", "zone", "sentence"),
    [
        ("30 2 * * *", PARIS, FIXED),
        ("0 0-23 * * *", PARIS, FIXED),
        ("0 * * * *", PARIS, WILDCARD),
        ("0 */2 * * *", PARIS, WILDCARD),
        ("*/20 2 * * *", PARIS, WILDCARD),
        ("30 1 * * *", "America/New_York", FIXED),  # comes twice
        ("0 0 * * *", "America/Santiago", FIXED),  # is skipped
        ("15 2 * * *", "Australia/Lord_Howe", FIXED),
        ("45 2 * * *", "Australia/Lord_Howe", ""),  # half an hour is
        ("30 1 * * *", PARIS, ""),
        ("0 8 * * *", PARIS, ""),
        ("*/5 9-17 * * *", PARIS, ""),
        ("30 2 * * 1-6", PARIS, ""),  # the clocks are changed on Sundays
        ("30 2 * 7 *", PARIS, ""),
        ("30 2 * * *", "UTC", ""),
        ("0 * * * *", "Asia/Kolkata", ""),
        ("30 2 * * *", None, ""),
    ],
)
def test_a_sentence_on_the_change_of_clocks_where_it_matters(
    expr: str, zone: str | None, sentence: str
) -> None:
    assert explain(expr, zone) == f"{explain(expr)} {sentence}".strip()


# What is refused


@pytest.mark.parametrize(
    ("expr", "zone"),
    [
        ("61 * * * *", "UTC"),
        ("0 0 31 2 *", "UTC"),
        ("* * * *", "UTC"),
        ("59/15 * * * *", "UTC"),
        (None, "UTC"),
        ("0 3 * * *", "Europe/Pariss"),
        ("0 3 * * *", ["UTC"]),
        ("*/30 2 8-14 3 */7", "America/New_York"),  # only ever within the gap
    ],
)
def test_it_refuses_what_validate_cron_refuses(expr: Any, zone: Any) -> None:
    with pytest.raises(Invalid) as refused:
        validate_cron(expr, zone)
    with pytest.raises(Invalid) as also:
        explain(expr, zone)
    assert str(also.value).partition(" after ")[0] == str(refused.value).partition(" after ")[0]
