"""
What schedules mean, run by run.

croniter has changed what expressions mean between versions, often without a
word.  A version that changes one of these must not be taken.
"""

from __future__ import annotations

from datetime import datetime

import pytest

from pgsched.cron import CronGenerator
from pgsched.zones import zone as zone_of


def runs(expr: str, after: str, timezone: str, count: int) -> list[datetime]:
    zone = zone_of(timezone)
    at = datetime.fromisoformat(after).replace(tzinfo=zone)
    found: list[datetime] = []
    while len(found) < count:
        at = CronGenerator.get_next_run_time(expr, at, timezone).astimezone(zone)
        found.append(at)
    return found


# The first runs after the beginning of 2026, in UTC.
UTC_FROM_2026 = """
# A step from a number ends with the field.  Until 7.0 one from the last number of a field meant
# the whole field: 59/15 was */15.  Where it leaves one value we refuse it.
50/4 * * * *     | 2026-01-01T00:50 2026-01-01T00:54 2026-01-01T00:58 2026-01-01T01:50
0 20/2 * * *     | 2026-01-01T20:00 2026-01-01T22:00 2026-01-02T20:00 2026-01-02T22:00
0 12 25/3 * *    | 2026-01-25T12:00 2026-01-28T12:00 2026-01-31T12:00 2026-02-25T12:00
0 12 1 10/2 *    | 2026-10-01T12:00 2026-12-01T12:00 2027-10-01T12:00 2027-12-01T12:00
57/2 30 9 * * *  | 2026-01-01T09:30:57 2026-01-01T09:30:59 2026-01-02T09:30:57
*/25 * * * *     | 2026-01-01T00:25 2026-01-01T00:50 2026-01-01T01:00 2026-01-01T01:25

# Sunday is 0 and 7.  Until 7.0 a 7 was refused in six fields; 4.0 refused it in five.
0 12 * * 5-7     | 2026-01-02T12:00 2026-01-03T12:00 2026-01-04T12:00 2026-01-09T12:00
0 12 * * 7       | 2026-01-04T12:00 2026-01-11T12:00 2026-01-18T12:00 2026-01-25T12:00
0 12 * * 7-2     | 2026-01-04T12:00 2026-01-05T12:00 2026-01-06T12:00 2026-01-11T12:00
0 0 12 * * wed-7 | 2026-01-01T12:00:00 2026-01-02T12:00:00 2026-01-03T12:00:00
0 12 * * 1-7/3   | 2026-01-01T12:00 2026-01-04T12:00 2026-01-05T12:00 2026-01-08T12:00
0 0 12 * * L7    | 2026-01-25T12:00:00 2026-02-22T12:00:00 2026-03-29T12:00:00
0 0 12 * * 7#5   | 2026-03-29T12:00:00 2026-05-31T12:00:00 2026-08-30T12:00:00
0 12 * * sat-sun | 2026-01-03T12:00 2026-01-04T12:00 2026-01-10T12:00 2026-01-11T12:00

# Two days are joined, or intersected where one starts with a star.  Until 7.0 the first of
# "31 in February, or Sundays" ruled out the second.
0 12 13 * 5      | 2026-01-02T12:00 2026-01-09T12:00 2026-01-13T12:00 2026-01-16T12:00
0 12 */9 * 5     | 2026-04-10T12:00 2026-05-01T12:00 2026-06-19T12:00 2026-07-10T12:00
0 12 */1 * 5     | 2026-01-02T12:00 2026-01-09T12:00 2026-01-16T12:00 2026-01-23T12:00
0 12 1-31 * 5    | 2026-01-01T12:00 2026-01-02T12:00 2026-01-03T12:00 2026-01-04T12:00
0 12 13 * */2    | 2026-01-13T12:00 2026-06-13T12:00 2026-08-13T12:00 2026-09-13T12:00
0 12 13 * 0-6    | 2026-01-01T12:00 2026-01-02T12:00 2026-01-03T12:00 2026-01-04T12:00
0 12 ? * 5       | 2026-01-02T12:00 2026-01-09T12:00 2026-01-16T12:00 2026-01-23T12:00
0 0 31 2 0       | 2026-02-01T00:00 2026-02-08T00:00 2026-02-15T00:00 2026-02-22T00:00
0 0 31 4,6 1     | 2026-04-06T00:00 2026-04-13T00:00 2026-04-20T00:00 2026-04-27T00:00

# Months are not equally long.  Until 6.1 "31,L" was the 31st alone.
0 12 31,L * *    | 2026-01-31T12:00 2026-02-28T12:00 2026-03-31T12:00 2026-04-30T12:00
0 12 15,L * *    | 2026-01-15T12:00 2026-01-31T12:00 2026-02-15T12:00 2026-02-28T12:00
0 12 28-L * *    | 2026-01-28T12:00 2026-01-29T12:00 2026-01-30T12:00 2026-01-31T12:00
0 12 30 * *      | 2026-01-30T12:00 2026-03-30T12:00 2026-04-30T12:00 2026-05-30T12:00
0 12 30,31 2,3 * | 2026-03-30T12:00 2026-03-31T12:00 2027-03-30T12:00 2027-03-31T12:00
0 0 29 2 *       | 2028-02-29T00:00 2032-02-29T00:00 2036-02-29T00:00 2040-02-29T00:00
0 0 29 2 */7     | 2032-02-29T00:00 2060-02-29T00:00 2088-02-29T00:00 2128-02-29T00:00

# W came with 6.2.
0 12 15W * *     | 2026-01-15T12:00 2026-02-16T12:00 2026-03-16T12:00 2026-04-15T12:00
0 12 1W * *      | 2026-01-01T12:00 2026-02-02T12:00 2026-03-02T12:00 2026-04-01T12:00
0 12 31W * *     | 2026-01-30T12:00 2026-02-27T12:00 2026-03-31T12:00 2026-04-30T12:00

# Of six fields the second is the first, where croniter's default is the last.
0 30 9 * * *     | 2026-01-01T09:30:00 2026-01-02T09:30:00 2026-01-03T09:30:00
30 9 * * * *     | 2026-01-01T00:09:30 2026-01-01T01:09:30 2026-01-01T02:09:30

# Past the end of a field a range goes on at its beginning.
0 22-1 * * *     | 2026-01-01T01:00 2026-01-01T22:00 2026-01-01T23:00 2026-01-02T00:00
0 12 28-2 * *    | 2026-01-01T12:00 2026-01-02T12:00 2026-01-28T12:00 2026-01-29T12:00
0 12 1 11-2 *    | 2026-01-01T12:00 2026-02-01T12:00 2026-11-01T12:00 2026-12-01T12:00
55-5 0 * * *     | 2026-01-01T00:01 2026-01-01T00:02 2026-01-01T00:03 2026-01-01T00:04

"""
ROWS = [
    [part.strip() for part in line.split("|")]
    for line in UTC_FROM_2026.splitlines()
    if line and not line.startswith("#")
]


@pytest.mark.parametrize(("expr", "wanted"), ROWS)
def test_the_first_runs_of_2026(expr: str, wanted: str) -> None:
    found = runs(expr, "2026-01-01T00:00", "UTC", len(wanted.split()))

    assert found == [datetime.fromisoformat(f"{run}+00:00") for run in wanted.split()]


# Where the clocks change.  On Lord Howe they do by half an hour, which croniter itself
# gets wrong (pallets-eco/croniter, issue 258).


@pytest.mark.parametrize(
    ("expr", "timezone", "after", "wanted"),
    [
        (
            "0 * * * *",
            "Australia/Lord_Howe",
            "2019-10-06T01:43",
            "2019-10-06T03:00+11:00 2019-10-06T04:00+11:00 2019-10-06T05:00+11:00",
        ),
        (
            "*/15 * * * *",
            "Australia/Lord_Howe",
            "2019-10-06T01:43",
            "2019-10-06T01:45+10:30 2019-10-06T02:30+11:00 2019-10-06T02:45+11:00",
        ),
        (
            "10 2 * * *",
            "Australia/Lord_Howe",
            "2019-10-05T12:00",
            "2019-10-06T02:30+11:00 2019-10-07T02:10+11:00 2019-10-08T02:10+11:00",
        ),
        (
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2019-04-06T12:00",
            "2019-04-07T01:45+11:00 2019-04-08T01:45+10:30 2019-04-09T01:45+10:30",
        ),
        (
            "*/20 1 * * *",
            "Australia/Lord_Howe",
            "2019-04-07T01:00",
            "2019-04-07T01:20+11:00 2019-04-07T01:40+11:00 2019-04-07T01:40+10:30",
        ),
        (
            "30 1 * * *",
            "America/New_York",
            "2026-10-31T12:00",
            "2026-11-01T01:30-04:00 2026-11-02T01:30-05:00 2026-11-03T01:30-05:00",
        ),
        (
            "30 2 * * *",
            "America/New_York",
            "2026-03-07T12:00",
            "2026-03-08T03:00-04:00 2026-03-09T02:30-04:00 2026-03-10T02:30-04:00",
        ),
        (
            "0 * * * *",
            "America/New_York",
            "2026-03-08T00:30",
            "2026-03-08T01:00-05:00 2026-03-08T03:00-04:00 2026-03-08T04:00-04:00",
        ),
        (
            "0 0-23 * * *",
            "America/New_York",
            "2026-11-01T00:30",
            "2026-11-01T01:00-04:00 2026-11-01T02:00-05:00 2026-11-01T03:00-05:00",
        ),
        (
            "0 */2 * * *",
            "Europe/Paris",
            "2026-03-28T23:30",
            "2026-03-29T00:00+01:00 2026-03-29T04:00+02:00 2026-03-29T06:00+02:00",
        ),
        (
            "0 0 * * *",
            "America/Santiago",
            "2026-09-05T12:00",
            "2026-09-06T01:00-03:00 2026-09-07T00:00-03:00 2026-09-08T00:00-03:00",
        ),
        (
            "0 */6 * * *",
            "Antarctica/Troll",
            "2026-03-28T23:00",
            "2026-03-29T00:00+00:00 2026-03-29T06:00+02:00 2026-03-29T12:00+02:00",
        ),
        (
            "30 12 * * *",
            "Pacific/Apia",
            "2011-12-29T06:00",
            "2011-12-29T12:30-10:00 2011-12-31T00:00+14:00 2011-12-31T12:30+14:00",
        ),
    ],
)
def test_runs_around_a_change_of_the_clocks(
    expr: str, timezone: str, after: str, wanted: str
) -> None:
    found = runs(expr, after, timezone, len(wanted.split()))

    assert [at.isoformat("T", "minutes") for at in found] == wanted.split()
