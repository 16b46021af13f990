"""Time zones: one source, whatever the system has, and when their clocks are changed."""

from __future__ import annotations

import subprocess
import sys
import zoneinfo
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import tzdata

from pgsched.errors import Invalid
from pgsched.zones import VERSION, change_of, changes, names, zone

PARIS = "Europe/Paris"


def wall(text: str) -> datetime:
    return datetime.fromisoformat(text)


# Names


def test_a_zone_has_its_name_and_is_read_once() -> None:
    assert zone(PARIS).key == PARIS
    assert zone(PARIS) is zone(PARIS)


def test_every_name_is_a_zone() -> None:
    assert {zone(name).key for name in names()} == names()
    assert {"UTC", PARIS, "America/Argentina/Ushuaia", "Asia/Calcutta", "GMT"} <= names()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Europe/Pariss", "did you mean 'Europe/Paris'"),
        ("europe/paris", "did you mean 'Europe/Paris'"),
        (" UTC", "did you mean 'UTC'"),
        ("+08:00", "use an IANA name"),
        ("", "use an IANA name"),
        ("../zones", ""),
        ("/etc/localtime", ""),
        ("America", ""),
        ("Europe/Paris\0", ""),
        ("Europe//Paris", ""),
        ("tzdata.zi", ""),
        ("localtime", ""),
        ("posixrules", ""),
        ("right/UTC", ""),
        ("posix/UTC", ""),
        ("Factory", ""),
        ("x" * 10_000, ""),
        (None, ""),
        (1, ""),
        (b"UTC", ""),
        (["UTC"], ""),
        ({}, ""),
        (zoneinfo.ZoneInfo("UTC"), ""),
    ],
)
def test_what_is_no_place_is_refused_with_a_hint(name: Any, hint: str) -> None:
    with pytest.raises(Invalid, match=r"timezone .* is unknown") as refused:
        zone(name)
    assert hint in str(refused.value)


# The source


def test_the_version_is_that_of_the_package() -> None:
    assert tzdata.IANA_VERSION == VERSION
    assert int(VERSION[:4]) >= 2025


def test_the_data_are_those_of_the_package_and_not_of_the_system(tmp_path: Path) -> None:
    # A system on which Paris is in New York.
    source = Path(tzdata.__file__).parent / "zoneinfo/America/New_York"
    (tmp_path / "Europe").mkdir()
    (tmp_path / PARIS).write_bytes(source.read_bytes())
    script = f"""
from datetime import datetime
from zoneinfo import ZoneInfo
from pgsched.zones import zone
for paris in ZoneInfo("{PARIS}"), zone("{PARIS}"):
    print(datetime(2026, 1, 1, tzinfo=paris).strftime("%z"))
"""
    printed = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONTZPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.split() == ["-0500", "+0100"]


# Changes of the clocks


def test_a_time_that_is_skipped() -> None:
    change = change_of(wall("2026-03-29T02:30"), zone(PARIS))

    assert change is not None
    assert change.skips
    assert change.at == datetime(2026, 3, 29, 1, tzinfo=UTC)
    assert (change.old, change.new) == (wall("2026-03-29T02:00"), wall("2026-03-29T03:00"))


def test_a_time_that_comes_twice() -> None:
    change = change_of(wall("2026-10-25T02:30"), zone(PARIS))

    assert change is not None
    assert not change.skips
    assert change.at == datetime(2026, 10, 25, 1, tzinfo=UTC)
    assert (change.old, change.new) == (wall("2026-10-25T03:00"), wall("2026-10-25T02:00"))


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        (PARIS, "2026-03-29T02:00", "2026-03-29T03:00"),
        (PARIS, "2026-10-25T02:00", "2026-10-25T03:00"),
        ("Australia/Lord_Howe", "2026-10-04T02:00", "2026-10-04T02:30"),
        ("Australia/Lord_Howe", "2026-04-05T01:30", "2026-04-05T02:00"),
        ("America/Santiago", "2026-09-06T00:00", "2026-09-06T01:00"),
        ("Antarctica/Troll", "2026-03-29T01:00", "2026-03-29T03:00"),
        ("Pacific/Apia", "2011-12-30T00:00", "2011-12-31T00:00"),
        ("Africa/Monrovia", "1972-01-07T00:00:00", "1972-01-07T00:44:30"),
    ],
)
def test_a_change_reaches_from_its_first_second_to_its_last(
    name: str, start: str, end: str
) -> None:
    place, second = zone(name), timedelta(seconds=1)
    change = change_of(wall(start), place)

    assert change is not None
    assert (change.start, change.end) == (wall(start), wall(end))
    assert change_of(wall(end) - second, place) == change
    assert change_of(wall(start) - second, place) is None
    assert change_of(wall(end), place) is None


def test_the_fold_of_a_time_does_not_matter() -> None:
    for time in ("2026-03-29T02:30", "2026-10-25T02:30", "2026-10-25T12:00"):
        first = wall(time)
        assert change_of(first, zone(PARIS)) == change_of(first.replace(fold=1), zone(PARIS))


def test_all_changes_of_ten_years() -> None:
    assert changes("UTC") == changes("Asia/Kolkata") == ()
    assert len(changes(PARIS)) == 20
    assert {change.old.hour for change in changes(PARIS)} == {2, 3}
    for change in changes("Australia/Lord_Howe"):
        assert change_of(change.start, zone("Australia/Lord_Howe")) == change
        assert change.end - change.start == timedelta(minutes=30)


def test_changes_of_no_zone() -> None:
    with pytest.raises(Invalid, match="timezone 'Mars/Olympus' is unknown"):
        changes("Mars/Olympus")
