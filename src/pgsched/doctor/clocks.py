"""Zone data: ours, by which schedules fire, against those by which the database shows times."""

from __future__ import annotations

from datetime import UTC, datetime

from pgsched import diagnosis, zones
from pgsched.db import Session
from pgsched.diagnosis import Difference
from pgsched.doctor.findings import Finding, named, plural
from pgsched.doctor.offsets import samples

OURS = f"tzdata {zones.VERSION}"
UPDATE_OURS = "pip install --upgrade tzdata, and restart the workers"
UPDATE_THEIRS = (
    "tzdata on the machine of the database, or Postgres itself where it brings its own zones"
)
# Copies of other zones, and names for no place.
NO_ZONES = ("posix/", "right/", "posixrules", "localtime", *zones.NO_PLACE)


async def zone_data(session: Session) -> Finding:
    """What Postgres shows of local time is what we fire by."""
    used = await diagnosis.zones_in_use(session)
    shared = zones.names() & await diagnosis.zone_names(session)
    # `at time zone 'CET'` is an hour from UTC all year, whatever the zone of that name does.
    shared -= await diagnosis.zone_abbreviations(session) - used
    found = await diagnosis.first_differences(session, samples(sorted(shared), datetime.now(UTC)))
    if not found:
        seen = f"Postgres agrees with {OURS} about {len(shared)} zones for 24 months"
        return Finding("zone data", "ok", seen)
    found.sort(key=lambda difference: (difference.zone not in used, difference.zone))
    in_use = sum(difference.zone in used for difference in found)
    seen = (
        f"Postgres differs from {OURS} in {plural(len(found), 'zone')}"
        f" ({in_use or 'none'} of them used by schedules):"
        f" {named([difference.zone for difference in found])}. {_example(found[0])}"
    )
    advice = (
        f"Schedules fire by {OURS} alone; the times that psql shows there are off."
        f" Update {UPDATE_THEIRS}. If {OURS} is the older: {UPDATE_OURS}."
    )
    return Finding("zone data", "warning", seen, advice)


def _example(difference: Difference) -> str:
    zone, at, theirs = difference
    ours = at.astimezone(zones.zone(zone))
    return (
        f"At {at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC it is {ours:%H:%M:%S} in {zone}, and"
        f" {theirs:%H:%M:%S} for Postgres"
    )


async def zone_names(session: Session) -> Finding:
    """Both know the same zones."""
    used = await diagnosis.zones_in_use(session)
    theirs = await diagnosis.zone_names(session)
    theirs = frozenset(name for name in theirs if not name.startswith(NO_ZONES))
    ours = zones.names()
    seen, advice = [], []
    # Postgres takes zones in other spellings too: from psql they get into a schedule.
    if unknown := _used_first((theirs | used) - ours, used):
        seen.append(f"{OURS} does not know {named(unknown)}")
        advice.append(f"A schedule there is BROKEN: {UPDATE_OURS}.")
    if refused := _used_first(ours - theirs, used):
        seen.append(f"Postgres does not know {named(refused)}")
        advice.append(f"It refuses schedules there: update {UPDATE_THEIRS}.")
    if not seen:
        return Finding("zone names", "ok", f"Postgres and {OURS} know the same")
    return Finding("zone names", "warning", "; ".join(seen), " ".join(advice))


def _used_first(names: frozenset[str], used: frozenset[str]) -> list[str]:
    return sorted(names, key=lambda name: (name not in used, name))


async def zone_releases(session: Session) -> Finding:
    """Schedules were computed with the zone data that are installed here."""
    others = await diagnosis.other_zone_releases(session, zones.VERSION)
    if not others:
        return Finding("zone release", "ok", f"all schedules are computed with {OURS}")
    listed = ", ".join(f"{count:,} with {version}" for version, count in others.items())
    advice = []
    if min(others) < zones.VERSION:
        advice.append(
            "A worker with newer data computes older schedules anew within a minute: if this"
            " stays, update tzdata where the workers run, and restart them."
        )
    if max(others) > zones.VERSION:
        advice.append(f"Some worker has newer data than this machine: {UPDATE_OURS}.")
    return Finding("zone release", "warning", f"{listed}, and here is {OURS}", " ".join(advice))
