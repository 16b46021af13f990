"""
When a cron expression runs next, in its own time zone.

Pure: no clock but the caller's, no database.  An expression means wall clocks
that know no zone.  What happens on the day the clocks are changed is decided
here, as Debian's cron does it:

- A fixed time of day runs once a day: one that the spring gap swallows right
  after the gap, one that the autumn overlap repeats the first time only.
- With a wildcard in the second, minute or hour it follows elapsed time:
  nothing runs in a gap, and the repeated hour is an hour like any other.
"""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from pgsched import zones
from pgsched.errors import Invalid
from pgsched.expression import Expression, read
from pgsched.zones import SECOND, change_of

EVENLY = {1: "* * * * *", 60: "0 * * * *", 1440: "0 0 * * *", 10080: "0 0 * * 0"}


class CronGenerator:
    """Cron expressions of five fields, or of six with the second first."""

    @staticmethod
    def is_valid_cron(expr: str) -> bool:
        """Whether *expr* can be read, and ever happens."""
        try:
            read(expr)
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
        expression, zone = read(expr), zones.zone(timezone)
        next_run = _next_fixed if expression.fixed else _next_elapsed
        try:
            return next_run(expression, base, zone)
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


def _next_fixed(expression: Expression, base: datetime, zone: ZoneInfo) -> datetime:
    here = base.astimezone(zone)
    wall = _naive(here)
    change = change_of(wall, zone) if here.fold else None
    # What a repeated hour repeats has run the first time.
    wall = expression.after(change.end - SECOND if change else wall)
    change = change_of(wall, zone)
    return change.at if change and change.skips else _instant(wall, zone)


def _next_elapsed(expression: Expression, base: datetime, zone: ZoneInfo) -> datetime:
    wall = _naive(base.astimezone(zone))
    change = change_of(wall, zone)
    if not change:
        return _instant(_existing_after(expression, wall, zone), zone)
    # This hour comes twice: look from its beginning too.
    walls = [_existing_after(expression, start, zone) for start in (wall, change.start - SECOND)]
    instants = [_instant(wall.replace(fold=fold), zone) for wall in walls for fold in (0, 1)]
    return min(instant for instant in instants if instant > base)


def _existing_after(expression: Expression, wall: datetime, zone: ZoneInfo) -> datetime:
    for _ in range(100):  # what falls into that many gaps falls into all
        wall = expression.after(wall)
        change = change_of(wall, zone)
        if not (change and change.skips):
            return wall
        wall = change.end - SECOND
    raise ValueError("only ever within gaps")


# combine() takes a fifth of the time of replace(), and keeps the fold.


def _naive(at: datetime) -> datetime:
    return datetime.combine(at, at.time())


def _instant(wall: datetime, zone: ZoneInfo) -> datetime:
    return datetime.combine(wall, wall.time(), zone).astimezone(UTC)
