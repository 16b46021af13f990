"""
The tests through a PgBouncer in transaction mode, for `make test-pgbouncer`.

With PGSCHED_TEST_PGBOUNCER=1 the database of a test has the address of a
pooler, and `poll_only` is set for all that reads settings, in this process and
in others.  What makes databases goes to the server itself, as do the session
of the fixture `postgresql` and the tests of a short list.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgsched import doctor
from pgsched.database import Database
from pgsched.visit import visit
from tests.asked import asked
from tests.pgbouncer import MISSING, PgBouncer, find_pgbouncer, pgbouncer

IS_POOLED = asked("PGSCHED_TEST_PGBOUNCER") == 1

# No transaction finds anything of the one before it in its session.
FORGETS = "server_reset_query = discard all\nserver_reset_query_always = 1"

LISTENS = "the session of the test listens"
IS_KNOWN = "a session of the test is known by the number of its process"
SETS = "the session of the test sets what its next transaction needs"
OPTIONS = "a connection of the test has options"
KEEPS = "the session of the test keeps a temporary table"
NEW = "what it sets holds for sessions of the server that begin later"
# Tests that go to the server itself, by the beginning of their names, and why.
DIRECT = {
    "tests/security/test_terminal.py::test_nothing_harmful_is_printed": KEEPS,
    "tests/sql/test_backfill.py::test_a_request_about_a_schedule_that_is_being_deleted": IS_KNOWN,
    "tests/sql/test_breaker.py::test_closing_it_wakes_the_workers": LISTENS,
    "tests/sql/test_bulk_acts.py::test_a_retry_of_many_wakes_the_workers": LISTENS,
    "tests/sql/test_enqueue.py::test_of_two_sessions_with_one_key_one_makes_the_task": IS_KNOWN,
    "tests/sql/test_enqueue.py::test_two_sessions_with_different_input_for_one_key": IS_KNOWN,
    "tests/sql/test_interleavings.py::test_two_sessions_do_to_a_task": KEEPS,
    "tests/sql/test_limits.py::test_a_freed_slot_of_a_limited_queue_wakes_the_workers": LISTENS,
    "tests/sql/test_limits.py::test_many_that_finish_together_wake_once": LISTENS,
    "tests/sql/test_locks.py::test_a_retry_takes_the_task_that_ended": IS_KNOWN,
    "tests/sql/test_robustness.py::test_a_task_without_a_definition": SETS,
    "tests/sql/test_roles.py": SETS,
    "tests/sql/test_schedule_changes.py::test_who_did_it_is_the_role_of_the_session": SETS,
    "tests/sql/test_schedule_control.py::test_two_sessions_that_replace_one": IS_KNOWN,
    "tests/sql/test_schedule_deletion.py::test_a_deletion_waits_for_a_": IS_KNOWN,
    "tests/sql/test_schedule_deletion.py::test_a_schedule_that_is_deleted_mean": IS_KNOWN,
    "tests/sql/test_schedule_deletion.py::test_an_operators_retry_and_a_deletion": IS_KNOWN,
    "tests/sql/test_schedule_many.py::test_two_lists_with_the_same_new_keys": IS_KNOWN,
    "tests/sql/test_schedules.py::test_two_sessions_that_create_one_schedule": IS_KNOWN,
    "tests/sql/test_types.py::test_a_round_that_": IS_KNOWN,
    "tests/sql/test_wake.py": LISTENS,
    "tests/sql/test_workers.py::test_a_heartbeat_waits_for_the_release": IS_KNOWN,
    "tests/test_api.py::test_a_database_that_takes_no_writes": NEW,
    "tests/test_doctor.py::test_a_database_that_takes_no_writes_is_an_error": SETS,
    "tests/test_doctor_server.py::test_settings_that_lose_tasks": SETS,
    "tests/test_doctor_server.py::test_slots_and_standbys": SETS,
    "tests/test_doctor_server.py::test_the_holder_of_an_old_snapshot": IS_KNOWN,
    "tests/test_doctor_server.py::test_what_is_sent_arrives": LISTENS,
    "tests/test_doctor_server.py::test_a_listener_that_keeps_the_queue_full": LISTENS,
    "tests/test_migrations.py::test_a_file_that_is_run_twice": OPTIONS,
    "tests/test_migrations.py::test_a_newer_schema_is_refused_when_it_is_breaking": OPTIONS,
    "tests/test_migrations.py::test_a_standby_is_refused": OPTIONS,
}
# Tests that are not run, by the beginning of their names, and why.
NO_LISTENER = "a worker that polls only has no session that listens"
LEFT_OUT = {
    "tests/test_api.py::test_connections_that_the_server_has_cut": "the pooler hides the cut",
    "tests/test_doctor_server.py::test_a_worker_that_does_not_listen_is_a_warning": NO_LISTENER,
    "tests/test_doctor_work.py::test_the_page_lists_each_finding": NO_LISTENER,
    "tests/test_limits.py::test_tasks_in_flight_never_exceed": "its rate needs the wake-up",
    "tests/test_metrics.py::test_errors_of_the_database_are_counted_by_kind": NO_LISTENER,
    "tests/test_metrics.py::test_wake_ups_and_the_connection_of_listen": NO_LISTENER,
}


def pytest_configure(config: pytest.Config) -> None:
    if not IS_POOLED:
        return
    if find_pgbouncer() is None:
        raise pytest.UsageError(MISSING)
    os.environ["PGSCHED_POLL_ONLY"] = "true"
    calls: list[Any] = [Database.__init__, visit, doctor.examine]
    for call in calls:  # as those say who read the setting
        getattr(call, "__wrapped__", call).__kwdefaults__["is_pooled"] = True
    for owner, name in ((psycopg, "connect"), (psycopg.AsyncConnection, "connect")):
        setattr(owner, name, _unprepared(getattr(owner, name)))


def _unprepared(connect: Callable[..., Any]) -> Callable[..., Any]:
    """What tests connect with prepares nothing; what pgsched connects with is its own affair."""

    @functools.wraps(connect)
    def connecting(*given: Any, **named: Any) -> Any:
        if sys._getframe(1).f_globals["__name__"].startswith("tests."):
            named.setdefault("prepare_threshold", None)
        return connect(*given, **named)

    return connecting


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not IS_POOLED:
        return
    left_out = [item for item in items if item.nodeid.startswith(tuple(LEFT_OUT))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def bouncer(pg_server: SimpleNamespace) -> Iterator[PgBouncer]:
    server = make_conninfo(host=pg_server.host, port=pg_server.port, user=pg_server.user)
    with pgbouncer(server, more=FORGETS) as it:
        yield it


@pytest.fixture
def pooled(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """The address of a database as the test is to see it."""
    if not IS_POOLED or request.node.nodeid.startswith(tuple(DIRECT)):
        return str
    bouncer: PgBouncer = request.getfixturevalue("bouncer")
    return bouncer.dsn
