"""No name, reason or error that stands in the database moves, colours or turns a terminal."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import psycopg
import pytest

from pgsched import cli
from tests.commanding import Command
from tests.executing import dispatch_due
from tests.security.names import HARMFUL, NAMES

# All of them in one; it is no longer than what is shown of an error.
BAD = "".join(
    NAMES[about] for about in ("a terminal", "a new line", "a direction", "separators", "emoji")
)
WORLD = """
    select pgsched.define_external_system(b.ad, 'http://127.0.0.1:1') from bad as b;
    select pgsched.define_queue('mail', b.ad) from bad as b;
    select pgsched.open_breaker(b.ad, b.ad) from bad as b;
    select pgsched.define_task(b.ad, jsonb_build_object(b.ad, b.ad), p_max_retries => 0)
    from bad as b;
    select pgsched.define_task('job', p_max_retries => 0);
    select pgsched.schedule_cron(b.ad, '0 3 * * *', p_input_params => jsonb_build_object(b.ad, 1))
    from bad as b;
    select pgsched.trigger_schedule(b.ad) from bad as b;
    select pgsched.pause_schedule(b.ad, b.ad) from bad as b;
    select pgsched.backfill_schedule(b.ad, '2026-01-01Z', '2026-01-02Z') from bad as b;
    update pgsched.schedule_backfills
    set status = 'REFUSED', finished_at = now(), error_msg = (table bad);
    select pgsched.schedule_loop(b.ad, p_input_params => jsonb_build_object(b.ad, b.ad))
    from bad as b;
    select pgsched.register_worker(b.ad, 1, b.ad) from bad as b;
    select pgsched.pause_queue('default', b.ad) from bad as b
"""
TASK = "select id::text from pgsched.tasks where definition_name = %s order by id desc limit 1"
# All there is, with what each takes: the task, or the names, of the world.
COMMANDS = {
    "config": "",
    "doctor": "",
    "submit": "BAD --key BAD",
    "top": "--once",
    "tasks list": "",
    "tasks show": "TASK",
    "tasks explain": "TASK",
    "tasks events": "TASK",
    "tasks stuck": "",
    "tasks failures": "",
    "tasks cancel": "--definition BAD --reason BAD --yes",
    "tasks retry": "--error-like %BAD% --yes",
    "definitions list": "",
    "definitions show": "BAD",
    "definitions set": "BAD --queue mail",
    "schedules list": "",
    "schedules show": "BAD",
    "schedules set": "BAD --definition BAD --cron @hourly",
    "schedules reschedule": "BAD --every 2h",
    "schedules pause": "BAD --note BAD",
    "schedules resume": "BAD",
    "schedules trigger": "BAD",
    "schedules backfill": "BAD --from 2026-01-01T00:00Z --to 2026-01-02T00:00Z --yes --no-wait",
    "schedules fires": "BAD",
    "schedules changes": "BAD",
    "schedules delete": "BAD --yes",
    "queues list": "",
    "queues show": "mail",
    "queues set": "mail --system BAD",
    "queues pause": "mail --note BAD",
    "queues resume": "mail",
    "systems list": "",
    "systems show": "BAD",
    "systems set": "BAD --url http://127.0.0.1:2",
    "systems open": "BAD --reason BAD",
    "systems close": "BAD",
    "workers list": "",
    "outbox list": "",
}
# They take no name, or run until they are stopped: see their logs.
WITHOUT_NAMES = {"dev", "migrate", "worker", "serve", "cron next", "cron explain"}


def verbs() -> dict[str, object]:
    grouped = {
        f"{group} {word}": verb
        for group, (_, group_verbs) in cli.GROUPS.items()
        for word, verb in group_verbs.items()
    }
    return {**cli.ALONE, **grouped}


@pytest.fixture
def task(dsn: str) -> Iterator[str]:
    """A task that failed with such an error, was retried and told of; all else has such names."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create temp table bad (ad text)")
        conn.execute("insert into bad values (%s)", [BAD])
        statements = WORLD.split(";")
        for statement in statements[:-1]:
            conn.execute(statement.encode())
        dispatch_due(dsn)
        (row,) = conn.execute(TASK, [BAD]).fetchall()
        conn.execute(
            "select pgsched.report_status(%s, 'FAILED', p_error_msg => %s, p_output_ref => %s)",
            [row[0], BAD, BAD],
        )
        conn.execute(
            "select pgsched.schedule_immediate(%(bad)s, p_depends_on => array(select id from"
            " pgsched.scheduled_tasks where status = 'DISPATCHED' limit 1))",
            {"bad": BAD},
        )
        conn.execute(statements[-1].encode())
        conn.execute(
            "insert into pgsched.task_events (id, at, task_id, event, message, created_by)"
            " select pgsched.uuid7(), pgsched.now(), %s, 'REPORT_REFUSED', %s, %s",
            [row[0], BAD, BAD],
        )
        yield str(row[0])


def harm_in(text: str) -> list[str]:
    return sorted({ascii(char) for char in text if char != "\n" and not char.isprintable()})


def test_every_command_is_looked_at() -> None:
    assert COMMANDS.keys() | WITHOUT_NAMES == verbs().keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_harmful_is_printed(command: Command, task: str, name: str) -> None:
    given = [
        task if word == "TASK" else word.replace("BAD", BAD) for word in COMMANDS[name].split()
    ]
    takes_json = "as_json" in inspect.signature(verbs()[name]).parameters  # type: ignore[arg-type]
    for more in ([], ["--json"]) if takes_json else ([],):
        answer = command(*name.split(), *given, *more, columns=400)

        assert answer.code != 2, answer.err
        assert harm_in(answer.out) == []
        assert harm_in(answer.err) == []
        assert "\nERROR" not in answer.out.replace(" ", "")


def test_the_world_is_as_bad_as_it_should_be() -> None:
    assert {char for char in BAD if not char.isprintable()} == HARMFUL
