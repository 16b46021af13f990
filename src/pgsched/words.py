"""
A cron expression in words.

They are made of what the expression means and not of how it is spelled: two
that are said alike run alike, but for the hour of a change of clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, product

from pgsched import zones
from pgsched.cron import validate_cron
from pgsched.expression import Days, Expression, read
from pgsched.fields import LAST

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
NTH = {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth", LAST: "last"}
MINUTE, HOUR, DAY = 60, 3600, 86_400
UNITS = ((HOUR, "hour"), (MINUTE, "minute"), (1, "second"))

FIXED = "A time the clocks skip runs right after; one they repeat runs once."
WILDCARD = "Follows elapsed time when the clocks change."


def explain(expr: str, timezone: str | None = None) -> str:
    """
    Say in English when *expr* runs, by the 24-hour clock.

    With *timezone* a sentence is added on what happens when its clocks are
    changed, if *expr* runs within an hour that they skip or repeat in the ten
    years after the zone data were released.

    Raises:
        Invalid: The expression or the zone is no good, or it never happens there.
    """
    expression = read(expr)
    text = f"{_times(expression)}{_days(expression)}."
    text = text[0].upper() + text[1:]
    if timezone is None:
        return text
    validate_cron(expr, timezone)
    meets_a_change = any(
        expression.after(change.start - zones.SECOND) < change.end
        for change in zones.changes(timezone)
    )
    return f"{text} {FIXED if expression.fixed else WILDCARD}" if meets_a_change else text


# The time of day


def _times(expression: Expression) -> str:
    hours, minutes, seconds = expression.hours, expression.minutes, expression.seconds
    whole = seconds == (0,)
    series = _series(expression)
    if series and len(series) > 4:
        return _evenly(series, whole)
    if len(hours) * len(minutes) * len(seconds) <= 8:
        times = [h * HOUR + m * MINUTE + s for h, m, s in product(hours, minutes, seconds)]
        return f"at {_listed([_clock(time, whole) for time in times])}"
    parts = [] if whole else [_numbers("second", seconds, 60)]
    parts.append(_numbers("minute", minutes, 60))
    if len(minutes) < 60 or len(hours) < 24:
        parts.append(_numbers("hour", hours, 24))
    return f"at {' of '.join(parts)}"


def _series(expression: Expression) -> range | None:
    """All times of a day as one even series of seconds, if they are one."""
    series = _range(expression.seconds, 1)
    for values, unit in ((expression.minutes, MINUTE), (expression.hours, HOUR)):
        units = _range(values, unit)
        if not series or not units:
            return None
        unbroken = series.step * len(series) == unit == units.step
        if len(series) > 1 and len(units) > 1 and not unbroken:
            return None
        step = series.step if len(series) > 1 else units.step
        series = range(units[0] + series[0], units[-1] + series[-1] + 1, step)
    return series


def _range(values: Sequence[int], unit: int) -> range | None:
    step = values[1] - values[0] if len(values) > 1 else 1
    even = range(values[0] * unit, values[-1] * unit + 1, step * unit)
    return even if len(even) == len(values) and all(v * unit in even for v in values) else None


def _evenly(series: range, whole: bool) -> str:
    unit, name = next((u, n) for u, n in UNITS if series.step % u == 0)
    count = series.step // unit
    words = f"every {name}" if count == 1 else f"every {count} {name}s"
    if series.step <= HOUR and series[0] == 0 and series[-1] + series.step == DAY:
        return words
    return f"{words} from {_clock(series[0], whole)} to {_clock(series[-1], whole)}"


def _clock(time: int, whole: bool) -> str:
    text = f"{time // HOUR:02}:{time % HOUR // MINUTE:02}"
    return text if whole else f"{text}:{time % MINUTE:02}"


def _numbers(name: str, values: Sequence[int], size: int) -> str:
    if len(values) == size:
        return f"every {name}"
    some = name if len(values) == 1 else f"{name}s"
    return _every_nth(name, values, str) or f"{some} {_listed(_runs(values, str))}"


# The day


def _days(expression: Expression) -> str:
    days, months = expression.days, expression.months
    dates, weekdays = _dates(days), _weekdays(days)
    if days.either and not (dates and weekdays):  # any day, or a Friday: that is any day
        dates = weekdays = ""
    named = "" if len(months) == 12 else _months(months)
    if dates and weekdays:
        both = "or" if days.either else "and only"
        dates = f"in {named}, {dates}" if named else f"{dates} of the month"
        return f" {dates} {both} {weekdays}"
    if dates or days.nth:
        return f" {dates or weekdays} of {named or 'the month'}"
    if weekdays:
        comma = "" if weekdays.startswith("on ") else ","
        return f"{comma} {weekdays}" + (f" in {named}" if named else "")
    every_day = " every day" if len(expression.hours) < 24 else ""
    return every_day + (f" in {named}" if named else "")


def _dates(days: Days) -> str:
    """On which dates; nothing if on all."""
    dates = sorted(days.dates)
    if len(dates) == 31:
        return ""
    if days.nearest:
        near = "last day" if days.nearest == 31 else _ordinal(days.nearest)
        if days.nearest in (29, 30):  # which February may lack
            near = f"{near} or last day"
        return f"on the weekday nearest the {near}"
    spread = _every_nth("day", dates, lambda date: f"the {_ordinal(date)}")
    some = [spread] if spread else _runs(dates, _ordinal)
    if days.last:
        some.append("the last day" if some else "last day")
    return f"on {'' if spread else 'the '}{_listed(some)}"


def _weekdays(days: Days) -> str:
    """On which days of the week, or of the month; nothing if on all."""
    if days.nth:
        named = [
            f"{NTH[n]} {WEEKDAYS[day - 1]}" for n in NTH for day in range(7) if (day, n) in days.nth
        ]
        return f"on the {_listed(named)}"
    weekdays = sorted((day - 1) % 7 for day in days.weekdays)  # from Monday on
    if len(weekdays) == 7:
        return ""
    if len(weekdays) > 2 and weekdays[-1] - weekdays[0] == len(weekdays) - 1:
        return f"{WEEKDAYS[weekdays[0]]} to {WEEKDAYS[weekdays[-1]]}"
    return f"on {_listed([f'{WEEKDAYS[day]}s' for day in weekdays])}"


def _months(months: Sequence[int]) -> str:
    def name(month: int) -> str:
        return MONTHS[month - 1]

    return _every_nth("month", months, name) or _listed(_runs(months, name))


# Lists


def _runs(values: Sequence[int], show: Callable[[int], str]) -> list[str]:
    """The values, three and more in a row as 'a to b'."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return [
        text
        for run in runs
        for text in ([f"{show(run[0])} to {show(run[-1])}"] if len(run) > 2 else map(show, run))
    ]


def _every_nth(name: str, values: Sequence[int], show: Callable[[int], str]) -> str:
    """As 'every 7th minute from 0 to 56', if there are five at least, evenly and with gaps."""
    steps = {later - value for value, later in pairwise(values)}
    if len(values) < 5 or len(steps) > 1 or steps == {1}:
        return ""
    return f"every {_ordinal(*steps)} {name} from {show(values[0])} to {show(values[-1])}"


def _ordinal(number: int) -> str:
    ending = "th" if number in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _listed(items: Sequence[str]) -> str:
    *rest, last = items
    return f"{', '.join(rest)} and {last}" if rest else last
