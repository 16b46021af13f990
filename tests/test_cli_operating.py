"""`pgsched submit`, `tasks`, `definitions`, `queues`, `systems`, `workers`, `outbox` and `top`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import typer

from pgsched import cli
from pgsched.cli import completion
from pgsched.names import list_names
from tests.commanding import Command
from tests.executing import dispatch_due, task_row
from tests.roles import as_role

Database = psycopg.Connection[Any]

NOBODY = "01980000-0000-7000-8000-000000000000"


@pytest.fixture
def db(dsn: str) -> Iterator[Database]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("select pgsched.define_task('job', p_max_retries => 0)")
        yield connection


@pytest.fixture
def run(command: Command, db: Database) -> Command:
    """The command on the database of `db`."""
    return command


def value(db: Database, query: str, *given: object) -> Any:
    row = db.execute(query.encode(), given).fetchone()
    return row[0] if row else None


def submit(run: Command, *args: str) -> str:
    done = run("submit", "job", *args)
    assert (done.code, done.err) == (0, "")
    return done.out.strip()


def failed(run: Command, db: Database, dsn: str, error: str = "no paper") -> str:
    task_id = submit(run)
    dispatch_due(dsn)
    db.execute("select pgsched.report_status(%s, 'FAILED', p_error_msg => %s)", [task_id, error])
    return task_id


# submit


def test_what_is_submitted_is_a_task_with_its_options(run: Command, dsn: str) -> None:
    first = submit(run)
    second = submit(
        run,
        *("--input", '{"n": 1}', "--delay", "2h", "--priority", "5"),
        *("--depends-on", first, "--key", "once"),
    )

    row = task_row(dsn, second)
    assert (row["status"], row["priority"], row["input_params"]) == ("PENDING", 5, {"n": 1})
    assert [str(task) for task in row["depends_on"]] == [first]
    assert submit(run, "--input", '{"n": 1}', "--delay", "2h", "--key", "once") == second


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["nothing"], 1, "nothing"),
        (["job", "--input", "[]"], 2, "--input"),
        (["job", "--delay", "soon"], 2, "--delay"),
        (["job", "--delay", "1h", "--at", "2030-01-01T00:00Z"], 2, "--at"),
        (["job", "--queue", "nowhere"], 1, "nowhere"),
        (["job", "--depends-on", NOBODY], 1, NOBODY),
        (["job", "--priority", "12"], 2, "--priority"),
    ],
)
def test_a_wrong_submit_is_told_and_makes_no_task(
    run: Command, db: Database, args: list[str], code: int, says: str
) -> None:
    done = run("submit", *args, columns=200)

    assert done.code == code
    assert says in done.err
    assert value(db, "select count(*) from pgsched.tasks") == 0


def test_who_waits_learns_how_it_ended(run: Command, db: Database) -> None:
    task_id = submit(run, "--key", "k")
    db.execute("select pgsched.cancel_task(%s)", [task_id])

    done = run("submit", "job", "--key", "k", "--wait", "--timeout", "5s")

    assert done.code == 1
    assert "CANCELLED" in done.out + done.err


# tasks


def test_tasks_are_listed_and_filtered(run: Command, db: Database) -> None:
    db.execute("select pgsched.define_queue('mail')")
    plain, mail = submit(run), submit(run, "--queue", "mail")

    assert [task["id"] for task in run("tasks", "list", "--json").json["tasks"]] == [mail, plain]
    only = run("tasks", "list", "--queue", "mail", "--status", "PENDING", "--json").json["tasks"]
    assert [task["id"] for task in only] == [mail]
    assert run("tasks", "list", "--status", "RUNNING", "--json").json["tasks"] == []
    table = run("tasks", "list", columns=200).out
    assert plain in table
    assert "job" in table


def test_one_task_is_shown_with_its_events(run: Command, db: Database, dsn: str) -> None:
    task_id = failed(run, db, dsn, "no \x1b[31mpaper")
    run("tasks", "retry", task_id, "--yes")

    page = run("tasks", "show", task_id, columns=120)

    assert page.code == 0
    assert task_id in page.out
    assert "\x1b[31m" not in page.out
    assert "OPERATOR_RETRY" in page.out
    shown = run("tasks", "show", task_id, "--json").json
    assert (shown["id"], shown["status"], shown["attempt"]) == (task_id, "PENDING", 2)
    events = run("tasks", "events", task_id, "--json").json["events"]
    assert [event["event"] for event in events] == ["OPERATOR_RETRY"]


@pytest.mark.parametrize("verb", ["show", "events", "cancel", "retry"])
def test_a_task_that_does_not_exist_is_one_line(run: Command, verb: str) -> None:
    yes = ["--yes"] if verb in ("cancel", "retry") else []

    done = run("tasks", verb, NOBODY, *yes)

    assert done.code == 1
    assert NOBODY in done.err + done.out


def test_single_tasks_are_cancelled_and_retried(run: Command, dsn: str, db: Database) -> None:
    task_id = submit(run)

    assert run("tasks", "cancel", task_id, "--reason", "not wanted", "--yes").code == 0
    assert task_row(dsn, task_id)["error_msg"] == "not wanted"
    assert run("tasks", "cancel", task_id, "--yes").code == 1
    assert run("tasks", "retry", task_id, "--yes").code == 0
    assert task_row(dsn, task_id)["status"] == "PENDING"


def test_many_are_counted_first_and_need_a_yes(run: Command, dsn: str, db: Database) -> None:
    tasks = [failed(run, db, dsn) for _ in range(3)]
    other = failed(run, db, dsn, "on fire")

    counted = run("tasks", "retry", "--definition", "job", "--error-like", "no%", "--dry-run")
    assert counted.code == 0
    assert "3" in counted.out
    refused = run("tasks", "retry", "--definition", "job", "--error-like", "no%")
    assert refused.code == 1
    assert "--yes" in refused.err
    assert {task_row(dsn, task)["status"] for task in [*tasks, other]} == {"FAILED"}

    done = run("tasks", "retry", "--definition", "job", "--error-like", "no%", "--yes")

    assert done.code == 0
    assert {task_row(dsn, task)["status"] for task in tasks} == {"PENDING"}
    assert task_row(dsn, other)["status"] == "FAILED"
    assert run("tasks", "cancel", "--definition", "job", "--yes").code == 0
    assert {task_row(dsn, task)["status"] for task in tasks} == {"CANCELLED"}


def test_an_act_on_everything_is_refused(run: Command, dsn: str) -> None:
    task_id = submit(run)

    assert run("tasks", "cancel", "--yes").code in (1, 2)
    assert task_row(dsn, task_id)["status"] == "PENDING"


# definitions, queues, systems


def test_a_definition_is_set_shown_and_listed(run: Command) -> None:
    assert "created" in run("definitions", "set", "mail", "--max-retries", "7").out
    assert "nothing to change" in run("definitions", "set", "mail", "--max-retries", "7").out
    assert "changed" in run("definitions", "set", "mail", "--timeout", "5m").out

    shown = run("definitions", "show", "mail", "--json").json
    assert (shown["name"], shown["max_retries"]) == ("mail", 3)
    listed = run("definitions", "list", "--json").json["definitions"]
    assert [definition["name"] for definition in listed] == ["job", "mail"]
    assert run("definitions", "show", "none").code == 1
    assert run("definitions", "set", "mail", "--max-retries", "1000").code in (1, 2)


def test_a_queue_is_set_paused_resumed_and_shown(run: Command) -> None:
    assert run("queues", "set", "mail", "--max-in-flight", "5", "--rate", "2.5").code == 0
    assert run("queues", "pause", "mail", "--note", "the printer is away").code == 0

    shown = run("queues", "show", "mail", "--json").json
    assert (shown["is_paused"], shown["pause_note"]) == (True, "the printer is away")
    assert "mail" in run("queues", "list").out
    assert run("queues", "resume", "mail").code == 0
    assert run("queues", "show", "mail", "--json").json["is_paused"] is False
    missing = run("queues", "pause", "nowhere")
    assert missing.code == 1
    assert missing.err.startswith("pgsched: ")


def test_a_system_is_set_opened_and_closed(run: Command) -> None:
    done = run("systems", "set", "crm", "--url", "https://crm.example", "--api-key-env", "CRM_KEY")
    assert done.code == 0
    assert run("systems", "open", "crm", "--reason", "moving house").code == 0
    shown = run("systems", "show", "crm", "--json").json
    assert (shown["breaker"], shown["open_reason"]) == ("open", "moving house")
    assert "open" in run("systems", "list").out
    assert run("systems", "close", "crm").code == 0
    assert run("systems", "show", "crm", "--json").json["breaker"] == "closed"
    assert run("systems", "set", "crm", "--url", "ftp://x").code in (1, 2)


# workers, outbox, top


def test_workers_are_listed_while_they_live_and_after(run: Command, db: Database) -> None:
    worker = value(db, "select pgsched.register_worker('here', 42, 'v')::text")
    found = run("workers", "list", "--json").json["workers"]
    assert [(w["id"], w["hostname"]) for w in found] == [(worker, "here")]
    db.execute("update pgsched.workers set lease_expires_at = pgsched.now() - interval '1 minute'")

    assert "lost" in run("workers", "list", columns=120).out


def test_why_a_task_stands_still_is_told_alone_on_its_page_and_in_its_queue(
    run: Command,
) -> None:
    task_id = submit(run)
    run("queues", "pause", "default", "--note", "no paper")
    why = "Queue 'default' is paused (no paper).  select pgsched.resume_queue('default') ends that."

    assert why in run("tasks", "explain", task_id).out.splitlines()
    assert why in run("tasks", "explain", task_id, "--json").json["explanation"].splitlines()
    assert why in run("tasks", "show", task_id, columns=120).out.splitlines()
    assert why in run("tasks", "show", task_id, "--json").json["explanation"].splitlines()
    assert why in run("queues", "show", "default", columns=120).out.splitlines()
    assert why in run("queues", "show", "default", "--json").json["explanation"].splitlines()


def test_a_task_that_does_not_exist_cannot_be_explained(run: Command) -> None:
    done = run("tasks", "explain", NOBODY)

    assert (done.code, done.err) == (1, f"pgsched: task {NOBODY} does not exist\n")


def test_what_is_stuck_is_listed_with_the_reason(run: Command, db: Database) -> None:
    assert run("tasks", "stuck").out == "no task is stuck\n"
    task_id = submit(run)
    db.execute(
        "update pgsched.scheduled_tasks set execute_after = execute_after - interval '1 hour'"
    )

    (stuck,) = run("tasks", "stuck", "--json").json["tasks"]
    assert (stuck["id"], stuck["queue"]) == (task_id, "default")
    assert stuck["stuck_for_seconds"] >= 3600
    assert "No worker is alive." in run("tasks", "stuck").out


def test_what_failed_alike_is_one_line(run: Command, db: Database, dsn: str) -> None:
    assert run("tasks", "failures").out == "no task failed in the latest 24 hours\n"
    failed(run, db, dsn, "no paper in tray 1")
    latest = failed(run, db, dsn, "no paper in tray 2")

    (failure,) = run("tasks", "failures", "--json").json["failures"]
    assert (failure["fingerprint"], failure["failed_count"]) == ("no paper in tray #", 2)
    assert failure["last_task_id"] == latest
    assert "no paper in tray #" in run("tasks", "failures").out


def test_what_is_still_to_be_told_is_listed(run: Command, db: Database, dsn: str) -> None:
    task_id = submit(run)
    dispatch_due(dsn)
    db.execute("select pgsched.cancel_task(%s)", [task_id])

    found = run("outbox", "list", "--json").json["status_pushes"]
    assert [(push["task_id"], push["status"]) for push in found] == [(task_id, "CANCELLED")]
    assert run("outbox", "list", "--given-up", "--json").json["status_pushes"] == []
    assert run("outbox", "list").code == 0


def test_a_frame_of_top_fits_a_narrow_terminal(run: Command, db: Database, dsn: str) -> None:
    failed(run, db, dsn)
    submit(run)
    db.execute("select pgsched.register_worker('here', 42, 'v')")

    frame = run("top", "--once", columns=80)

    assert frame.code == 0
    assert max(map(len, frame.out.splitlines())) <= 80
    for word in ("default", "here", "no paper"):
        assert word in frame.out
    document = run("top", "--once", "--json").json
    assert json.dumps(document)
    assert [queue["queue"] for queue in document["queues"]] == ["default"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "--once"),
        (["--json"], "--once"),
        (["--once", "--interval", "1ms"], "--interval"),
    ],
)
def test_top_without_a_terminal_says_what_to_do(run: Command, args: list[str], says: str) -> None:
    done = run("top", *args, columns=200)

    assert done.code == 2
    assert says in done.err


# Completion


def test_names_are_completed_from_the_database(dsn: str, db: Database) -> None:
    db.execute("select pgsched.define_queue('mail')")
    operator = as_role(dsn, "operator")

    assert list_names(operator, "queue", "ma") == ["mail"]
    assert list_names(operator, "definition", "") == ["job"]
    assert list_names("postgresql://nobody@127.0.0.1:1/none", "queue", "") == []


def test_without_settings_nothing_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGSCHED_DATABASE_URL", raising=False)

    context = typer.Context(typer.main.get_command(cli.app))

    assert completion.queues(context, "") == []
