"""
A cron expression, read: which wall clocks it means.

Pure, and without time zones: `cron` brings those in.  The walk from one wall
clock to the next takes a microsecond or two here and a hundred in croniter;
the tests hold the two together.
"""

from __future__ import annotations

import calendar
from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

from pgsched import fields
from pgsched.errors import Invalid
from pgsched.fields import DAY, LAST, WEEKDAY

MAX_LENGTH = 1000

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
# The weekday of the first (0 is Monday) and the number of days of a month.
_shape = lru_cache(maxsize=4096)(calendar.monthrange)


@dataclass(frozen=True)
class Days:
    """Which days of a month are meant, by date, by weekday, or by both."""

    dates: frozenset[int]  # 1 to 31
    last: bool  # L: the last day of the month too
    nearest: int | None  # 15W: the Monday to Friday that is nearest to this date
    weekdays: frozenset[int]  # 0 is Sunday
    nth: frozenset[tuple[int, int]]  # 5#2 is (5, 2), and L5 is (5, LAST)
    either: bool  # Vixie's rule: either will do, since neither of the fields starts with a star

    def of(self, first: int, length: int) -> tuple[int, ...]:
        """Those of a month with *length* days, the first on weekday *first* (0 is Monday)."""
        whole = range(1, length + 1)
        weekday = {day: (first + day) % 7 for day in whole}
        by_date = self.dates & weekday.keys()
        if self.last:
            by_date |= {length}
        if self.nearest:
            by_date |= {_nearest(min(self.nearest, length), weekday)}
        by_weekday = {day for day in whole if weekday[day] in self.weekdays}
        for wanted, n in self.nth:
            found = [day for day in whole if weekday[day] == wanted]
            by_weekday.update(found[n:] if n == LAST else found[n - 1 : n])
        return tuple(sorted(by_date | by_weekday if self.either else by_date & by_weekday))


def _nearest(day: int, weekday: dict[int, int]) -> int:
    """The Monday to Friday that is nearest to *day* within the month."""
    match weekday[day]:
        case 6:
            return day - 1 if day > 1 else day + 2
        case 0:
            return day + 1 if day + 1 in weekday else day - 2
    return day


@dataclass(frozen=True)
class Expression:
    """The values of each field in their order, and what Debian's cron would call it."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: Days
    months: tuple[int, ...]
    fixed: bool  # neither second, minute nor hour starts with a star
    _days: dict[tuple[int, int], tuple[int, ...]] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def after(self, wall: datetime) -> datetime:
        """
        The first wall clock after *wall* that matches, whether or not it exists in some zone.

        Raises:
            ValueError: There is none before the year 10000.
        """
        year, month, day = wall.year, wall.month, wall.day
        days = self.days_of(year, month)
        if day in days and (time := self._time_after(wall.hour, wall.minute, wall.second)):
            return datetime(year, month, day, *time)  # noqa: DTZ001
        while (later := bisect_right(days, day)) == len(days):  # for 40 years at most
            year, month, day = (year, month + 1, 0) if month < 12 else (year + 1, 1, 0)
            days = self.days_of(year, month)
        time = self.hours[0], self.minutes[0], self.seconds[0]
        return datetime(year, month, days[later], *time)  # noqa: DTZ001

    def days_of(self, year: int, month: int) -> tuple[int, ...]:
        """The days of one month that match, in their order."""
        if month not in self.months:
            return ()
        shape = _shape(year, month)
        if shape not in self._days:
            self._days[shape] = self.days.of(*shape)
        return self._days[shape]

    def _time_after(self, hour: int, minute: int, second: int) -> tuple[int, int, int] | None:
        """The first time of day that matches and is later; None if that is tomorrow."""
        hours, minutes, seconds = self.hours, self.minutes, self.seconds
        if hour in hours:
            if minute in minutes and second < seconds[-1]:
                return hour, minute, seconds[bisect_right(seconds, second)]
            if minute < minutes[-1]:
                return hour, minutes[bisect_right(minutes, minute)], seconds[0]
        if hour < hours[-1]:
            return hours[bisect_right(hours, hour)], minutes[0], seconds[0]
        return None

    def happens(self) -> bool:
        """Whether one of its months ever has such a day; in time each begins on every weekday."""
        return any(
            self.days.of(first, length)
            for month in self.months
            for first in range(7)
            for length in {calendar.monthrange(year, month)[1] for year in (2000, 2001)}
        )


def read(expr: object) -> Expression:
    """
    Read five fields, six with the second first, or an alias as '@daily'.

    Raises:
        Invalid: It cannot be read, or never happens; the message names `cron_expr`.
    """
    if not isinstance(expr, str) or len(expr) > MAX_LENGTH:
        raise Invalid(
            f"cron_expr must be a text as '0 3 * * *', of at most {MAX_LENGTH} characters"
        )
    return _read(expr)


@lru_cache(maxsize=4096)
def _read(expr: str) -> Expression:
    texts = ALIASES.get(expr.strip().lower(), expr).lower().split()
    if len(texts) not in (5, 6):
        raise Invalid(
            f"cron_expr {expr!r} must have five fields (minute, hour, day of month, month, day of"
            f" week), six with the second first, or be one of {', '.join(ALIASES)}"
        )
    texts = ["0"] * (6 - len(texts)) + texts
    try:
        expression = _expression(texts)
    except Invalid as exc:
        raise Invalid(f"cron_expr {expr!r}: {exc}") from None
    if not expression.happens():
        raise Invalid(f"cron_expr {expr!r} never happens: no month of it has such a day")
    return expression


def _expression(texts: list[str]) -> Expression:
    second, minute, hour, day, month, weekday = map(fields.read, range(6), texts)
    either = not any(texts[i].startswith(("*", "?")) for i in (DAY, WEEKDAY))
    if either and (day.nearest or weekday.nth):
        # Other crons differ in whether these two are joined.
        raise Invalid(
            f"day of month {texts[DAY]!r} and day of week {texts[WEEKDAY]!r} do not go together:"
            " use two"
        )
    days = Days(
        dates=frozenset(() if day.nearest else day.numbers),
        last=day.last,
        nearest=day.nearest,
        weekdays=frozenset(() if weekday.nth else weekday.numbers),
        nth=weekday.nth,
        either=either,
    )
    fixed = not any(text.startswith("*") for text in texts[:DAY])
    return Expression(second.numbers, minute.numbers, hour.numbers, days, month.numbers, fixed)
