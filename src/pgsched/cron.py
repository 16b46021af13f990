"""
When a cron expression runs next, in its own time zone.

Pure: no clock but the caller's, no database.  croniter reads the expression
and walks wall clocks that know no zone.  What happens on the day the clocks
are changed is decided here, as Debian's cron does it:

- A fixed time of day runs once a day: one that the spring gap swallows right
  after the gap, one that the autumn overlap repeats the first time only.
- With a wildcard in the second, minute or hour it follows elapsed time:
  nothing runs in a gap, and the repeated hour is an hour like any other.
"""

from __future__ import annotations

import difflib
import zoneinfo
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from croniter import CroniterBadDateError, croniter

from pgsched.errors import Invalid

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
ZERO = timedelta(0)
MAX_LENGTH = 1000

# The fields in the order they are written.
NAMES = ("second", "minute", "hour", "day of month", "month", "day of week")
RANGES = ("0-59", "0-59", "0-23", "1-31", "1-12", "0-7")
ALSO = ("", "", "", ", L, 15W", ", jan-dec", ", sun-sat, 5#2, L5")
ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
EVENLY = {1: "* * * * *", 60: "0 * * * *", 1440: "0 0 * * *", 10080: "0 0 * * 0"}

# Within 28 years of this day 29 February falls on every weekday, so what does
# not happen in the 50 years that croniter looks ahead never does.
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

# croniter and zoneinfo raise all of these at what they cannot read.
UNREADABLE = (ValueError, TypeError, AttributeError, LookupError, OverflowError, OSError)


class CronGenerator:
    """Cron expressions of five fields, or of six with the second first."""

    @staticmethod
    def is_valid_cron(expr: str) -> bool:
        """Whether *expr* can be read, and ever happens."""
        try:
            _read(expr)
        except Invalid:
            return False
        return True

    @staticmethod
    def get_next_run_time(
        expr: str, base_time: datetime | None = None, timezone: str = "UTC"
    ) -> datetime:
        """
        The first run strictly after *base_time* (default: now), in UTC.

        Raises:
            Invalid: The expression or the zone is no good, or *base_time* has none.
        """
        base = datetime.now(UTC) if base_time is None else base_time
        if base.tzinfo is None:
            raise Invalid(f"base_time {base} has no time zone: pass an aware datetime")
        cron, zone = _read(expr), _zone(timezone)
        try:
            return cron.next_fixed(base, zone) if cron.fixed else cron.next_elapsed(base, zone)
        except (ValueError, OverflowError):  # also past the year 9999
            raise Invalid(
                f"cron_expr {expr!r} never happens in {timezone} after {base}: change a field"
            ) from None

    @staticmethod
    def generate_simple_cron(interval_minutes: int) -> str:
        """
        The expression that runs every *interval_minutes*, evenly.

        Raises:
            Invalid: Cron starts anew each hour and day, and the interval does
                not divide them.
        """
        n = interval_minutes if type(interval_minutes) is int else 0
        if n in EVENLY:
            return EVENLY[n]
        if n > 0 and 60 % n == 0:
            return f"*/{n} * * * *"
        if n > 0 and n % 60 == 0 and 1440 % n == 0:
            return f"0 */{n // 60} * * *"
        raise Invalid(
            f"interval_minutes {interval_minutes!r} does not fit cron, which starts anew each hour"
            " and day: use a divisor of 60, hours that divide 24, 1440, 10080, or `every`"
        )


def validate_cron(expr: str, timezone: str = "UTC") -> None:
    """Refuse what cannot be read, what never happens, and a zone nobody knows."""
    CronGenerator.get_next_run_time(expr, None, timezone)


@dataclass(frozen=True)
class _Cron:
    """An expression that was read; `fixed` without a wildcard in its time of day."""

    walls: croniter
    fixed: bool

    def after(self, wall: datetime) -> datetime:
        """The next wall clock that matches, whether that time exists or not."""
        # A copy: croniter keeps its place, and one reading serves all threads.
        found: datetime = copy(self.walls).get_next(datetime, start_time=wall)
        return found

    def next_fixed(self, base: datetime, zone: ZoneInfo) -> datetime:
        here = base.astimezone(zone)
        wall = here.replace(tzinfo=None)
        if here.fold:  # what this hour repeats has run the first time
            wall = _leave(wall, zone, MINUTE) - SECOND
        wall = self.after(wall)
        if _again(wall, zone) < ZERO:
            wall = _leave(wall, zone, MINUTE)
        return _instant(wall, zone)

    def next_elapsed(self, base: datetime, zone: ZoneInfo) -> datetime:
        wall = base.astimezone(zone).replace(tzinfo=None)
        starts = [wall]
        if _again(wall, zone):  # this hour comes twice: look from its beginning too
            starts.append(_leave(wall, zone, -MINUTE) + MINUTE - SECOND)
        walls = [self.existing_after(start, zone) for start in starts]
        instants = [_instant(wall, zone, fold) for wall in walls for fold in (0, 1)]
        return min(instant for instant in instants if instant > base)

    def existing_after(self, wall: datetime, zone: ZoneInfo) -> datetime:
        for _ in range(100):  # what falls into that many gaps falls into all
            wall = self.after(wall)
            if _again(wall, zone) >= ZERO:
                return wall
            wall = _leave(wall, zone, MINUTE) - SECOND
        raise CroniterBadDateError


def _instant(wall: datetime, zone: ZoneInfo, fold: int = 0) -> datetime:
    return wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)


def _again(wall: datetime, zone: ZoneInfo) -> timedelta:
    """How much later *wall* comes again: zero as a rule, negative inside a gap."""
    return _instant(wall, zone, 1) - _instant(wall, zone, 0)


def _leave(wall: datetime, zone: ZoneInfo, step: timedelta) -> datetime:
    """The nearest minute, going by *step*, that comes exactly once."""
    wall = wall.replace(second=0, microsecond=0)
    while _again(wall, zone):
        wall += step
    return wall


def _zone(name: str) -> ZoneInfo:
    try:
        # One is another zone on every machine, the other counts leap seconds.
        if name != "localtime" and not name.startswith("right/"):
            return ZoneInfo(name)
    except UNREADABLE:
        pass
    near = difflib.get_close_matches(str(name)[:64], zoneinfo.available_timezones(), n=1)
    hint = f"did you mean {near[0]!r}?" if near else "use an IANA name, as 'Europe/Paris'"
    raise Invalid(f"timezone {name!r} is unknown: {hint}")


def _read(expr: object) -> _Cron:
    if not isinstance(expr, str) or len(expr) > MAX_LENGTH:
        raise Invalid(
            f"cron_expr must be a text as '0 3 * * *', of at most {MAX_LENGTH} characters"
        )
    return _parse(expr)


@lru_cache(maxsize=4096)
def _parse(expr: str) -> _Cron:
    fields = ALIASES.get(expr.strip().lower(), expr).lower().split()
    if len(fields) not in (5, 6):
        raise Invalid(
            f"cron_expr {expr!r} must have five fields (minute, hour, day of month, month, day of"
            f" week), six with the second first, or be one of {', '.join(ALIASES)}"
        )
    fields = ["0"] * (6 - len(fields)) + fields
    for problem in filter(None, [*map(_field_problem, range(6), fields), _day_problem(fields)]):
        raise Invalid(f"cron_expr {expr!r}: {problem}")
    # Only a leading star makes a wildcard; croniter is misled by one further on.
    fields = [field.replace(",*", f",{RANGES[i]}") for i, field in enumerate(fields)]
    try:
        walls = croniter(" ".join(fields), EPOCH, implement_cron_bug=True, second_at_beginning=True)
        walls.get_next(datetime)
    except UNREADABLE:
        raise Invalid(f"cron_expr {expr!r} never happens: no month of it has such a day") from None
    return _Cron(walls, fixed=not any(field.startswith("*") for field in fields[:3]))


def _field_problem(i: int, field: str) -> str | None:
    if not _values(i, field):
        return f"{field!r} is no {NAMES[i]}: use {RANGES[i]}{ALSO[i]}, *, */n, a-b or a,b"
    for term in field.split(","):
        span, step, _ = term.partition("/")
        low, dash, high = span.partition("-")
        # croniter reads 5-5 as "all of them", and */90 in silence as "the first".
        # (In the day of week */7 is the trick for "and it must be a Sunday".)
        if dash and (low, high) != ("0", "7") and _values(i, low) == _values(i, high):
            return f"{term!r} is a range of one {NAMES[i]}: write {low!r}"
        if step and i < 3 and len(values := _values(i, term)) == 1 and values != ("*",):
            return f"the step of {term!r} leaves one {NAMES[i]}: write {values[0]}, or use `every`"
    return None


def _day_problem(fields: list[str]) -> str | None:
    """With # L5 W croniter neither joins nor intersects two days: it does both in part."""
    day, weekday = fields[3], fields[5]
    special = "w" in day or "#" in weekday or "l" in weekday
    if special and day[0] not in "*?" and weekday[0] not in "*?":
        return f"day of month {day!r} and day of week {weekday!r} do not go together: use two"
    return None


@lru_cache(maxsize=4096)
def _values(i: int, field: str) -> tuple[int | str, ...]:
    """What one field means; nothing if it cannot be read."""
    if field.startswith("r"):  # croniter's random time: another one at every look
        return ()
    try:
        expanded, _ = croniter.expand(
            " ".join(["*"] * i + [field] + ["*"] * (5 - i)), second_at_beginning=True
        )
    except UNREADABLE:
        return ()
    return tuple(expanded[i - 1])  # croniter has moved the second to the end
