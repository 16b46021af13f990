"""Whatever happens to a schedule between two ticks, each of its instants is in the ledger once."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, time, timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from pgsched.backfiller import step_of
from pgsched.due import DueBackfill
from tests.sql.sched import HOUR, MINUTE, SECOND, START, Sched

# All tests begin at noon.
NOON = START


def hourly(sched: Sched, **named: object) -> str:
    """A schedule whose next instant is 13:00."""
    schedule_id = str(sched.call("schedule_cron", "job", "0 * * * *", name="s", **named))
    sched.tick_all()
    return schedule_id


def minutely(sched: Sched, **named: object) -> str:
    schedule_id = str(sched.call("schedule_cron", "job", "* * * * *", name="s", **named))
    sched.tick_all()
    return schedule_id


def tick(sched: Sched) -> None:
    sched.close_gaps()
    while sched.tick_all():
        pass


def at(sched: Sched, clock: str) -> datetime:
    """Turn the clock to a time of the day on which the tests begin."""
    sched.clock(datetime.combine(NOON, time.fromisoformat(clock), NOON.tzinfo))
    return sched.now


def fires(sched: Sched) -> list[Any]:
    return sched.rows("select * from pgsched.schedule_fires order by scheduled_time")


def ledger(sched: Sched) -> dict[str, str]:
    """The outcome of each row by its time of day."""
    return {f"{fire.scheduled_time:%H:%M}": fire.outcome for fire in fires(sched)}


def accounted(sched: Sched, instants: list[datetime]) -> Counter[datetime]:
    """How often each of *instants* is in the ledger, by a row of its own or in a folded one."""
    own = {fire.scheduled_time for fire in fires(sched)}
    count: Counter[datetime] = Counter()
    for fire in fires(sched):
        last = fire.folded_until or fire.scheduled_time
        inside = [at for at in instants if fire.scheduled_time < at <= last and at not in own]
        inside += [fire.scheduled_time] * (
            fire.folded_until is None or fire.scheduled_time in instants
        )
        assert fire.folded_count == len(inside), fire
        count.update(inside)
    return count


def minutes(first: datetime, last: datetime) -> list[datetime]:
    return [first + i * MINUTE for i in range((last - first) // MINUTE + 1)]


# Pauses


def test_what_was_due_before_a_pause_is_missed(sched: Sched) -> None:
    hourly(sched)
    at(sched, "15:30")  # and nobody ticked
    sched.call("pause_schedule", "s")
    at(sched, "17:30")
    sched.call("resume_schedule", "s")
    at(sched, "18:00")
    tick(sched)

    missed = dict.fromkeys(("13:00", "14:00", "15:00"), "MISSED")
    assert ledger(sched) == {**missed, "18:00": "RUN"}


def test_what_was_due_before_a_change_of_its_time_is_missed(sched: Sched) -> None:
    hourly(sched)
    at(sched, "15:30")
    sched.call("reschedule", "s", cron_expression="45 * * * *")
    at(sched, "15:45")
    tick(sched)

    missed = dict.fromkeys(("13:00", "14:00", "15:00"), "MISSED")
    assert ledger(sched) == {**missed, "15:45": "RUN"}


def test_what_was_due_when_a_schedule_was_deleted_is_missed(sched: Sched) -> None:
    hourly(sched)
    at(sched, "15:30")
    sched.call("delete_schedule", "s")
    sched.close_gaps()

    assert ledger(sched) == dict.fromkeys(("13:00", "14:00", "15:00"), "MISSED")


def delayed(sched: Sched) -> timedelta:
    """Give the schedule a jitter that delays it by half an hour."""
    day = timedelta(hours=24)  # the longest jitter; the id decides on the share of it
    sched.conn.execute(
        """update pgsched.schedules
           set id = (select id from (select gen_random_uuid() from generate_series(1, 999)) as u(id)
                     where pgsched.jitter_of(id, '24 hours') > '1 hour' limit 1)"""
    )
    share = sched.value("select pgsched.jitter_of(id, %s) from pgsched.schedules", day) / day
    sched.conn.execute("update pgsched.schedules set jitter = %s", [HOUR / 2 / share])
    found: timedelta = sched.value("select pgsched.jitter_of(id, jitter) from pgsched.schedules")
    assert abs(found - HOUR / 2) < timedelta(seconds=1)
    return found


def test_an_instant_whose_delay_by_jitter_outlasts_a_pause_runs(sched: Sched) -> None:
    """It fires at 13:30, while the schedule is not paused."""
    hourly(sched, overlap_policy="allow")
    delayed(sched)
    tick(sched)
    at(sched, "13:10")
    sched.call("pause_schedule", "s")
    at(sched, "13:20")
    sched.call("resume_schedule", "s")
    for clock in ("13:20", "13:31", "14:31"):
        at(sched, clock)
        tick(sched)

    assert ledger(sched) == {"13:00": "RUN", "14:00": "RUN"}


def test_a_missed_instant_keeps_its_time_though_the_jitter_was_changed_in_the_pause(
    sched: Sched,
) -> None:
    hourly(sched)
    delayed(sched)
    tick(sched)
    at(sched, "13:45")  # due since 13:30
    sched.call("pause_schedule", "s")
    sched.conn.execute("update pgsched.schedules set jitter = '0'")
    sched.call("resume_schedule", "s")
    at(sched, "14:00")
    tick(sched)

    assert ledger(sched) == {"13:00": "MISSED", "14:00": "RUN"}


def test_an_instant_is_not_counted_twice_when_the_clock_was_set_back_before_a_pause(
    sched: Sched,
) -> None:
    minutely(sched, misfire_policy="none")
    at(sched, "18:00")  # 12:01 to 17:58 are folded
    tick(sched)
    at(sched, "14:00")
    sched.call("pause_schedule", "s")
    at(sched, "14:30")
    sched.call("resume_schedule", "s")
    tick(sched)
    at(sched, "18:05")
    tick(sched)

    expected = minutes(NOON + MINUTE, sched.now)
    assert accounted(sched, expected) == Counter(expected)


def test_a_schedule_that_has_made_its_last_run_stays_at_its_end(sched: Sched) -> None:
    hourly(sched, max_runs=1)
    at(sched, "13:00")
    tick(sched)
    sched.call("pause_schedule", "s")
    sched.call("resume_schedule", "s")
    tick(sched)
    at(sched, "17:30")
    tick(sched)

    assert ledger(sched) == {"13:00": "RUN"}
    assert sched.value("select state from pgsched.schedule_status") == "ENDED"


def test_a_change_of_time_after_the_clock_was_set_back_counts_no_instant_twice(
    sched: Sched,
) -> None:
    minutely(sched, misfire_policy="none")
    at(sched, "18:00")
    tick(sched)
    at(sched, "14:00")
    sched.call("reschedule", "s", cron_expression="*/2 * * * *")
    at(sched, "14:30")
    tick(sched)
    at(sched, "18:02")
    tick(sched)

    expected = [*minutes(NOON + MINUTE, sched.now - 2 * MINUTE), sched.now]
    assert accounted(sched, expected) == Counter(expected)


# Backfills


def backfill(sched: Sched, first: str, last: str) -> None:
    day = f"{NOON:%Y-%m-%d}"
    given = [f"{day} {clock}+00" for clock in (first, last)]
    sched.call("backfill_schedule", "s", *given)
    run_backfills(sched)


def run_backfills(sched: Sched) -> None:
    columns = ", ".join(DueBackfill._fields)
    sched.close_gaps()
    for _ in range(20):
        for row in sched.rows(f"select {columns} from pgsched.due_backfills()"):
            step = step_of(DueBackfill._make([str(row[0]), *row[1:]]))
            sched.value("select pgsched.run_backfill(%s)", as_json(step))


def as_json(value: object) -> Jsonb:
    return Jsonb(value, dumps=lambda given: json.dumps(given, default=str))


def folded(sched: Sched) -> list[datetime]:
    """An outage whose instants are one row of the ledger, from 12:01 on."""
    minutely(sched, misfire_policy="none")
    at(sched, "18:00")
    tick(sched)
    return minutes(NOON + MINUTE, sched.now)


def test_a_backfill_in_the_middle_of_a_folded_row(sched: Sched) -> None:
    expected = folded(sched)
    backfill(sched, "13:00", "13:10")

    assert accounted(sched, expected) == Counter(expected)
    assert sum(fire.outcome == "RUN" and fire.reason is not None for fire in fires(sched)) == 11


def test_a_backfill_over_one_that_was_made_before(sched: Sched) -> None:
    expected = folded(sched)
    backfill(sched, "13:00", "13:10")
    backfill(sched, "12:55", "13:20")

    assert accounted(sched, expected) == Counter(expected)


def test_a_backfill_of_the_beginning_of_a_folded_row_after_one_behind_it(sched: Sched) -> None:
    expected = folded(sched)
    backfill(sched, "12:11", "12:20")
    backfill(sched, "12:01", "12:10")

    assert accounted(sched, expected) == Counter(expected)


def test_a_backfill_of_a_pause_within_a_folded_row(sched: Sched) -> None:
    """The pause is not counted there: its instants were not expected."""
    minutely(sched)
    for _ in range(120):  # the run of 12:01 never ends
        sched.clock(MINUTE)
        tick(sched)
    sched.call("pause_schedule", "s")
    at(sched, "14:30")
    sched.call("resume_schedule", "s")
    for _ in range(20):
        sched.clock(MINUTE)
        tick(sched)
    backfill(sched, "13:55", "14:35")

    expected = minutes(NOON + MINUTE, sched.now)
    assert accounted(sched, expected) == Counter(expected)


def test_a_backfill_of_a_pause_between_two_folded_rows(sched: Sched) -> None:
    minutely(sched, misfire_policy="none", misfire_grace=SECOND)
    sched.clock(3 * HOUR + MINUTE / 2)
    tick(sched)
    sched.call("pause_schedule", "s")
    sched.clock(HOUR / 2)
    sched.call("resume_schedule", "s")
    sched.clock(3 * HOUR)
    tick(sched)
    backfill(sched, "14:50", "15:40")

    expected = minutes(NOON + MINUTE, sched.now)
    assert accounted(sched, expected) == Counter(expected)


def test_a_backfill_of_a_folded_row_from_before_a_change_of_time(sched: Sched) -> None:
    """Which begins with an instant of the new time."""
    sched.clock(timedelta(minutes=59, seconds=30))
    expected = folded(sched)[59:]
    sched.call("reschedule", "s", cron_expression="0 * * * *")
    tick(sched)
    backfill(sched, "13:00", "17:00")

    assert accounted(sched, expected) == Counter(expected)


def test_a_backfill_that_comes_before_a_worker_ends_the_pause(sched: Sched) -> None:
    """The pause was over while no worker was there."""
    minutely(sched, misfire_policy="none")
    sched.call("pause_schedule", "s", until=NOON + HOUR)
    at(sched, "18:00")
    backfill(sched, "12:30", "13:10")
    tick(sched)
    run_backfills(sched)

    expected = minutes(NOON + HOUR / 2, sched.now)
    assert accounted(sched, expected) == Counter(expected)


def test_a_backfill_of_a_rare_schedule_may_allow_many_instants(sched: Sched) -> None:
    """Its hundred thousandth instant would be after the end of time."""
    sched.call("schedule_cron", "job", "0 0 1 1 *", name="s")
    tick(sched)
    sched.call("backfill_schedule", "s", NOON - timedelta(days=365), NOON, 100_000)
    run_backfills(sched)

    assert ledger(sched) == {"00:00": "RUN"}


def test_a_backfill_that_comes_before_the_tick(sched: Sched) -> None:
    """Asked for while no worker was there; then one ticks and backfills at once."""
    minutely(sched, misfire_policy="none")
    at(sched, "18:00")
    backfill(sched, "12:01", "12:10")
    tick(sched)
    run_backfills(sched)

    expected = minutes(NOON + MINUTE, sched.now)
    assert accounted(sched, expected) == Counter(expected)


@pytest.mark.parametrize("pause", [False, True])
def test_a_backfill_of_what_is_due_at_this_moment(sched: Sched, pause: bool) -> None:
    hourly(sched)
    at(sched, "13:00")
    if pause:
        sched.call("pause_schedule", "s")
    backfill(sched, "13:00", "13:00")
    sched.call("resume_schedule", "s")
    tick(sched)
    run_backfills(sched)

    assert ledger(sched) == {"13:00": "RUN"}
    assert len(sched.tasks()) == 1
