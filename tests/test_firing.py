"""tick_of(): which instants of a due schedule run, which are missed, and when it fires next."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgsched import zones
from pgsched.due import DueSchedule
from pgsched.firing import BOUND, SLICE, missed, tick_of
from pgsched.instants import Timing

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)
NONE = timedelta(0)


def schedule(**changed: Any) -> DueSchedule:
    """Every minute since noon; it is due for the first time."""
    plain = DueSchedule(
        schedule_id="01980000-0000-7000-8000-000000000000",
        name="s",
        cron_expr="* * * * *",
        every=None,
        timezone="UTC",
        anchor=NOON,
        counts_from=NOON,
        ends_at=None,
        misfire_policy="latest",
        misfire_grace=MINUTE,
        jitter=NONE,
        next_run_at=NOON + MINUTE,
        revision=7,
        as_of=NOON + MINUTE,
    )
    return plain._replace(**changed)


def interval(every: timedelta, **changed: Any) -> DueSchedule:
    return schedule(cron_expr=None, every=every, **changed)


def of(tick: dict[str, Any], outcome: str) -> list[datetime]:
    """The instants with entries of their own that end so."""
    return [f["scheduled_time"] for f in tick["fires"] if f["outcome"] == outcome]


def minute(n: int) -> datetime:
    return NOON + n * MINUTE


# A tick


def test_a_tick_names_the_state_it_was_computed_from() -> None:
    tick = tick_of(schedule())

    assert tick["schedule_id"] == "01980000-0000-7000-8000-000000000000"
    assert (tick["expected"], tick["revision"]) == (NOON + MINUTE, 7)


def test_the_instant_that_is_due_runs_and_the_next_one_follows() -> None:
    tick = tick_of(schedule())

    assert tick["fires"] == [{"scheduled_time": minute(1), "outcome": "RUN"}]
    assert (tick["counts_from"], tick["next_run_at"]) == (minute(1), minute(2))
    assert (tick["is_ended"], tick["tz_version"]) == (False, zones.VERSION)
    assert "error_msg" not in tick


def test_the_first_tick_of_a_new_schedule_only_computes() -> None:
    tick = tick_of(schedule(next_run_at=None, as_of=NOON + SECOND))

    assert (tick["expected"], tick["fires"], tick["counts_from"]) == (None, [], None)
    assert tick["next_run_at"] == minute(1)


def test_an_instant_counts_after_counts_from_and_not_at_it() -> None:
    assert of(tick_of(schedule(counts_from=minute(1), as_of=minute(2))), "RUN") == [minute(2)]


def test_an_instant_is_due_at_its_time_and_not_before() -> None:
    assert tick_of(schedule(as_of=minute(1) - MICROSECOND))["fires"] == []
    assert of(tick_of(schedule(as_of=minute(1))), "RUN") == [minute(1)]


def test_the_zone_of_the_expression_is_its_own() -> None:
    tick = tick_of(schedule(cron_expr="0 9 * * *", timezone="Asia/Tokyo", as_of=NOON))

    assert tick["next_run_at"] == NOON + 12 * HOUR


@pytest.mark.parametrize("zone", ["Europe/Paris", "America/New_York", "Australia/Lord_Howe"])
def test_a_year_of_hours_has_each_hour_once(zone: str) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    due = schedule(cron_expr="0 * * * *", timezone=zone, counts_from=start, misfire_policy="all")
    found: list[datetime] = []
    while due.counts_from < start + 365 * DAY:
        tick = tick_of(due._replace(as_of=due.counts_from + 50 * HOUR))
        found += of(tick, "RUN")
        due = due._replace(counts_from=tick["counts_from"])

    assert {later - earlier for earlier, later in pairwise(found)} <= {
        HOUR,
        30 * MINUTE,  # Lord Howe changes its clocks by half an hour
        90 * MINUTE,
    }


# Intervals


def test_an_interval_counts_from_its_anchor() -> None:
    due = interval(HOUR, anchor=NOON - 10 * HOUR - 15 * MINUTE, as_of=NOON)

    assert tick_of(due)["next_run_at"] == NOON + 45 * MINUTE


def test_the_anchor_is_an_instant_itself() -> None:
    due = interval(HOUR, anchor=NOON, counts_from=NOON - MICROSECOND, as_of=NOON)

    tick = tick_of(due)
    assert (of(tick, "RUN"), tick["next_run_at"]) == ([NOON], NOON + HOUR)


def test_an_interval_is_elapsed_time_whatever_the_clocks_do() -> None:
    start = datetime(2026, 3, 28, 23, tzinfo=UTC)  # an hour before Paris changes them
    due = interval(DAY, timezone="Europe/Paris", anchor=start, counts_from=start, as_of=start)

    assert tick_of(due)["next_run_at"] == start + DAY


# Lateness

POLICIES = ["latest", "all", "none"]


@pytest.mark.parametrize("policy", POLICIES)
def test_exactly_the_grace_late_is_in_time(policy: str) -> None:
    due = schedule(cron_expr="0 * * * *", misfire_policy=policy, as_of=NOON + HOUR + MINUTE)

    assert of(tick_of(due), "RUN") == [NOON + HOUR]


@pytest.mark.parametrize(
    ("policy", "outcome"), [("latest", "RUN"), ("all", "RUN"), ("none", "MISSED")]
)
def test_a_microsecond_more_is_late(policy: str, outcome: str) -> None:
    late = NOON + HOUR + MINUTE + MICROSECOND
    due = schedule(cron_expr="0 * * * *", misfire_policy=policy, as_of=late)

    assert of(tick_of(due), outcome) == [NOON + HOUR]


@pytest.mark.parametrize(
    ("policy", "runs"),
    [("latest", [minute(5)]), ("all", [minute(n) for n in range(1, 6)]), ("none", [])],
)
def test_when_all_is_late_the_policy_decides(policy: str, runs: list[datetime]) -> None:
    due = schedule(misfire_policy=policy, misfire_grace=SECOND, as_of=minute(5) + 30 * SECOND)

    tick = tick_of(due)

    assert of(tick, "RUN") == runs
    assert of(tick, "RUN") + of(tick, "MISSED") == [
        *runs,
        *(minute(n) for n in range(1, 6) if minute(n) not in runs),
    ]
    assert (tick["counts_from"], tick["next_run_at"]) == (minute(5), minute(6))


def test_what_is_in_time_runs_and_then_the_latest_late_one_does_not() -> None:
    due = schedule(misfire_grace=2 * MINUTE, as_of=minute(10))

    assert of(tick_of(due), "RUN") == [minute(8), minute(9), minute(10)]


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("latest", "misfire_policy latest: no worker was there within 90 s"),
        ("none", "misfire_policy none: no worker was there within 90 s"),
    ],
)
def test_the_reason_names_the_policy_and_the_grace(policy: str, reason: str) -> None:
    due = schedule(misfire_policy=policy, misfire_grace=90 * SECOND, as_of=minute(5))

    assert {f.get("reason") for f in tick_of(due)["fires"] if f["outcome"] == "MISSED"} == {reason}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("grace", [SECOND, HOUR, 300 * DAY])
def test_more_than_a_hundred_never_run_at_once(policy: str, grace: timedelta) -> None:
    tick = tick_of(schedule(misfire_policy=policy, misfire_grace=grace, as_of=minute(1000)))

    runs = of(tick, "RUN")
    assert len(runs) <= BOUND == 100
    assert runs == [minute(n) for n in range(1001 - len(runs), 1001)]


def test_what_the_bound_kept_from_running_says_so() -> None:
    tick = tick_of(schedule(misfire_policy="all", as_of=minute(150)))

    (reason,) = {f["reason"] for f in tick["fires"] if f["outcome"] == "MISSED"}
    assert reason == "more than 100 instants were due at once, and the latest 100 run"


def test_two_reasons_are_not_told_as_one() -> None:
    """Of those that do not run, some were late, and some too many."""
    tick = tick_of(schedule(misfire_grace=150 * MINUTE, as_of=minute(300)))

    by_reason: dict[str, int] = {}
    for fire in tick["fires"]:
        if fire["outcome"] == "MISSED":
            count = fire.get("folded_count", 1)
            by_reason[fire["reason"]] = by_reason.get(fire["reason"], 0) + count
    assert by_reason == {
        "misfire_policy latest: no worker was there within 9000 s": 149,
        "more than 100 instants were due at once, and the latest 100 run": 51,
    }


# The ledger


@pytest.mark.parametrize("count", [1, 99, 100])
def test_up_to_a_hundred_have_an_entry_each(count: int) -> None:
    instants = [minute(n) for n in range(count)]

    entries = list(missed(instants, "why"))

    assert entries == [
        {"scheduled_time": at, "outcome": "MISSED", "reason": "why"} for at in instants
    ]


@pytest.mark.parametrize("count", [101, 5000])
def test_more_than_a_hundred_share_one(count: int) -> None:
    (entry,) = missed([minute(n) for n in range(count)], "why")

    assert entry == {
        "scheduled_time": minute(0),
        "folded_until": minute(count - 1),
        "folded_count": count,
        "outcome": "MISSED",
        "reason": "why",
    }


def test_of_none_there_is_no_entry() -> None:
    assert list(missed([], "why")) == []


# Jitter


def test_jitter_delays_the_next_run_and_not_the_instant() -> None:
    tick = tick_of(schedule(jitter=20 * SECOND, as_of=minute(1) + 20 * SECOND))

    assert of(tick, "RUN") == [minute(1)]
    assert (tick["counts_from"], tick["next_run_at"]) == (minute(1), minute(2) + 20 * SECOND)


def test_an_instant_is_not_due_before_its_delay_has_passed() -> None:
    due = schedule(jitter=20 * SECOND, as_of=minute(1) + 20 * SECOND - MICROSECOND)

    tick = tick_of(due)
    assert (tick["fires"], tick["counts_from"]) == ([], None)
    assert tick["next_run_at"] == minute(1) + 20 * SECOND


@pytest.mark.parametrize(("over", "outcome"), [(NONE, "RUN"), (MICROSECOND, "MISSED")])
def test_lateness_begins_after_the_delay(over: timedelta, outcome: str) -> None:
    due = schedule(
        cron_expr="0 * * * *",
        jitter=30 * MINUTE,
        misfire_policy="none",
        as_of=NOON + HOUR + 30 * MINUTE + MINUTE + over,
    )

    assert of(tick_of(due), outcome) == [NOON + HOUR]


# The end


@pytest.mark.parametrize(
    ("ends_at", "is_ended"),
    [
        (minute(2), False),
        (minute(2) - MICROSECOND, True),
        (minute(1), True),
    ],
)
def test_it_ends_when_no_instant_follows_up_to_ends_at(ends_at: datetime, is_ended: bool) -> None:
    tick = tick_of(schedule(ends_at=ends_at))

    assert of(tick, "RUN") == [minute(1)]
    assert tick["is_ended"] is is_ended


def test_nothing_after_ends_at_runs_or_is_missed() -> None:
    tick = tick_of(schedule(ends_at=minute(3), misfire_policy="none", as_of=minute(60)))

    assert (of(tick, "MISSED"), of(tick, "RUN")) == ([minute(1), minute(2), minute(3)], [])
    assert (tick["counts_from"], tick["is_ended"]) == (minute(3), True)


def test_jitter_does_not_move_the_end() -> None:
    due = schedule(ends_at=minute(2), jitter=30 * SECOND, as_of=minute(1) + 30 * SECOND)
    assert tick_of(due)["is_ended"] is False

    due = due._replace(counts_from=minute(1), as_of=minute(2) + 30 * SECOND)
    tick = tick_of(due)
    assert (of(tick, "RUN"), tick["is_ended"]) == ([minute(2)], True)


def test_one_that_ended_before_it_began_ends_without_a_run() -> None:
    tick = tick_of(schedule(ends_at=NOON - DAY))

    assert (tick["fires"], tick["is_ended"]) == ([], True)


# Long outages


def caught_up(due: DueSchedule) -> tuple[list[dict[str, Any]], int]:
    """All entries of the ticks that it takes until nothing is due, and how many these are."""
    fires: list[dict[str, Any]] = []
    for count in range(1, 100):
        tick = tick_of(due)
        fires += tick["fires"]
        due = due._replace(
            counts_from=tick["counts_from"] or due.counts_from, next_run_at=tick["next_run_at"]
        )
        if tick["is_ended"] or tick["next_run_at"] > due.as_of:
            return fires, count
    raise AssertionError("it does not end")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("count", [SLICE - 1, SLICE, SLICE + 1, 3 * SLICE])
def test_a_long_outage_takes_several_ticks_and_loses_nothing(policy: str, count: int) -> None:
    due = schedule(misfire_policy=policy, as_of=minute(count) + 30 * SECOND)

    fires, ticks = caught_up(due)

    assert (ticks > 1) == (count >= SLICE)
    assert sum(fire.get("folded_count", 1) for fire in fires) == count
    runs = [f["scheduled_time"] for f in fires if f["outcome"] == "RUN"]
    assert runs == [minute(n) for n in range(count - len(runs) + 1, count + 1)]
    assert len(runs) == {"latest": 1, "all": 100, "none": 1}[policy]


def test_each_tick_of_a_long_outage_is_short() -> None:
    tick = tick_of(schedule(misfire_policy="all", as_of=minute(500_000)))

    assert sum(fire.get("folded_count", 1) for fire in tick["fires"]) == SLICE - BOUND
    assert of(tick, "RUN") == []
    assert tick["next_run_at"] == minute(SLICE - BOUND + 1)


# What cannot be read


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"cron_expr": "99 * * * *"}, "'99'"),
        ({"cron_expr": "nonsense"}, "'nonsense'"),
        ({"cron_expr": ""}, "cron_expr"),
        ({"cron_expr": "0 0 30 2 *"}, "never happens"),
        ({"timezone": "Mars/Base"}, "'Mars/Base'"),
        ({"timezone": "../../etc/passwd"}, "timezone"),
        ({"counts_from": datetime(9999, 12, 31, 23, 59, tzinfo=UTC)}, "never happens"),
    ],
)
def test_what_cannot_be_read_is_switched_off_and_says_why(
    changed: dict[str, Any], named: str, caplog: pytest.LogCaptureFixture
) -> None:
    tick = tick_of(schedule(**changed))

    assert named in tick["error_msg"]
    assert tick.keys() == {"schedule_id", "expected", "revision", "error_msg"}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_an_interval_that_leads_beyond_all_time_is_switched_off() -> None:
    end = datetime(9999, 12, 31, tzinfo=UTC)

    tick = tick_of(interval(300 * DAY, anchor=end, counts_from=end, as_of=end))

    assert "end of time" in tick["error_msg"] or "never" in tick["error_msg"]


def test_what_nobody_thought_of_switches_off_one_schedule_and_not_the_worker(
    caplog: pytest.LogCaptureFixture,
) -> None:
    strange: Any = "yesterday"

    tick = tick_of(schedule(as_of=strange))

    assert tick["error_msg"].startswith("internal error: TypeError")
    assert caplog.records[-1].exc_info


# Whatever the schedule

graces = st.timedeltas(min_value=SECOND, max_value=366 * DAY)
timings = st.one_of(
    st.builds(
        lambda expr, zone: {"cron_expr": expr, "every": None, "timezone": zone},
        st.sampled_from(
            [
                "* * * * *",
                "*/7 * * * *",
                "30 2 * * *",
                "0 0 1 * *",
                "*/20 * * * * *",
                "0 9-17 * * 1-5",
            ]
        ),
        st.sampled_from(["UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe"]),
    ),
    st.builds(
        lambda every: {"cron_expr": None, "every": every, "timezone": "UTC"},
        st.timedeltas(min_value=SECOND, max_value=3 * DAY),
    ),
)
delays = st.one_of(st.just(NONE), st.timedeltas(min_value=NONE, max_value=DAY))
outages = st.timedeltas(min_value=NONE, max_value=2 * HOUR)


@st.composite
def schedules(draw: st.DrawFn) -> DueSchedule:
    start = NOON + draw(st.timedeltas(min_value=NONE, max_value=365 * DAY))
    timing: dict[str, Any] = draw(timings)
    plain = schedule(anchor=start - HOUR, counts_from=start, **timing)
    delay = draw(delays)
    first = _timing(plain).after(start)
    as_of = first + delay + draw(outages)
    ends_at = draw(st.one_of(st.none(), st.timedeltas(min_value=NONE, max_value=HOUR)))
    return plain._replace(
        jitter=delay,
        next_run_at=first + delay,
        as_of=as_of,
        misfire_policy=draw(st.sampled_from(POLICIES)),
        misfire_grace=draw(graces),
        ends_at=None if ends_at is None else first + ends_at,
    )


def _timing(due: DueSchedule) -> Timing:
    return Timing(due.cron_expr, due.every, due.timezone, due.anchor)


def instants_up_to_now(due: DueSchedule) -> list[datetime]:
    """By the definition of each word, one at a time."""
    end = due.as_of - due.jitter
    end = end if due.ends_at is None else min(end, due.ends_at)
    found: list[datetime] = []
    for at in _timing(due).all_after(due.counts_from):
        if at > end:
            return found
        found.append(at)
    raise AssertionError


def covered_by(due: DueSchedule, fire: dict[str, Any]) -> list[datetime]:
    """The instants of an entry, which must be as many as it says."""
    first, last = fire["scheduled_time"], fire.get("folded_until")
    if last is None:
        assert "folded_count" not in fire
        return [first]
    covered = [first]
    while covered[-1] < last:
        covered.append(_timing(due).after(covered[-1]))
    assert covered[-1] == last
    assert len(covered) == fire["folded_count"]
    return covered


@given(schedules())
@settings(max_examples=300, deadline=None)
def test_each_instant_up_to_now_runs_or_is_missed_once_in_order(due: DueSchedule) -> None:
    fires, _ = caught_up(due)

    assert [at for fire in fires for at in covered_by(due, fire)] == instants_up_to_now(due)


@given(schedules())
@settings(max_examples=300, deadline=None)
def test_runs_are_the_latest_instants_and_as_many_as_the_policy_says(due: DueSchedule) -> None:
    expected = instants_up_to_now(due)
    timely = [at for at in expected if due.as_of - due.jitter - at <= due.misfire_grace]

    fires, _ = caught_up(due)

    runs = [fire["scheduled_time"] for fire in fires if fire["outcome"] == "RUN"]
    assert runs == expected[len(expected) - len(runs) :]
    wanted = {"all": len(expected), "latest": max(len(timely), 1), "none": len(timely)}
    assert len(runs) == min(wanted[due.misfire_policy], len(expected), BOUND)


@given(schedules())
@settings(max_examples=300, deadline=None)
def test_the_next_run_is_the_first_instant_that_is_not_accounted_for(due: DueSchedule) -> None:
    tick = tick_of(due)

    reached = tick["counts_from"] or due.counts_from
    following = _timing(due).after(reached)
    assert tick["next_run_at"] == following + due.jitter
    assert tick["is_ended"] == (due.ends_at is not None and following > due.ends_at)
    if len(tick["fires"]) < BOUND:
        assert tick["is_ended"] or tick["next_run_at"] > due.as_of or reached > due.counts_from


@given(schedules(), st.integers(min_value=1, max_value=6))
@settings(max_examples=200, deadline=None)
def test_it_comes_to_the_same_instants_however_often_a_worker_looks(
    due: DueSchedule, looks: int
) -> None:
    """Which of them run depends on when somebody was there; which there are does not."""
    found: list[datetime] = []
    start = due.counts_from
    now = due
    for look in range(1, looks + 1):
        at = start + (due.as_of - start) * look / looks
        fires, _ = caught_up(now._replace(as_of=at))
        covered = [instant for fire in fires for instant in covered_by(due, fire)]
        found += covered
        now = now._replace(counts_from=covered[-1] if covered else now.counts_from)

    assert found == instants_up_to_now(due)
