"""
CronGenerator against cronsim, which does what Debian's cron does.

Where cronsim is not asked directly, or its answer is not taken, the rule is
stated here and has a test of its own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from pgsched.cron import CronGenerator
from pgsched.errors import Invalid
from pgsched.expression import read
from pgsched.zones import zone as zone_of
from tests.expressions import Some, some_expression

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

# Their clocks are changed by half an hour, or at a quarter to: cronsim is late after that.
ODD = ("Australia/Lord_Howe", "Pacific/Chatham", "Asia/Pyongyang", "America/Caracas")
ZONES = (
    *ODD,
    "Africa/Cairo",  # midnight is skipped
    "Africa/Casablanca",  # winter time in Ramadan
    "America/New_York",
    "America/Nuuk",  # 22:00 is skipped
    "America/Santiago",  # midnight is skipped, and 23:00 comes twice
    "Antarctica/Troll",  # two hours
    "Asia/Gaza",
    "Asia/Kolkata",
    "Europe/London",
    "Europe/Paris",
    "Pacific/Apia",  # left out a day
    "UTC",
)
ASKED = 1300


@cache
def changes(name: str) -> list[datetime]:
    """The hours within which the clocks of a zone are changed."""
    zone = zone_of(name)

    def changed(start: datetime, span: timedelta) -> bool:
        return start.astimezone(zone).utcoffset() != (start + span).astimezone(zone).utcoffset()

    days = [datetime(2010, 1, 1, tzinfo=UTC) + i * DAY for i in range(20 * 365)]
    hours = [day + i * HOUR for day in days if changed(day, DAY) for i in range(24)]
    return [hour for hour in hours if changed(hour, HOUR)]


def some_base(rng: random.Random, name: str) -> datetime:
    """Within hours of a change of the clocks, the day before one, or at any time."""
    if changes(name) and rng.random() < 0.7:
        change = rng.choice(changes(name))
        return change - rng.choice((0, 1)) * DAY + rng.uniform(-4, 4) * HOUR
    return datetime(1990, 1, 1, tzinfo=UTC) + rng.uniform(0, 60 * 365) * DAY


def asked(seed: str, count: int) -> Iterator[tuple[Some, datetime]]:
    rng = random.Random(seed)
    while count:
        expr = some_expression(rng)
        if CronGenerator.is_valid_cron(expr.ours):
            count -= 1
            yield expr, some_base(rng, seed)


def naive(at: datetime) -> datetime:
    return at.replace(tzinfo=None, fold=0)


def matches(cron: Any, wall: datetime) -> bool:
    return (
        wall.second in cron.seconds
        and wall.minute in cron.minutes
        and wall.hour in cron.hours
        and wall.month in cron.months
        and bool(cron.match_day(wall.date()))
    )


# Fixed times of day: to cronsim six fields are never fixed, and to us
# `0 30 2 * * *` is `30 2 * * *`.  So cronsim walks wall clocks without a zone,
# and they become instants as it does that itself with five fields.


def fixed(expr: str, base: datetime, zone: ZoneInfo) -> datetime:
    for wall in CronSim(expr, naive(base.astimezone(zone))):
        at = wall.replace(tzinfo=zone)
        while naive(at.astimezone(UTC).astimezone(zone)) != naive(at):  # within a gap
            at = at.replace(second=0) + MINUTE
        if at.astimezone(UTC) > base:  # else it is what the second hour repeats
            return at.astimezone(UTC)
    raise AssertionError(f"{expr} never runs")


@pytest.mark.parametrize("name", ZONES)
def test_fixed_times_become_instants_as_in_cronsim(name: str) -> None:
    zone, wrong = zone_of(name), []
    for expr, base in asked(name, 250):
        if not read(expr.ours).fixed or len(expr.theirs.split()) == 6:
            continue
        theirs = (at.astimezone(UTC) for at in CronSim(expr.theirs, base.astimezone(zone)))
        # Asked within a repeated hour cronsim begins with the first pass, which is over.
        if next(at for at in theirs if at > base) != fixed(expr.theirs, base, zone):
            wrong.append((expr, base))

    assert wrong == []


# Wildcards: cronsim is asked on while the clocks show another time than it says.


def elapsed(expr: str, base: datetime, zone: ZoneInfo) -> datetime:
    cron = CronSim(expr, base.astimezone(zone))
    for found in cron:
        at = found.astimezone(UTC)
        if matches(cron, at.astimezone(zone)):
            return at
    raise AssertionError(f"{expr} never runs")


def test_cronsim_begins_a_day_at_midnight_even_where_there_is_none() -> None:
    zone = zone_of("America/Santiago")
    found = next(CronSim("*/30 * 6 9 *", datetime(2026, 9, 5, 12, tzinfo=zone)))

    assert found.isoformat() == "2026-09-06T00:00:00-04:00"
    assert found.astimezone(UTC).astimezone(zone).isoformat() == "2026-09-06T01:00:00-03:00"


# By definition, a wildcard runs at each instant at which the local clock
# matches.  That says who is right where the answers differ.


def by_definition(expr: str, base: datetime, until: datetime, zone: ZoneInfo) -> datetime | None:
    cron: Any = CronSim(expr, naive(base))
    at = base.replace(microsecond=0) + timedelta(seconds=1)
    while at <= until:
        wall = at.astimezone(zone)
        if matches(cron, wall):
            return at
        in_minute = wall.minute in cron.minutes and wall.hour in cron.hours
        at += timedelta(seconds=1) if in_minute else MINUTE - timedelta(seconds=at.second)
    return None


@pytest.mark.parametrize(
    ("name", "expr", "base", "late", "right"),
    [
        ("Australia/Lord_Howe", "*/6 4 * * *", "2013-10-06T01:00+10:30", "04:30", "04:00"),
        ("Australia/Lord_Howe", "* 13 * * *", "2011-10-02T01:00+10:30", "13:30", "13:00"),
        ("Pacific/Chatham", "*/5 3-7/2 * * *", "2019-09-29T01:49+12:45", "05:00", "03:45"),
        ("Asia/Pyongyang", "* */4 * * *", "2018-05-04T22:00+08:30", "00:30", "00:00"),
        ("Asia/Pyongyang", "* */4 * * *", "2015-08-14T22:00+09:00", "00:30", "00:00"),
        ("America/Caracas", "*/15 5 * * *", "2016-05-01T01:00-04:30", "05:30", "05:00"),
    ],
)
def test_after_a_change_that_is_no_whole_hour_cronsim_is_late(
    name: str, expr: str, base: str, late: str, right: str
) -> None:
    zone, at = zone_of(name), datetime.fromisoformat(base)
    found = elapsed(expr, at, zone)
    defined = by_definition(expr, at, found, zone)

    assert defined is not None
    assert found.astimezone(zone).strftime("%H:%M") == late
    assert defined.astimezone(zone).strftime("%H:%M") == right


# All together


@pytest.mark.parametrize("name", ZONES)
def test_the_runs_are_those_of_debians_cron(name: str) -> None:
    zone = zone_of(name)
    wrong: list[tuple[object, ...]] = []
    for expr, base in asked(name, ASKED):
        try:
            ours = CronGenerator.get_next_run_time(expr.ours, base, name)
        except Invalid as exc:
            wrong.append((expr, base, exc))
            continue
        is_fixed = read(expr.ours).fixed
        theirs = (fixed if is_fixed else elapsed)(expr.theirs, base, zone)
        late = not is_fixed and name in ODD and ours < theirs
        if ours != theirs and not (late and ours == by_definition(expr.theirs, base, ours, zone)):
            wrong.append((expr, base, ours, theirs))

    assert wrong == []
