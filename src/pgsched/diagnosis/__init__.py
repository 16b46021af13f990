"""What the doctor asks the database: facts, no judgement."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple, cast

from pgsched.db import Session
from pgsched.diagnosis.asking import rows, value


class Server(NamedTuple):
    """What answers; `number` is 180006 for the version 18.6."""

    version: str
    number: int
    is_read_only: bool


class Sample(NamedTuple):
    """What the clocks of a zone are ahead of UTC at an instant; both in seconds."""

    zone: str
    epoch: int
    offset: int


class Difference(NamedTuple):
    """The first sample of a zone in which Postgres differs, and what it says then; naive."""

    zone: str
    at: datetime
    local: datetime


class Overdue(NamedTuple):
    """Active schedules that should have fired; `names` are those due the longest."""

    total: int
    names: list[str]
    since: datetime | None


async def server(session: Session) -> Server:
    """The server and its version."""
    query = """
        select
          current_setting('server_version'),
          current_setting('server_version_num')::integer,
          pg_is_in_recovery() or current_setting('transaction_read_only')::boolean
    """
    return Server._make((await rows(session, query))[0])


async def clock(session: Session) -> datetime:
    """What time it is, for pgsched."""
    return cast("datetime", await value(session, "select pgsched.now()"))


async def live_workers(session: Session) -> int:
    """How many workers hold a lease."""
    query = "select count(*) from pgsched.workers where lease_expires_at > pgsched.now()"
    return int(await value(session, query))


async def zone_names(session: Session) -> frozenset[str]:
    """All names of zones that Postgres knows, abbreviations left out."""
    return frozenset(row[0] for row in await rows(session, "select name from pg_timezone_names"))


async def zone_abbreviations(session: Session) -> frozenset[str]:
    """What Postgres takes for a fixed offset, also where a zone has the same name."""
    query = "select abbrev from pg_timezone_abbrevs"
    return frozenset(row[0] for row in await rows(session, query))


async def zones_in_use(session: Session) -> frozenset[str]:
    """The zones of the schedules that are read in one."""
    query = "select distinct timezone from pgsched.schedules where cron_expr is not null"
    return frozenset(row[0] for row in await rows(session, query))


async def first_differences(session: Session, samples: Iterable[Sample]) -> list[Difference]:
    """Where Postgres says otherwise, by zone; it must know all the zones."""
    query = """
        with sample as (
          select u.zone, to_timestamp(u.epoch) as at, u.utc_offset
          from unnest(%s::text[], %s::bigint[], %s::integer[]) as u (zone, epoch, utc_offset)
        )
        select distinct on (s.zone) s.zone, s.at, s.at at time zone s.zone
        from sample as s
        where s.at at time zone s.zone
          <> s.at at time zone 'UTC' + make_interval(secs => s.utc_offset)
        order by s.zone, s.at
    """
    columns = [list(column) for column in zip(*samples, strict=True)] or [[], [], []]
    return [Difference._make(row) for row in await rows(session, query, columns)]


async def other_zone_releases(session: Session, version: str) -> dict[str, int]:
    """How many schedules were computed with another release of the zone data, by release."""
    query = """
        select tz_version, count(*)
        from pgsched.schedules
        where is_active
          and cron_expr is not null
          and tz_version <> %s
        group by tz_version
        order by tz_version
    """
    return dict(cast("list[tuple[str, int]]", await rows(session, query, [version])))


async def overdue(session: Session, longer_than: timedelta, limit: int) -> Overdue:
    """The schedules that are due since more than *longer_than*, with *limit* names."""
    query = """
        with late as (
          select name, next_run_at
          from pgsched.schedules
          where is_active
            and next_run_at < (select pgsched.now()) - %s
        )
        select
          count(*),
          coalesce((array_agg(name order by next_run_at, name))[:%s], '{}'),
          min(next_run_at)
        from late
    """
    return Overdue._make((await rows(session, query, [longer_than, limit]))[0])
