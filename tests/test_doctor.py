"""The doctor: each thing it looks at, well and ill."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from pgsched import zones
from pgsched.db import Connection
from pgsched.doctor import CHECKS, Finding, clocks, examine, schedules, server
from pgsched.doctor.findings import named
from pgsched.doctor.offsets import samples
from tests.doctoring import Database, by_name, db, register_worker, session
from tests.roles import as_role

__all__ = ["db", "session"]

PARIS, LONDON, FAR = "Europe/Paris", "Europe/London", "Pacific/Kiritimati"
NOBODY = "postgresql://nobody@127.0.0.1:1/nothing"
SPRING, AUTUMN = datetime(2027, 3, 28, 1, tzinfo=UTC), datetime(2027, 10, 31, 1, tzinfo=UTC)


def schedule(db: Database, name: str, zone: str = "UTC", **columns: object) -> None:
    """A schedule as a worker has left it, with *columns* set over what it is."""
    db.execute(
        "select pgsched.schedule_cron('job', '0 8 * * *', p_name => %s, p_timezone => %s)",
        [name, zone],
    )
    values = {"next_run_at": datetime(2100, 1, 1, tzinfo=UTC), **columns}
    for column, value in values.items():
        query = f"update pgsched.schedules set {column} = %s where name = %s"
        db.execute(query.encode(), [value, name])


def believe(monkeypatch: pytest.MonkeyPatch, name: str, other: str) -> None:
    """Let our data say of the zone *name* what they say of *other*."""
    zone = zones.zone

    def believed(asked: str) -> ZoneInfo:
        return zone(other if asked == name else asked)

    monkeypatch.setattr(zones, "zone", believed)


def know_only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(zones, "names", lambda: frozenset(names))


# The database and its schema


async def test_a_database_that_answers_is_named_with_its_version(session: Connection) -> None:
    finding = await server.database(session)

    assert finding.status == "ok"
    assert f"PostgreSQL {session.info.server_version // 10000}" in finding.seen


async def test_a_database_that_does_not_answer_is_the_only_finding() -> None:
    (finding,) = await examine(NOBODY)

    assert (finding.name, finding.status) == ("database", "error")
    assert finding.seen.startswith("no connection to the database:")
    assert "\n" not in finding.seen
    assert "PGSCHED_DATABASE_URL" in finding.advice


async def test_a_version_that_is_too_old_is_an_error(
    session: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "OLDEST", 99)

    assert (await server.database(session)).status == "error"


async def test_a_version_that_nobody_has_tried_is_a_warning(
    session: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "NEWEST", 14)

    assert (await server.database(session)).status == "warning"


async def test_a_database_that_takes_no_writes_is_an_error(session: Connection) -> None:
    await session.execute("set default_transaction_read_only = on")

    finding = await server.database(session)

    assert finding.status == "error"
    assert finding.seen.endswith("and is read-only")


async def test_the_schema_of_this_version_is_well(dsn: str) -> None:
    assert (await server.schema(dsn)).status == "ok"


@pytest.mark.own_database
async def test_a_schema_that_is_behind_names_what_it_lacks(dsn: str, db: Database) -> None:
    db.execute("delete from pgsched.schema_migrations where version = 2")

    finding = await server.schema(dsn)

    assert finding.status == "error"
    assert finding.seen == "the schema lacks 002 definitions"
    assert finding.advice == "Run `pgsched migrate`."


async def test_without_the_schema_there_is_no_more_to_see(pg_server: Any) -> None:
    bare = f"host={pg_server.host} port={pg_server.port} user={pg_server.user} dbname=postgres"

    findings = await examine(bare)

    assert [(f.name, f.status) for f in findings] == [("database", "ok"), ("schema", "error")]


@pytest.mark.own_database
async def test_a_check_that_fails_does_not_keep_the_others(dsn: str, db: Database) -> None:
    db.execute("drop view pgsched.schedule_status cascade")

    findings = by_name(await examine(as_role(dsn, "operator")))

    assert findings["broken schedules"].seen.startswith("could not look:")
    assert findings["broken schedules"].status == "error"
    assert findings["zone release"].status == "ok"


# The clock


async def test_two_clocks_that_agree_are_well(session: Connection) -> None:
    assert (await server.clock(session)).status == "ok"


@pytest.mark.own_database
@pytest.mark.parametrize(("seconds", "side"), [(5, "behind"), (-5, "ahead of")])
async def test_a_clock_that_is_off_is_a_warning(
    session: Connection, db: Database, seconds: int, side: str
) -> None:
    db.execute(
        "create or replace function pgsched.now() returns timestamptz language sql volatile"
        f" return clock_timestamp() + interval '{seconds} seconds'".encode()
    )

    finding = await server.clock(session)

    assert finding.status == "warning"
    assert f"s {side} the database" in finding.seen


# Workers


async def test_no_live_worker_is_an_error(session: Connection) -> None:
    finding = await server.workers(session)

    assert finding.status == "error"
    assert "pgsched worker" in finding.advice


async def test_live_workers_are_counted_and_dead_ones_are_not(
    session: Connection, db: Database
) -> None:
    register_worker(db)
    register_worker(db)
    db.execute(
        "update pgsched.workers set lease_expires_at = pgsched.now() - interval '1 second'"
        " where id = (select max(w.id::text)::uuid from pgsched.workers as w)"
    )

    assert await server.workers(session) == Finding("workers", "ok", "1 alive")


# Schedules


async def test_a_broken_schedule_is_named_with_its_error(session: Connection, db: Database) -> None:
    schedule(db, "fine")
    schedule(db, "nightly", error_msg="no such day", is_active=False)

    finding = await schedules.broken_schedules(session)

    assert finding.status == "error"
    assert finding.seen == "1 schedule switched off: nightly (no such day)"
    assert "reschedule" in finding.advice


async def test_schedules_that_are_paused_are_not_broken(session: Connection, db: Database) -> None:
    schedule(db, "nightly")
    db.execute("select pgsched.pause_schedule('nightly')")

    assert (await schedules.broken_schedules(session)).status == "ok"


async def test_a_schedule_that_is_overdue_though_workers_are_alive_is_an_error(
    session: Connection, db: Database
) -> None:
    register_worker(db)
    schedule(db, "late", next_run_at=datetime.now(UTC) - timedelta(minutes=5))

    finding = await schedules.overdue_schedules(session)

    assert finding.status == "error"
    assert finding.seen.startswith("1 schedule due for more than a minute, the first since ")
    assert finding.seen.endswith(" UTC: late")


async def test_without_workers_an_overdue_schedule_is_no_riddle(
    session: Connection, db: Database
) -> None:
    schedule(db, "late", next_run_at=datetime.now(UTC) - timedelta(minutes=5))

    finding = await schedules.overdue_schedules(session)

    assert finding.status == "warning"
    assert "No worker is alive" in finding.advice


async def test_a_schedule_that_is_due_just_now_is_well(session: Connection, db: Database) -> None:
    register_worker(db)
    schedule(db, "due", next_run_at=datetime.now(UTC) - timedelta(seconds=5))

    assert (await schedules.overdue_schedules(session)).status == "ok"


async def test_of_many_schedules_only_some_are_named(session: Connection, db: Database) -> None:
    register_worker(db)
    for number in range(7):
        at = datetime.now(UTC) - timedelta(hours=number + 1)
        schedule(db, f"late-{number}", next_run_at=at)

    finding = await schedules.overdue_schedules(session)

    assert "7 schedules due" in finding.seen
    assert finding.seen.endswith(": late-6, late-5, late-4, late-3, late-2 and 2 more")


# Zone data


async def test_zones_about_which_both_agree_are_well(
    session: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    know_only(monkeypatch, PARIS, "Asia/Tokyo")

    finding = await clocks.zone_data(session)

    assert finding.status == "ok"
    assert "2 zones for 24 months" in finding.seen


async def test_a_zone_about_which_postgres_differs_is_named_with_the_first_instant(
    session: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    know_only(monkeypatch, PARIS, LONDON)
    believe(monkeypatch, PARIS, LONDON)

    finding = await clocks.zone_data(session)

    assert finding.status == "warning"
    assert f"in 1 zone (none of them used by schedules): {PARIS}. At 20" in finding.seen
    assert "alone" in finding.advice


async def test_the_zones_of_schedules_come_first(
    session: Connection, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule(db, "dunning", PARIS)
    know_only(monkeypatch, "America/Lima", "Asia/Tokyo", PARIS, FAR)
    for name in ("America/Lima", "Asia/Tokyo", PARIS):
        believe(monkeypatch, name, FAR)

    finding = await clocks.zone_data(session)

    assert "in 3 zones (1 of them used by schedules): Europe/Paris, America/Lima," in finding.seen


async def test_a_difference_of_an_hour_in_two_years_is_found(
    session: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Postgres has Paris right; we would change the clocks an hour earlier.
    know_only(monkeypatch, PARIS)
    offset = timedelta(hours=1)
    monkeypatch.setattr(
        "pgsched.doctor.clocks.samples",
        lambda names, start: [
            s._replace(epoch=s.epoch - int(offset.total_seconds()))
            for s in samples(names, start)
            if s.epoch == int(SPRING.timestamp())
        ],
    )

    finding = await clocks.zone_data(session)

    assert "At 2027-03-28 00:00:00 UTC it is 01:00:00 in Europe/Paris" in finding.seen


async def test_a_name_that_is_an_abbreviation_too_is_compared_only_if_it_is_used(
    session: Connection, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    know_only(monkeypatch, "CET", PARIS)
    assert (await clocks.zone_data(session)).status == "ok"

    schedule(db, "dunning", "CET")

    assert "(1 of them used by schedules): CET." in (await clocks.zone_data(session)).seen


def test_the_samples_show_both_sides_of_each_change() -> None:
    found = {(s.epoch, s.offset) for s in samples([PARIS], datetime(2027, 1, 1, tzinfo=UTC))}

    for change, before, after in ((SPRING, 3600, 7200), (AUTUMN, 7200, 3600)):
        at = int(change.timestamp())
        assert {(at - 1, before), (at, after)} <= found


def test_the_samples_reach_over_24_months() -> None:
    start = datetime(2027, 1, 1, tzinfo=UTC)
    epochs = sorted(s.epoch for s in samples(["Asia/Tokyo"], start))

    assert epochs[0] == int(start.timestamp())
    assert epochs[-1] - epochs[0] >= 728 * 86400
    assert max(b - a for a, b in pairwise(epochs)) <= 7 * 86400


# Zone names


async def test_names_that_both_know_are_well(
    session: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = await (await session.execute("select name from pg_timezone_names")).fetchall()
    know_only(monkeypatch, *(row[0] for row in rows if not row[0].startswith(clocks.NO_ZONES)))

    assert (await clocks.zone_names(session)).status == "ok"


async def test_a_zone_that_only_we_know_is_named(
    session: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    know_only(monkeypatch, *zones.names(), "Mars/Olympus_Mons")

    finding = await clocks.zone_names(session)

    assert finding.status == "warning"
    assert "Postgres does not know Mars/Olympus_Mons" in finding.seen
    assert "It refuses schedules there" in finding.advice


async def test_a_zone_that_only_postgres_knows_is_named(
    session: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    know_only(monkeypatch, *(zones.names() - {LONDON}))

    finding = await clocks.zone_names(session)

    assert finding.status == "warning"
    assert f"does not know {LONDON}" in finding.seen
    assert "pip install" in finding.advice


async def test_a_zone_of_a_schedule_in_a_spelling_that_only_postgres_reads_comes_first(
    session: Connection, db: Database
) -> None:
    schedule(db, "dunning", "europe/paris")

    finding = await clocks.zone_names(session)

    assert f"tzdata {zones.VERSION} does not know europe/paris" in finding.seen


# The release that schedules were computed with


async def test_schedules_computed_with_our_zone_data_are_well(
    session: Connection, db: Database
) -> None:
    schedule(db, "dunning", tz_version=zones.VERSION)
    schedule(db, "new", tz_version=None)

    assert (await clocks.zone_releases(session)).status == "ok"


@pytest.mark.parametrize(
    ("release", "advice"), [("2011a", "where the workers run"), ("2999z", "newer data than")]
)
async def test_schedules_computed_with_other_zone_data_are_a_warning(
    session: Connection, db: Database, release: str, advice: str
) -> None:
    schedule(db, "dunning", tz_version=release)

    finding = await clocks.zone_releases(session)

    assert finding.status == "warning"
    assert finding.seen == f"1 with {release}, and here is tzdata {zones.VERSION}"
    assert advice in finding.advice


# All of it


async def test_everything_is_looked_at_once(dsn: str, db: Database) -> None:
    register_worker(db)

    findings = await examine(as_role(dsn, "operator"))

    names = [finding.name for finding in findings]
    assert len(names) == len(set(names)) > len(CHECKS)
    assert {f.name for f in findings if f.status == "error"} == set()
    assert all(bool(f.advice) == (f.status != "ok") for f in findings)


def test_what_is_named_ends_with_a_count() -> None:
    assert named(["a", "b"]) == "a, b"
    assert named([*"abcdefg"]) == "a, b, c, d, e and 2 more"
    assert named([*"abcde"], 105) == "a, b, c, d, e and 100 more"
