"""recompute_schedules(): what was computed with older data of time zones is computed anew."""

from __future__ import annotations

import pytest

from pgsched import zones
from tests.sql.ledger import (
    catch_up,
    cron,
    every,
    ledger,
    outcomes,
    require_exact,
    row_of,
    times,
    update,
)
from tests.sql.sched import MINUTE, SECOND, START, Sched

# New data of time zones


def test_what_was_computed_with_older_data_is_computed_anew(sched: Sched) -> None:
    first, second = cron(sched, name="a"), cron(sched, name="b")
    interval = every(sched, MINUTE, name="c")
    sched.conn.execute("update pgsched.schedules set tz_version = '2020a' where name in ('a', 'c')")

    assert sched.call("recompute_schedules", zones.VERSION) == 1

    assert row_of(sched, first).next_run_at is None
    assert row_of(sched, second).next_run_at == START + MINUTE
    assert row_of(sched, interval).next_run_at is not None  # elapsed time knows no zone
    catch_up(sched)
    row = row_of(sched, first)
    assert (row.next_run_at, row.tz_version) == (START + MINUTE, zones.VERSION)
    assert sched.call("recompute_schedules", zones.VERSION) == 0


def test_what_was_computed_with_newer_data_is_left_alone(sched: Sched) -> None:
    cron(sched)
    update(sched, tz_version="9999z")

    assert sched.call("recompute_schedules", zones.VERSION) == 0


def test_a_paused_schedule_is_not_computed_anew(sched: Sched) -> None:
    cron(sched)
    update(sched, tz_version="2020a")
    sched.call("pause_schedule", "job")

    assert sched.call("recompute_schedules", zones.VERSION) == 0


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_no_more_than_the_limit_are_computed_anew_at_once(sched: Sched, limit: int) -> None:
    for name in ("a", "b", "c"):
        cron(sched, name=name)
    update(sched, tz_version="2020a")

    found = []
    while count := sched.call("recompute_schedules", zones.VERSION, limit):
        found.append(count)
        catch_up(sched)

    assert sum(found) == 3
    assert max(found) <= limit


def test_nothing_is_lost_or_doubled_when_all_is_computed_anew(sched: Sched) -> None:
    schedule_id = cron(sched, overlap_policy="allow", jitter=20 * SECOND, misfire_policy="all")
    for n in range(1, 40):
        sched.clock(START + n * 17 * SECOND)
        update(sched, tz_version="2020a")
        if n % 3:
            sched.call("recompute_schedules", zones.VERSION)
        if n % 5:
            catch_up(sched)
    catch_up(sched)

    require_exact(sched, schedule_id)
    assert set(outcomes(sched)) == {"RUN"}
    assert len(sched.tasks()) == len(ledger(sched))


def test_a_tick_that_was_computed_with_the_older_data_comes_too_late(sched: Sched) -> None:
    schedule_id = cron(sched)
    sched.clock(MINUTE)
    tick = sched.tick_for(schedule_id, START + MINUTE, START + 2 * MINUTE)
    update(sched, tz_version="2020a")
    sched.call("recompute_schedules", zones.VERSION)

    assert sched.tick(tick) == 0

    catch_up(sched)
    assert times(sched) == [START + MINUTE]
