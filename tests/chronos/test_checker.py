"""The checker of the year finds what is wrong, in a ledger and in the code that writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest

from pgsched import firing
from pgsched.due import DueSchedule
from tests.chronos import tickers
from tests.chronos.checker import (
    Committed,
    Event,
    Fire,
    Paused,
    Quiet,
    Resumed,
    complaints,
    predict,
)
from tests.chronos.oracle import BEGIN, HOUR, MINUTE, YEAR, Spec, instants
from tests.chronos.test_year import expected_of, report
from tests.chronos.world import World
from tests.restoring import restore_tables
from tests.sql.sched import Sched

Ledger = list[Fire]

# Of a ledger

SPEC = Spec("s", "*/10 * * * *", overlap="allow", misfire="none", grace=5 * MINUTE)
INSTANTS = instants(SPEC._replace(ends_at=BEGIN + timedelta(days=2)))


def at(clock: str, day: int = 1) -> datetime:
    return datetime.fromisoformat(f"2026-01-0{day}T{clock}+00:00")


# Two timely runs, a pause of half an hour, an outage of a day, one timely run.
HISTORY: list[Event] = [
    Committed(BEGIN, {}),
    Committed(at("00:10"), {}),
    Committed(at("00:21"), {}),
    Paused(at("00:35")),
    Resumed(at("01:05")),
    Committed(at("01:06"), {}),
    Quiet(at("01:06")),
    Committed(at("00:04", day=2), {}),
    Quiet(at("00:05", day=2)),
]
EXPECTED = predict(SPEC, timedelta(), INSTANTS, HISTORY).expected
GRACE = "misfire_policy none"


def true_ledger() -> Ledger:
    """As it should be; the outage is one row."""
    late = sorted(instant for instant in EXPECTED if at("01:06") < instant < at("00:00", day=2))
    return [
        Fire(at("00:10"), "RUN", None, "a"),
        Fire(at("00:20"), "RUN", None, "b"),
        Fire(at("00:30"), "MISSED", "paused", None),
        Fire(at("01:10"), "MISSED", GRACE, None, late[-1], len(late)),
        Fire(at("00:00", day=2), "RUN", None, "c"),
    ]


def found(ledger: Iterable[Fire], tasks: str = "abc") -> list[str]:
    """The complaints about a ledger, with these of its tasks there."""
    times = {"a": at("00:10"), "b": at("00:20"), "c": at("00:00", day=2), "x": at("00:30")}
    there = [(task, times[task]) for task in tasks]
    return [str(complaint) for complaint in complaints(SPEC, EXPECTED, list(ledger), there)]


def test_nothing_is_wrong_with_a_true_ledger() -> None:
    assert len(EXPECTED) == 5 - 1 + 6 * 24 - 1 - 6
    assert found(true_ledger()) == []


def test_a_row_that_is_gone_is_found() -> None:
    ledger = true_ledger()
    for n, fire in enumerate(ledger):
        without = found(ledger[:n] + ledger[n + 1 :])
        assert any("is not there" in text for text in without), fire
    assert found(ledger[1:]) == [
        "2026-01-01 00:10:00 should be RUN, and is not there",
        "2026-01-01 00:10:00 has the task a, which is not in the ledger",
    ]


def test_an_instant_that_is_there_twice_is_found() -> None:
    inside = Fire(at("02:00"), "MISSED", GRACE, None, at("03:00"), 7)
    ledger = [*true_ledger(), inside]
    ledger[3] = ledger[3]._replace(folded_count=ledger[3].folded_count - 1)

    assert "2026-01-01 02:10:00 is there 2 times" in found(ledger)


@pytest.mark.parametrize("by", [-1, 1, 100])
def test_a_wrong_count_is_found(by: int) -> None:
    ledger = true_ledger()
    count = ledger[3].folded_count
    ledger[3] = ledger[3]._replace(folded_count=count + by)

    assert found(ledger) == [f"2026-01-01 01:10:00 counts {count + by}, and stands for {count}"]


def test_a_folded_row_that_ends_too_early_or_too_late_is_found() -> None:
    for by in (-10 * MINUTE, 10 * MINUTE):
        ledger = true_ledger()
        last = ledger[3].folded_until
        assert last is not None
        ledger[3] = ledger[3]._replace(folded_until=last + by)
        ledger = ledger if by < timedelta() else ledger[:-1]
        assert found(ledger) != []


def test_an_instant_that_was_not_expected_is_found() -> None:
    strange = Fire(at("00:35"), "MISSED", GRACE, None)  # no instant
    paused = Fire(at("00:50"), "MISSED", GRACE, None)

    assert found([*true_ledger(), strange, paused]) == [
        "2026-01-01 00:35:00 is MISSED, and was not expected",
        "2026-01-01 00:50:00 is MISSED, and was not expected",
    ]


def test_a_wrong_outcome_is_found() -> None:
    ledger = true_ledger()
    ledger[2] = Fire(at("00:30"), "RUN", None, "x")
    assert found(ledger, "abxc") == ["2026-01-01 00:30:00 should be MISSED, and is RUN"]

    ledger = true_ledger()
    ledger[0] = Fire(at("00:10"), "MISSED", GRACE, None)
    assert "2026-01-01 00:10:00 should be RUN, and is MISSED" in found(ledger, "bc")


def test_a_run_without_its_task_or_with_two_is_found() -> None:
    assert found(true_ledger(), "ac") == ["2026-01-01 00:20:00 is RUN, and its task b is not there"]
    assert found(true_ledger(), "abbc") != []
    assert found(true_ledger(), "abxc") == [
        "2026-01-01 00:30:00 has the task x, which is not in the ledger"
    ]


def test_more_runs_than_allowed_are_found() -> None:
    few = SPEC._replace(max_runs=2)
    tasks = [(str(fire.task_id), fire.scheduled_time) for fire in true_ledger() if fire.task_id]
    told = [str(complaint) for complaint in complaints(few, EXPECTED, true_ledger(), tasks)]

    assert told == ["2026-01-02 00:00:00 is run 3, and max_runs is 2"]


def test_an_instant_that_no_worker_was_told_of_is_found() -> None:
    walk = predict(SPEC, timedelta(), INSTANTS, [*HISTORY[:2], Quiet(at("00:20"))])

    (told,) = map(str, walk.complaints)
    assert told == f"2026-01-01 00:20:00 was due at {at('00:20')}, and no worker was told"


@pytest.mark.parametrize(
    ("overlap", "unfinished", "outcomes"),
    [
        ("allow", {BEGIN + HOUR: False}, ["RUN", "RUN", "RUN"]),
        ("skip", {}, ["RUN", "SKIPPED", "SKIPPED"]),
        ("skip", {BEGIN + HOUR: False}, ["SKIPPED", "SKIPPED", "SKIPPED"]),
        ("queue_one", {}, ["RUN", "RUN", "SKIPPED"]),
        ("queue_one", {BEGIN + HOUR: False}, ["RUN", "SKIPPED", "SKIPPED"]),
        ("queue_one", {BEGIN + HOUR: True}, ["SKIPPED", "SKIPPED", "SKIPPED"]),
    ],
)
def test_what_the_overlap_policies_must_do(
    overlap: str, unfinished: dict[datetime, bool], outcomes: list[str]
) -> None:
    spec = Spec("s", "0 * * * *", overlap=overlap, misfire="all")
    history = [Committed(BEGIN + HOUR, {}), Committed(BEGIN + 4 * HOUR, unfinished)]

    assert [*predict(spec, timedelta(), instants(spec), history).expected.values()][1:] == outcomes


@pytest.mark.parametrize(
    ("misfire", "grace", "outcomes"),
    [
        ("latest", MINUTE, ["MISSED", "MISSED", "RUN"]),
        ("none", MINUTE, ["MISSED", "MISSED", "MISSED"]),
        ("all", MINUTE, ["RUN", "RUN", "RUN"]),
        ("latest", 90 * MINUTE, ["MISSED", "RUN", "RUN"]),
        ("none", 90 * MINUTE, ["MISSED", "RUN", "RUN"]),
    ],
)
def test_what_the_misfire_policies_must_do(
    misfire: str, grace: timedelta, outcomes: list[str]
) -> None:
    spec = Spec("s", "0 * * * *", overlap="allow", misfire=misfire, grace=grace)
    history = [Committed(BEGIN + 3 * HOUR + 5 * MINUTE, {})]

    assert [*predict(spec, timedelta(), instants(spec), history).expected.values()] == outcomes


# The oracle


@pytest.mark.parametrize(
    ("name", "day", "times"),
    [
        ("paris", "2026-03-29", ["01:00"]),  # 02:30 is skipped: right after the gap
        ("paris", "2026-10-25", ["00:30"]),  # comes twice: the first time
        ("new york gap", "2026-03-08", ["07:00"]),
        ("new york overlap", "2026-11-01", ["05:45"]),
        ("lord howe", "2026-10-03", ["15:30"]),
        ("lord howe overlap", "2026-04-04", ["14:45"]),
        ("troll", "2026-03-29", ["01:00", "23:30"]),
        ("santiago midnight", "2026-09-06", ["04:00"]),
        ("santiago overlap", "2026-04-05", ["02:30"]),
        (
            "every other hour",
            "2026-03-08",
            [f"{hour:02}:00" for hour in (1, 3, 5, 8, *range(10, 24, 2))],
        ),
        ("last of month", "2026-02-28", ["23:00"]),
        ("later", "2026-02-01", ["00:00", "05:00", "10:00", "15:00", "20:00"]),
    ],
)
def test_the_oracle_knows_the_days_that_matter(name: str, day: str, times: list[str]) -> None:
    (spec,) = [spec for spec in YEAR if spec.name == name]

    assert [f"{at:%H:%M}" for at in instants(spec) if f"{at:%F}" == day] == times


# Of the code


Fires = list[dict[str, Any]]


def forget_one(fires: Fires) -> Fires:
    return fires[1:]


def forget_all(fires: Fires) -> Fires:
    return []


def run_what_is_late(fires: Fires) -> Fires:
    return [fire if "folded_until" in fire else fire | {"outcome": "RUN"} for fire in fires]


def miss_what_is_timely(fires: Fires) -> Fires:
    return [fire | {"outcome": "MISSED", "reason": "no"} for fire in fires]


def shift_the_times(fires: Fires) -> Fires:
    return [fire | {"scheduled_time": fire["scheduled_time"] + MINUTE} for fire in fires]


FAULTS: list[Callable[[Fires], Fires]] = [
    forget_one,
    forget_all,
    run_what_is_late,
    miss_what_is_timely,
    shift_the_times,
]


def some_days(sched: Sched, other: Sched) -> World:
    return World(sched, other, "fortnight", BEGIN + timedelta(days=14))


@pytest.fixture
def fortnight(sched: Sched, connect: Callable[[], Sched]) -> World:
    return some_days(sched, connect())


def told_of(world: World) -> list[str]:
    world.run()
    expected, told = expected_of(world)
    return told + list(report(world, expected))


def test_a_fortnight_without_a_fault(fortnight: World) -> None:
    assert told_of(fortnight) == []


def test_a_seed_is_the_same_each_time(
    fortnight: World, sched: Sched, connect: Callable[[], Sched]
) -> None:
    fortnight.run()
    sched.goodbye()
    restore_tables(sched.conn)
    again = some_days(sched, connect())
    again.run()

    assert again.records.history == fortnight.records.history


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_of_the_ticker_is_found(
    fortnight: World,
    fault: Callable[[Fires], Fires],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def faulty(due: DueSchedule) -> dict[str, Any]:
        tick: dict[str, Any] = firing.tick_of(due)
        return tick | {"fires": fault(tick["fires"])}

    monkeypatch.setattr(tickers, "tick_of", faulty)

    told = told_of(fortnight)

    assert len([text for text in told if text.startswith("quarters")]) > 1


def test_an_overlap_policy_that_is_not_kept_is_found(fortnight: World, sched: Sched) -> None:
    sched.conn.execute("update pgsched.schedules set overlap_policy = 'allow'")

    told = told_of(fortnight)

    kept = {spec.name for spec in YEAR if spec.overlap == "allow"}
    assert any("unfinished" in text for text in told)
    assert any("should be SKIPPED, and is RUN" in text for text in told)
    assert not any(text.partition(":")[0] in kept for text in told)


def test_a_row_that_somebody_deleted_is_found(fortnight: World, sched: Sched) -> None:
    assert told_of(fortnight) == []
    sched.conn.execute(
        "delete from pgsched.schedule_fires where ctid = any (array("
        "select ctid from pgsched.schedule_fires order by scheduled_time limit 1))"
    )
    expected, _ = expected_of(fortnight)

    assert len(list(report(fortnight, expected))) > 1
