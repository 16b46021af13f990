"""explain_schedule() and schedule_status: why a schedule fires or does not, in words."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.sql.ledger import (
    backfill,
    catch_up,
    cron,
    status_of,
    tick_at,
    update,
)
from tests.sql.sched import HOUR, MINUTE, SECOND, START, Sched

DAY = timedelta(days=1)


def explained(sched: Sched, schedule: str = "job") -> list[str]:
    """The sentences, one a line."""
    return str(sched.call("explain_schedule", schedule)).splitlines()


def test_one_that_waits_for_its_time(sched: Sched) -> None:
    cron(sched, "30 12 * * *")

    assert explained(sched) == [
        "It fires next at 2026-03-02 12:30:00+00, in 00:30:00.",
        "It has not made a run yet.",
    ]


def test_times_are_told_to_the_second(sched: Sched) -> None:
    cron(sched, "30 12 * * *")
    sched.clock(timedelta(microseconds=1234567))

    assert explained(sched)[0] == "It fires next at 2026-03-02 12:30:00+00, in 00:29:58."


def test_a_new_one_with_a_worker(sched: Sched) -> None:
    sched.register()
    sched.call("schedule_cron", "job", "* * * * *")

    assert explained(sched)[0] == "A worker is about to compute when it fires next."


def test_a_new_one_without_a_worker(sched: Sched) -> None:
    sched.call("schedule_cron", "job", "* * * * *")

    assert "no worker is alive" in explained(sched)[0]
    assert "Start one: pgsched worker." in explained(sched)[0]


def test_one_that_is_due_without_a_worker(sched: Sched) -> None:
    cron(sched)
    sched.register()
    sched.clock(MINUTE)  # the lease has ended

    assert explained(sched)[0] == (
        "It is due, and no worker is alive to fire it.  Start one: pgsched worker."
    )


def test_one_that_is_due_with_a_worker(sched: Sched) -> None:
    cron(sched)
    sched.clock(MINUTE)
    sched.register()

    (first, *_) = explained(sched)
    assert first.startswith("It is due since 2026-03-02 12:01:00+00, and a worker is about to fire")
    assert "holds a lock on its row" in first


def test_a_paused_one(sched: Sched) -> None:
    cron(sched)
    sched.call("pause_schedule", "job", "the mailer moves")

    assert explained(sched)[0] == (
        "It is paused since 2026-03-02 12:00:00+00, until somebody resumes it (the mailer moves)."
        "  select pgsched.resume_schedule('job') ends the pause."
    )


def test_one_that_is_paused_for_a_while(sched: Sched) -> None:
    cron(sched)
    sched.call("pause_schedule", "job", until=START + HOUR)

    assert explained(sched)[0] == (
        "It is paused since 2026-03-02 12:00:00+00, until 2026-03-02 13:00:00+00."
        "  select pgsched.resume_schedule('job') ends the pause."
    )


def test_what_it_says_to_do_can_be_done_whatever_the_name(sched: Sched) -> None:
    cron(sched, name="o'clock")
    sched.call("pause_schedule", "o'clock")
    _, _, advice = explained(sched, "o'clock")[0].partition("  ")
    statement, _, _ = advice.partition(" ends the pause")

    sched.conn.execute(statement.encode())
    catch_up(sched)

    assert "It fires next" in explained(sched, "o'clock")[0]


def test_a_broken_one(sched: Sched) -> None:
    cron(sched, "99 * * * *")

    (first, *_) = explained(sched)
    assert first.startswith("It is switched off")
    assert "'99' is no minute" in first
    assert "pgsched.reschedule() mends it." in first


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"max_runs": 2}, "max_runs is 2"),
        ({"ends_at": START + 2 * MINUTE}, "ends_at is 2026-03-02"),
    ],
)
def test_one_that_has_ended(sched: Sched, given: dict[str, Any], why: str) -> None:
    cron(sched, overlap_policy="allow", **given)
    for n in (1, 2):
        tick_at(sched, START + n * MINUTE)

    (first, *_) = explained(sched)
    assert first.startswith("It ended at 2026-03-02 12:02:00+00: it had made 2 runs")
    assert why in first


def test_one_of_an_inactive_definition(sched: Sched) -> None:
    cron(sched)
    sched.conn.execute("update pgsched.task_definitions set is_active = false")
    tick_at(sched, START + MINUTE)

    lines = explained(sched)
    assert lines[1].startswith("Its definition 'job' is not active: its instants are SKIPPED.")
    assert lines[-1].endswith(
        "the latest, that of 2026-03-02 12:01:00+00, was SKIPPED: its definition is not active."
    )
    assert "since then" not in lines[-1]  # there was no run


def test_one_whose_queue_is_paused(sched: Sched) -> None:
    sched.call("define_queue", "mail")
    cron(sched, queue="mail")
    sched.call("pause_queue", "mail", "no paper")

    assert explained(sched)[1] == (
        "Its queue 'mail' is paused (no paper): its runs wait there."
        "  select pgsched.resume_queue('mail') ends that."
    )


def test_one_whose_queue_is_that_of_its_definition(sched: Sched) -> None:
    sched.call("define_queue", "mail")
    sched.define(queue="mail")
    cron(sched)
    sched.call("pause_queue", "mail")

    assert explained(sched)[1].startswith("Its queue 'mail' is paused: its runs wait there.")


@pytest.mark.parametrize(
    ("status", "said"), [(None, "PENDING"), ("SUCCESS", "SUCCESS"), ("FAILED", "FAILED")]
)
def test_the_latest_run_and_what_became_of_it(sched: Sched, status: str | None, said: str) -> None:
    sched.define(max_retries=0)
    cron(sched)
    tick_at(sched, START + MINUTE)
    (task,) = sched.tasks()
    if status:
        sched.run(status=status)

    assert explained(sched) == [
        "It fires next at 2026-03-02 12:02:00+00, in 00:01:00.",
        f"Its latest run was that of 2026-03-02 12:01:00+00: task {task.id}, {said}.",
    ]


def test_the_latest_run_that_an_operator_retried(sched: Sched) -> None:
    sched.define(max_retries=0)
    cron(sched)
    tick_at(sched, START + MINUTE)
    failed = sched.run(status="FAILED")
    sched.call("retry_task", failed)

    assert explained(sched)[1].endswith(f"task {failed}, PENDING.")


def test_a_run_that_is_not_on_record_any_more(sched: Sched) -> None:
    cron(sched)
    tick_at(sched, START + MINUTE)
    sched.run()
    sched.conn.execute("delete from pgsched.task_instances")

    assert explained(sched)[1].endswith("no longer on record.")


def test_instants_that_an_overlap_kept_from_running(sched: Sched) -> None:
    cron(sched)
    for n in range(1, 5):
        tick_at(sched, START + n * MINUTE)

    assert explained(sched)[-1] == (
        "3 instants since then did not run; the latest, that of 2026-03-02 12:04:00+00, was"
        " SKIPPED: overlap_policy skip: the run of 2026-03-02 12:01:00 UTC had not ended."
    )


def test_instants_that_nobody_was_there_for(sched: Sched) -> None:
    cron(sched, "0 * * * *", misfire_policy="none")
    tick_at(sched, START + 3 * HOUR + 30 * MINUTE)

    last = explained(sched)[-1]
    assert last.startswith("3 instants ")
    assert last.endswith(
        " did not run; the latest, that of 2026-03-02 15:00:00+00, was"
        " MISSED: misfire_policy none: no worker was there within 60 s."
    )


def test_many_instants_that_one_row_stands_for(sched: Sched) -> None:
    cron(sched, misfire_policy="none", misfire_grace=SECOND)
    tick_at(sched, START + 500 * MINUTE + 30 * SECOND)

    last = explained(sched)[-1]
    assert last.startswith("500 instants ")
    assert "the latest, that of 2026-03-02 20:20:00+00, was MISSED" in last


def test_what_was_skipped_and_then_backfilled_did_run(sched: Sched) -> None:
    cron(sched)
    for n in range(1, 4):
        tick_at(sched, START + n * MINUTE)
    backfill(sched, "job", START + MINUTE, sched.now)

    assert "did not run" not in "\n".join(explained(sched))


def test_what_a_change_of_time_overtook(sched: Sched) -> None:
    cron(sched, overlap_policy="allow")
    sched.clock(START + 2 * MINUTE + SECOND)
    sched.call("reschedule", "job", "0 0 * * *")
    catch_up(sched)

    status = status_of(sched, str(sched.value("select id from pgsched.schedules")))
    assert (status.last_outcome, status.last_fire_at) == ("MISSED", START + 2 * MINUTE)
    assert status.last_reason == "the schedule was changed before this had fired"


# schedule_status


def test_the_status_of_an_active_one(sched: Sched) -> None:
    schedule_id = cron(sched, "0 13 * * *", timezone="Europe/Paris", jitter=SECOND, max_runs=3)

    status = status_of(sched, schedule_id)
    assert (status.name, status.state, status.definition_name) == ("job", "ACTIVE", "job")
    assert (status.runs_at, status.timezone) == ("0 13 * * *", "Europe/Paris")
    assert (status.last_run_at, status.last_task_id, status.last_outcome) == (None, None, None)
    assert (status.queue, status.priority, status.run_count) == ("default", 0, 0)
    assert (status.jitter, status.max_runs, status.ends_at) == (SECOND, 3, None)


def test_the_status_of_an_interval_names_no_zone(sched: Sched) -> None:
    schedule_id = str(sched.call("schedule_every", "job", 90 * MINUTE))

    status = status_of(sched, schedule_id)
    assert (status.runs_at, status.timezone) == ("every 01:30:00", None)


def test_the_status_shows_the_latest_run_and_the_latest_instant(sched: Sched) -> None:
    schedule_id = cron(sched)
    for n in (1, 2):
        tick_at(sched, START + n * MINUTE)

    status = status_of(sched, schedule_id)
    (task,) = sched.tasks()
    assert (status.last_run_at, status.last_task_id) == (START + MINUTE, task.id)
    assert (status.last_task_status, status.run_count, status.idle_count) == ("PENDING", 1, 1)
    assert (status.last_outcome, status.last_fire_at) == ("SKIPPED", START + 2 * MINUTE)


def test_a_schedule_whose_columns_were_never_touched_by_a_worker_has_a_status(
    sched: Sched,
) -> None:
    schedule_id = str(sched.call("schedule_cron", "job", "* * * * *"))
    update(sched, queue=None)

    status = status_of(sched, schedule_id)
    assert (status.state, status.next_run_at, status.tz_version) == ("ACTIVE", None, None)
