"""The command: what it prints, what it asks, and how it exits."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer

from pgsched.cli.printing import ago, length, span
from pgsched.cli.values import duration_of, object_of, time_of
from tests.commanding import Answer, Command
from tests.roles import as_role, login_of
from tests.waiting import eventually

Database = psycopg.Connection[Any]

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
HOUR = timedelta(hours=1)


@pytest.fixture
def schedules(command: Command) -> Command:
    def run(verb: str, *args: str, **how: Any) -> Answer:
        return command("schedules", verb, *args, **how)

    return run


@pytest.fixture
def db(dsn: str) -> Iterator[Database]:
    """A session beside the command, and a definition `job`."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("select pgsched.define_task('job')")
        yield connection


@pytest.fixture
def nightly(db: Database, schedules: Command) -> str:
    """A schedule at 02:30 in Paris."""
    set_ = ["nightly", "--definition", "job", "--cron", "30 2 * * *", "--tz", "Europe/Paris"]
    assert schedules("set", *set_).code == 0
    return "nightly"


@pytest.fixture
def worker(dsn: str, tmp_path: Path) -> Iterator[None]:
    """A worker that is alive; what it pushes finds nobody."""
    log = tmp_path / "worker.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "pgsched", "worker"],
            env={
                **os.environ,
                "PGSCHED_DATABASE_URL": as_role(dsn, "worker"),
                "PGSCHED_EXTERNAL_SYSTEM_URL": "http://127.0.0.1:1",
            },
            stdout=out,
            stderr=out,
        )
    try:
        eventually(lambda: "worker ready" in log.read_text())
        yield
    finally:
        process.terminate()
        process.wait()


def value(db: Database, query: str) -> Any:
    row = db.execute(query.encode()).fetchone()
    return row[0] if row else None


def enter(db: Database, name: str, at: datetime, outcome: str, **more: object) -> None:
    """Enter an instant into the ledger."""
    values = {"reason": None, "task_id": None, "folded_until": None, "folded_count": 1, **more}
    db.execute(
        "insert into pgsched.schedule_fires"
        " (schedule_id, scheduled_time, outcome, reason, task_id, folded_until, folded_count)"
        " select s.id, %s, %s, %s, %s, %s, %s from pgsched.schedules as s where s.name = %s",
        [at, outcome, *values.values(), name],
    )


def is_too_wide(text: str, columns: int) -> bool:
    return any(len(line) > columns for line in text.splitlines())


# What people type


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("0.5", 0.5),
        ("90s", 90),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86400),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("PT5M", 300),
        ("P1D", 86400),
    ],
)
def test_a_duration_is_a_number_with_a_unit_or_iso_8601(text: str, seconds: float) -> None:
    assert duration_of(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "5x", "m", "-5m", "5 m", "1h30", "1.2.3s", "P", "5months", "9" * 30 + "d"]
)
def test_what_is_no_duration_is_wrong_usage(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no duration: use 90"):
        duration_of(text)


def test_a_time_has_an_offset() -> None:
    assert time_of("2027-03-28T02:30:00Z") == datetime(2027, 3, 28, 2, 30, tzinfo=UTC)
    assert time_of("2027-03-28T02:30+02:00") == datetime(2027, 3, 28, 0, 30, tzinfo=UTC)


def test_a_time_without_an_offset_is_refused_with_one_that_is_right() -> None:
    with pytest.raises(typer.BadParameter, match="use 2027-03-28T02:30:00Z for UTC"):
        time_of("2027-03-28 02:30")


@pytest.mark.parametrize("text", ["tomorrow", "2027-13-01", ""])
def test_what_is_no_time_is_wrong_usage(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no time: use"):
        time_of(text)


@pytest.mark.parametrize("text", ["[1]", "7", "{", "null", ""])
def test_an_input_is_a_json_object(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        object_of(text)


# How times look


def test_a_span_has_its_two_largest_units() -> None:
    spans = [timedelta(), timedelta(seconds=59.9), timedelta(hours=9, minutes=24, seconds=5)]

    assert [span(s) for s in [*spans, timedelta(days=1, minutes=5)]] == [
        "0s",
        "59s",
        "9h 24m",
        "1d",
    ]


def test_a_length_is_shown_whole() -> None:
    lengths = [timedelta(days=1, hours=2, minutes=30), timedelta(seconds=0.5), timedelta()]

    assert [length(duration) for duration in lengths] == ["1d 2h 30m", "0.5s", "0s"]


def test_a_time_is_before_or_after_now() -> None:
    now = datetime(2027, 1, 1, tzinfo=UTC)

    assert (ago(now + HOUR, now), ago(now - HOUR, now)) == ("in 1h", "1h ago")


# Setting schedules


def test_set_creates_a_schedule(db: Database, schedules: Command) -> None:
    done = schedules("set", "hourly", "--definition", "job", "--cron", "0 * * * *")

    assert done == Answer(0, "created hourly, which runs at 0 * * * * UTC\n", "")
    assert value(db, "select cron_expr from pgsched.schedules") == "0 * * * *"


def test_set_passes_on_all_that_is_said(db: Database, schedules: Command) -> None:
    options = [
        *("--every", "5m", "--overlap", "queue_one", "--misfire", "all", "--grace", "2h"),
        *("--jitter", "30s", "--starts-at", "2027-01-01T00:00Z", "--ends-at", "2028-01-01T00:00Z"),
        *("--max-runs", "9", "--queue", "default", "--priority", "-3", "--input", '{"a": 1}'),
    ]
    assert schedules("set", "often", "--definition", "job", *options).code == 0

    (schedule,) = schedules("list", "--json").json["schedules"]
    assert {
        "every_seconds": 300,
        "overlap_policy": "queue_one",
        "misfire_policy": "all",
        "misfire_grace_seconds": 7200,
        "jitter_seconds": 30,
        "starts_at": "2027-01-01T00:00:00+00:00",
        "ends_at": "2028-01-01T00:00:00+00:00",
        "max_runs": 9,
        "queue": "default",
        "priority": -3,
        "input_params": {"a": 1},
    }.items() <= schedule.items()


def test_set_says_whether_there_was_something_to_change(
    nightly: str, db: Database, schedules: Command
) -> None:
    same = ["set", nightly, "--definition", "job", "--cron", "30 2 * * *", "--tz"]

    assert schedules(*same, "Europe/Paris").out.startswith("nothing to change in nightly,")
    assert schedules(*same, "Asia/Tokyo").out == (
        "changed nightly, which runs at 30 2 * * * Asia/Tokyo\n"
    )


def test_set_says_that_a_pause_stays(nightly: str, schedules: Command) -> None:
    schedules("pause", nightly, "--note", "disk full")

    done = schedules("set", nightly, "--definition", "job", "--cron", "0 3 * * *")

    assert done.out.endswith("; but it is paused until resumed: disk full\n")


@pytest.mark.parametrize(
    "when",
    [
        [],
        ["--cron", "0 * * * *", "--every", "5m"],
        ["--every", "5m", "--tz", "Europe/Paris"],
        ["--every", "5x"],
        ["--cron", "0 * * * *", "--overlap", "perhaps"],
        ["--cron", "0 * * * *", "--starts-at", "2027-01-01"],
        ["--cron", "0 * * * *", "--input", "[]"],
        ["--cron", "0 * * * *", "--priority", "10"],
    ],
)
def test_wrong_usage_is_exit_code_2(db: Database, schedules: Command, when: list[str]) -> None:
    done = schedules("set", "hourly", "--definition", "job", *when)

    assert (done.code, done.out) == (2, "")
    assert "Usage: pgsched schedules set" in done.err
    assert value(db, "select count(*) from pgsched.schedules") == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--definition", "job", "--cron", "61 * * * *"], "cron_expr '61 * * * *'"),
        (["--definition", "job", "--cron", "0 * * * *", "--tz", "Europe/Pari"], "'Europe/Paris'?"),
        (["--definition", "nope", "--cron", "0 * * * *"], "'nope'"),
        (["--definition", "job", "--every", "0.5s"], "every"),
    ],
)
def test_what_is_refused_is_one_line_and_exit_code_1(
    db: Database, schedules: Command, given: list[str], message: str
) -> None:
    done = schedules("set", "hourly", *given)

    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(r"pgsched: [^\n]+\n", done.err)
    assert message in done.err


VERBS = {
    "show": [],
    "reschedule": ["--every", "5m"],
    "pause": [],
    "resume": [],
    "trigger": [],
    "fires": [],
    "changes": [],
    "delete": ["--yes"],
    "backfill": ["--from", "2026-01-01T00:00Z", "--to", "2026-01-02T00:00Z", "--yes"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_schedule_that_does_not_exist_is_exit_code_1(schedules: Command, verb: str) -> None:
    done = schedules(verb, "nope", *VERBS[verb])

    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(r"pgsched: schedule: no schedule [^\n]+'nope'[^\n]*\n", done.err)


# Changing schedules


def test_reschedule_changes_the_time_alone(nightly: str, db: Database, schedules: Command) -> None:
    done = schedules("reschedule", nightly, "--cron", "0 4 * * *")

    assert done == Answer(0, "nightly runs at 0 4 * * * Europe/Paris\n", "")


def test_reschedule_needs_something_to_change(nightly: str, schedules: Command) -> None:
    assert schedules("reschedule", nightly).code == 2


def test_reschedule_starts_a_broken_schedule_again(
    nightly: str, db: Database, schedules: Command
) -> None:
    db.execute("update pgsched.schedules set is_active = false, error_msg = 'no such day'")

    schedules("reschedule", nightly, "--tz", "Asia/Tokyo")

    assert schedules("list", "--json").json["schedules"][0]["state"] == "ACTIVE"


def test_a_pause_has_a_note_and_an_end(nightly: str, schedules: Command) -> None:
    until = ["--note", "disk full", "--until", "2100-01-01T01:00+01:00"]

    done = schedules("pause", nightly, *until)

    assert done.out == "nightly is paused until 2100-01-01 00:00:00 UTC: disk full\n"


def test_resume_ends_a_pause_and_says_when_there_was_none(nightly: str, schedules: Command) -> None:
    schedules("pause", nightly)

    assert schedules("resume", nightly).out == "nightly is ACTIVE; it was PAUSED\n"
    assert schedules("resume", nightly).out == "nightly was not paused\n"


def test_resume_does_not_hide_that_a_schedule_is_broken(
    nightly: str, db: Database, schedules: Command
) -> None:
    db.execute("update pgsched.schedules set is_active = false, error_msg = 'no such day'")

    assert schedules("resume", nightly).out == "nightly is ACTIVE; it was BROKEN: no such day\n"


def test_trigger_prints_the_id_of_the_task(nightly: str, db: Database, schedules: Command) -> None:
    done = schedules("trigger", nightly, "--input", '{"invoice": 7}')

    query = "select id || ' ' || (input_params ->> 'invoice') from pgsched.scheduled_tasks"
    assert f"{done.out.strip()} 7" == value(db, query)


def test_delete_asks_first(nightly: str, db: Database, schedules: Command) -> None:
    done = schedules("delete", nightly, answer="n\n")

    assert done.code == 1
    assert done.out.startswith("nightly is ACTIVE, runs at 30 2 * * * Europe/Paris")
    assert "delete it? [y/N]" in done.err
    assert done.err.endswith("pgsched: not confirmed: nothing was done\n")
    assert value(db, "select count(*) from pgsched.schedules") == 1


def test_delete_does_nothing_where_nobody_can_say_yes(
    nightly: str, db: Database, schedules: Command
) -> None:
    done = schedules("delete", nightly, answer="")

    assert done.code == 1
    assert "--yes does not ask" in done.err
    assert value(db, "select count(*) from pgsched.schedules") == 1


@pytest.mark.parametrize(("args", "answer"), [([], "y\n"), (["--yes"], "")])
def test_delete_says_what_it_took_along(
    nightly: str, db: Database, schedules: Command, args: list[str], answer: str
) -> None:
    schedules("trigger", nightly)

    done = schedules("delete", nightly, *args, answer=answer)

    assert done.out.endswith("deleted nightly; 1 waiting task cancelled\n")
    assert value(db, "select count(*) from pgsched.schedules") == 0


# Looking at schedules


def test_list_says_of_each_whether_it_fires_and_when(
    nightly: str, db: Database, schedules: Command
) -> None:
    at = datetime.now(UTC) + HOUR + timedelta(minutes=5, seconds=30)
    db.execute("update pgsched.schedules set next_run_at = %s", [at])

    done = schedules("list")

    assert "nightly ACTIVE 30 2 * * * Europe/Paris in 1h 5m -" in done.words


def test_list_says_why_those_do_not_fire_that_do_not(
    nightly: str, db: Database, schedules: Command
) -> None:
    schedules("set", "hourly", "--definition", "job", "--cron", "0 * * * *")
    schedules("pause", "hourly", "--note", "disk full")
    db.execute(
        "update pgsched.schedules set is_active = false, error_msg = 'no such day'"
        " where name = 'nightly'"
    )

    done = schedules("list")

    assert "hourly is paused until resumed: disk full" in done.out
    assert "nightly is switched off: no such day" in done.out


def test_list_says_how_late_a_schedule_is(nightly: str, db: Database, schedules: Command) -> None:
    at = datetime.now(UTC) - HOUR - timedelta(minutes=2, seconds=5)
    db.execute("update pgsched.schedules set next_run_at = %s", [at])

    done = schedules("list")

    assert "1h 2m late" in done.words
    assert "`pgsched doctor`" in done.out


def test_list_says_what_became_of_the_latest_instant(
    nightly: str, db: Database, schedules: Command
) -> None:
    enter(db, nightly, datetime.now(UTC) - HOUR, "SKIPPED", reason="still at it")
    db.execute("update pgsched.schedules set idle_count = 3")

    assert "SKIPPED 3x 1h ago" in schedules("list", columns=120).out


def test_list_takes_a_state(nightly: str, schedules: Command) -> None:
    assert "nightly" in schedules("list", "--state", "active").out
    assert schedules("list", "--state", "BROKEN").out == "no schedule is BROKEN\n"
    assert schedules("list", "--state", "BROKEN", "--json").json == {"schedules": []}


@pytest.mark.parametrize("columns", [60, 80])
def test_a_narrow_terminal_gets_all_of_it(db: Database, schedules: Command, columns: int) -> None:
    name = "the-schedule-with-the-name-that-goes-on-and-on-and-on"
    zone = "America/Argentina/ComodRivadavia"
    schedules("set", name, "--definition", "job", "--cron", "*/15 8-18 * * 1-5", "--tz", zone)
    enter(db, name, datetime.now(UTC) - HOUR, "SKIPPED", reason="still at it " * 9)
    db.execute("update pgsched.schedules set idle_count = 842")

    for verb in (["list"], ["fires", name], ["changes", name], ["show", name]):
        done = schedules(*verb, columns=columns)

        assert done.code == 0
        assert not is_too_wide(done.out, columns), verb
    listed = schedules("list", columns=columns).out.splitlines()
    first, last = listed[0].index("State"), listed[0].index("Latest")
    assert "".join(line[:first].strip() for line in listed[1:]) == name
    assert " ".join(line[last:].strip() for line in listed[1:]).strip() == "SKIPPED 842x 1h ago"


def test_in_a_pipe_a_row_is_one_line(
    db: Database, schedules: Command, monkeypatch: pytest.MonkeyPatch, dsn: str
) -> None:
    zone = "America/Argentina/ComodRivadavia"
    schedules("set", "n" * 60, "--definition", "job", "--cron", "*/15 8-18 * * 1-5", "--tz", zone)
    monkeypatch.delenv("COLUMNS")

    listed = subprocess.run(
        [sys.executable, "-m", "pgsched", "schedules", "list"],
        capture_output=True,
        text=True,
        check=True,
    )

    _, row = listed.stdout.splitlines()
    assert row.split()[:2] == ["n" * 60, "ACTIVE"]
    assert row == row.rstrip()


def test_what_others_wrote_cannot_move_the_cursor(db: Database, schedules: Command) -> None:
    evil = "red\x1b[31m[bold]\r\nalert"
    db.execute("select pgsched.schedule_cron('job', '0 * * * *', p_name => %s)", [evil])
    db.execute("select pgsched.pause_schedule(%s, %s)", [evil, evil])

    for verb in (["list"], ["show", evil], ["changes", evil]):
        done = schedules(*verb)

        assert done.code == 0
        assert "[bold]" in done.words
        assert {char for char in done.out if not char.isprintable()} == {"\n"}


def test_show_tells_how_it_is_set_and_why_it_fires(nightly: str, schedules: Command) -> None:
    shown = schedules("show", nightly)

    assert "Policies overlap skip, misfire latest, grace 1m" in shown.words
    assert "no worker is alive to fire it" in shown.words


def test_show_names_the_next_run_in_both_zones(
    nightly: str, db: Database, schedules: Command
) -> None:
    db.execute("update pgsched.schedules set next_run_at = '2100-01-01 01:30:00Z'")

    shown = schedules("show", nightly, columns=120)

    assert "2100-01-01 01:30:00 UTC, in " in shown.out
    assert "(Fri 02:30:00 in Europe/Paris)" in shown.out


def test_show_takes_an_id(nightly: str, db: Database, schedules: Command) -> None:
    schedule_id = value(db, "select id::text from pgsched.schedules")

    assert "nightly" in schedules("show", schedule_id).out


def test_show_has_all_in_one_document(nightly: str, db: Database, schedules: Command) -> None:
    enter(db, nightly, datetime(2026, 1, 1, tzinfo=UTC), "MISSED", reason="nobody was there")

    shown = schedules("show", nightly, "--json").json

    assert (shown["name"], shown["state"], shown["every_seconds"]) == ("nightly", "ACTIVE", None)
    assert "no worker is alive" in shown["explanation"]
    assert shown["fires"][0]["scheduled_time"] == "2026-01-01T00:00:00+00:00"
    assert shown["backfills"] == []


def test_fires_tells_of_each_instant(nightly: str, db: Database, schedules: Command) -> None:
    task = "01a20a9c-6078-7494-9f48-64aa18e8a0b2"
    enter(db, nightly, datetime(2026, 1, 2, 8, tzinfo=UTC), "RUN", task_id=task)
    enter(db, nightly, datetime(2026, 1, 1, 8, tzinfo=UTC), "SKIPPED", reason="still at it")
    until = datetime(2025, 12, 31, tzinfo=UTC)
    first = datetime(2025, 6, 1, tzinfo=UTC)
    enter(db, nightly, first, "MISSED", reason="nobody", folded_until=until, folded_count=1440)

    lines = [line.split() for line in schedules("fires", nightly, columns=200).out.splitlines()[1:]]

    assert lines == [
        ["2026-01-02", "08:00:00", "RUN", task],
        ["2026-01-01", "08:00:00", "SKIPPED", "still", "at", "it"],
        [
            *("2025-06-01", "00:00:00", "MISSED"),
            *("1,440", "instants", "up", "to", "2025-12-31", "00:00:00:", "nobody"),
        ],
    ]
    assert len(schedules("fires", nightly, "--limit", "2", "--json").json["fires"]) == 2


def test_changes_tells_who_did_what(nightly: str, db: Database, schedules: Command) -> None:
    schedules("reschedule", nightly, "--cron", "0 4 * * *")
    schedules("pause", nightly, "--note", "disk full")
    schedules("trigger", nightly)
    schedules("delete", nightly, "--yes")
    role = login_of("operator")

    told = schedules("changes", nightly, columns=200).out

    changes = [line.split(maxsplit=4)[2:] for line in told.splitlines()[1:]]
    assert [change[:2] for change in changes] == [
        [change, role] for change in ("DELETED", "TRIGGERED", "PAUSED", "CHANGED", "CREATED")
    ]
    assert [what for _, _, what in (changes[0], *changes[2:])] == [
        "cron_expr: 0 4 * * *; timezone: Europe/Paris",
        "pause_note: disk full",
        "cron_expr: 30 2 * * * → 0 4 * * *",
        "cron_expr: 30 2 * * *; timezone: Europe/Paris",
    ]
    assert len(schedules("changes", nightly, "--json").json["changes"]) == 5


# Backfills

JUNE = ["--from", "2026-06-01T00:00Z", "--to", "2026-06-30T23:59Z"]


def test_backfill_says_first_what_it_comes_to(
    nightly: str, db: Database, schedules: Command
) -> None:
    for day in (3, 4):
        at = datetime(2026, 6, day, 0, 30, tzinfo=UTC)
        enter(db, nightly, at, "RUN", task_id="01a20a9c-6078-7494-9f48-64aa18e8a0b2")

    done = schedules("backfill", nightly, *JUNE, answer="no\n")

    assert done.out.splitlines() == [
        "nightly has 30 instants in that range, of which 2 have run",
        "first 2026-06-01 00:30:00 UTC",
        "last  2026-06-30 00:30:00 UTC",
    ]
    assert "run 28 now? [y/N]" in done.err
    assert done.code == 1
    assert value(db, "select count(*) from pgsched.schedule_backfills") == 0


def test_backfill_of_a_range_with_nothing_to_run_asks_nothing(
    nightly: str, schedules: Command
) -> None:
    hour = ["--from", "2026-06-01T05:00Z", "--to", "2026-06-01T06:00Z"]

    done = schedules("backfill", nightly, *hour)

    assert done == Answer(0, "nightly has no instant in that range\nnothing to run\n", "")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([*JUNE, "--max-instants", "29"], "more than 29 instants"),
        (["--from", "2026-06-01T00:00Z", "--to", "2100-01-01T00:00Z"], "is in the future"),
        (["--from", "2026-06-02T00:00Z", "--to", "2026-06-01T00:00Z"], "must not be after"),
    ],
)
def test_backfill_refuses_before_it_asks(
    nightly: str, schedules: Command, given: list[str], message: str
) -> None:
    done = schedules("backfill", nightly, *given)

    assert done.code == 1
    assert message in done.err
    assert "[y/N]" not in done.err


def test_backfill_needs_both_ends(nightly: str, schedules: Command) -> None:
    assert schedules("backfill", nightly, *JUNE[:2]).code == 2


@pytest.mark.usefixtures("worker")
def test_backfill_waits_until_it_is_done(nightly: str, db: Database, schedules: Command) -> None:
    done = schedules("backfill", nightly, *JUNE, "--yes")

    assert done.code == 0
    assert done.out.endswith("done: 30 runs made of 30 instants\n")
    query = "select count(*) from pgsched.schedule_fires where outcome = 'RUN'"
    assert value(db, query) == 30
    assert "DONE, 30 runs of 30 instants" in schedules("show", nightly).words


@pytest.mark.usefixtures("worker")
def test_a_backfill_that_the_worker_refuses_is_exit_code_1(
    nightly: str, db: Database, schedules: Command
) -> None:
    db.execute("update pgsched.task_definitions set is_active = false")

    done = schedules("backfill", nightly, *JUNE, "--yes")

    assert done.code == 1
    assert done.err == "pgsched: backfill refused: its definition is not active\n"


def test_backfill_can_be_left_to_the_workers(
    nightly: str, db: Database, schedules: Command
) -> None:
    done = schedules("backfill", nightly, *JUNE, "--yes", "--no-wait")

    assert done.code == 0
    waiting = value(db, "select id::text from pgsched.schedule_backfills where status = 'WAITING'")
    assert f"backfill {waiting} waits for a worker" in done.out


@pytest.mark.usefixtures("nightly", "command")
def test_a_backfill_that_nobody_takes_says_what_to_do_and_can_be_left(db: Database) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pgsched", "schedules", "backfill", "nightly", *JUNE, "--yes"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    with process:
        notice = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()

    assert "start one with `pgsched worker`" in notice
    assert (process.returncode, rest) == (130, "")
    assert value(db, "select status from pgsched.schedule_backfills") == "WAITING"


# Cron expressions


def test_cron_next_shows_what_a_change_of_the_clocks_does(pgsched: Command) -> None:
    paris = ["--tz", "Europe/Paris", "--from", "2027-03-27T00:00", "--count", "3"]

    lines = pgsched("cron", "next", "30 2 * * *", *paris, columns=200).out.splitlines()

    assert lines[0] == "Sat 2027-03-27 02:30:00+01:00  2027-03-27 01:30:00 UTC"
    assert lines[1].startswith(
        "Sun 2027-03-28 03:00:00+02:00  2027-03-28 01:00:00 UTC  02:30 does not exist"
    )
    assert len(lines) == 3


def test_cron_next_puts_a_note_below_where_the_terminal_is_narrow(pgsched: Command) -> None:
    paris = ["--tz", "Europe/Paris", "--from", "2027-03-28T00:00", "--count", "1"]

    done = pgsched("cron", "next", "30 2 * * *", *paris)

    assert not is_too_wide(done.out, 80)
    assert done.out.splitlines()[1].startswith("    ^ 02:30 does not exist")


def test_cron_next_shows_utc_once(pgsched: Command) -> None:
    done = pgsched("cron", "next", "@daily", "--from", "2027-01-01T12:00+14:00", "--count", "1")

    assert done == Answer(0, "Fri 2027-01-01 00:00:00+00:00\n", "")


def test_cron_next_gives_one_document(pgsched: Command) -> None:
    paris = ["--tz", "Europe/Paris", "--from", "2027-01-01T00:00", "--count", "1", "--json"]

    assert pgsched("cron", "next", "30 2 * * *", *paris).json == {
        "next": [
            {
                "at": "2027-01-01T01:30:00+00:00",
                "local": "2027-01-01T02:30:00+01:00",
                "note": None,
            }
        ]
    }


@pytest.mark.parametrize("verb", ["next", "explain"])
@pytest.mark.parametrize("given", [["61 * * * *"], ["0 0 31 2 *"], ["@daily", "--tz", "Nowhere"]])
def test_an_expression_that_cannot_be_read_is_exit_code_1(
    pgsched: Command, verb: str, given: list[str]
) -> None:
    done = pgsched("cron", verb, *given)

    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(r"pgsched: [^\n]+\n", done.err)


def test_cron_explain_says_it_in_words(pgsched: Command) -> None:
    done = pgsched("cron", "explain", "30 2 * * *", "--tz", "Europe/Paris")

    assert done.code == 0
    assert "02:30" in done.out
    assert "clocks" in done.out


# The doctor


def test_doctor_lists_what_it_found_and_what_to_do(db: Database, command: Command) -> None:
    done = command("doctor")

    assert done.code == 1
    assert re.search(r"^ok +schema +at \d{3}$", done.out, re.MULTILINE)
    assert re.search(r"^error +workers +none is alive", done.out, re.MULTILINE)
    assert "→ Start one: pgsched worker." in done.out
    assert re.search(r"^1 error, \d warnings?, \d not seen$", done.out, re.MULTILINE)
    assert not is_too_wide(done.out, 80)


def test_doctor_is_content_when_nothing_is_wrong(db: Database, command: Command) -> None:
    db.execute("select pgsched.register_worker('host', 1, 'test')")

    done = command("doctor", "--json")

    assert done.code == 0
    assert {"name": "workers", "status": "ok", "seen": "1 alive", "advice": ""} in (
        done.json["findings"]
    )


def test_doctor_finds_that_there_is_no_database(pgsched: Command) -> None:
    done = pgsched("doctor", "--database-url", NOWHERE)

    assert done.code == 1
    assert re.search(r"^error +database +no connection", done.out, re.MULTILINE)


# What goes wrong in all of them


@pytest.mark.parametrize("verb", ["list", *VERBS])
def test_a_database_that_cannot_be_reached_is_one_line(pgsched: Command, verb: str) -> None:
    name = [] if verb == "list" else ["name", *VERBS[verb]]

    done = pgsched("schedules", verb, *name, "--database-url", NOWHERE)

    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(r"pgsched: no connection to the database: [^\n]+\n", done.err)


def test_a_database_without_the_schema_says_what_to_do(pgsched: Command, pg_server: Any) -> None:
    bare = f"host={pg_server.host} port={pg_server.port} user={pg_server.user} dbname=postgres"

    done = pgsched("schedules", "list", "--database-url", bare)

    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(r"pgsched: the schema lacks [^\n]+: run `pgsched migrate`\n", done.err)


@pytest.mark.own_database
def test_what_the_database_refuses_is_one_line(db: Database, schedules: Command) -> None:
    db.execute(
        "create or replace function pgsched.now() returns timestamptz language plpgsql"
        " as $$ begin raise 'no time'; end; $$"
    )

    assert schedules("list") == Answer(1, "", "pgsched: the database says: no time\n")


def test_behind_a_pooler_it_works_as_well(
    nightly: str, schedules: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSCHED_POLL_ONLY", "true")

    assert nightly in schedules("list").out


def test_without_a_database_url_the_setting_is_named(
    pgsched: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGSCHED_DATABASE_URL", raising=False)

    done = pgsched("schedules", "list")

    assert done.code == 1
    assert done.err.startswith("pgsched: PGSCHED_DATABASE_URL is missing.")


def test_a_command_that_does_not_exist_is_exit_code_2(pgsched: Command) -> None:
    assert pgsched("schedules", "sing").code == 2
    assert pgsched("sing").code == 2


def test_migrate_tells_what_is_applied(dsn: str, command: Command) -> None:
    done = command("migrate", "--status")

    assert done.code == 0
    assert re.search(r"^001 +foundation +applied +20\d\d-", done.out, re.MULTILINE)
    assert "0 applied just now" in command("migrate", "--database-url", dsn).out


def test_migrate_is_for_the_owner(command: Command) -> None:
    done = command("migrate")

    assert done.code == 1
    assert done.err.startswith("pgsched: the schema pgsched belongs to pgsched_test_owner")


def test_the_version_is_printed(pgsched: Command) -> None:
    done = pgsched("--version")

    assert (done.code, done.err) == (0, "")
    assert done.out.strip()
