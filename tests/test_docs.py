"""The docs name all there is, and nothing else: functions, views, settings, commands, modules."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer

from pgsched.cli import app
from pgsched.testing import FakeExternalSystem
from tests import settings_page
from tests.test_external import Recorder, system

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("examples/*/*.md")])

Connection = psycopg.Connection[Any]


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def sections(page: str) -> dict[str, str]:
    """The text below each heading, up to the next one of its rank or above."""
    found: dict[str, str] = {}
    for match in re.finditer(r"^(#+) (.+)$", page, re.MULTILINE):
        after = page[match.end() :]
        end = re.search(rf"^#{{1,{len(match[1])}}} ", after, re.MULTILINE)
        found[match[2].strip("`")] = after[: end.start() if end else None]
    return found


def table(text: str) -> list[list[str]]:
    """The cells of the first table in *text*, without its head."""
    lines = text.partition("\n|")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


API = sections(read("sql_api.md"))
DOCUMENTED = {title.removesuffix("()") for title in API if title.endswith("()")}
VIEWS = sorted(sections(API["Views"]))


# Functions

# Parts of the others, which may change without notice.
INTERNAL = {
    # triggers and migrations
    "begin_migration",
    "copy_column_comments",
    "begin_schedule",
    "guard_definition",
    "guard_queue",
    "keep_own_schedule",
    "log_schedule_change",
    "move_status_pushes",
    "note_gap_of_deleted",
    "reset_schedule",
    "wake_always",
    "wake_on_insert",
    # checks and look-ups
    "check_bulk_act",
    "check_cron",
    "check_every",
    "check_loop_config",
    "check_payload",
    "check_priority",
    "check_queue",
    "check_schedule",
    "claimable_queues",
    "earliest_end",
    "explain_refusal",
    "first_line",
    "find_definition",
    "find_own_schedule",
    "find_schedule",
    "has_next_round",
    "is_unfinished",
    "is_well_formed",
    "jitter_of",
    "judge_report",
    "queue_obstacles",
    "explain_end",
    "explain_hold",
    "explain_past",
    "explain_run",
    "explain_wait",
    "judge_settlement",
    "is_netted",
    "lease_term",
    "may_change",
    "next_probe_at",
    "next_tokens_at",
    "own_schedule_name",
    "ramp_term",
    "refuse_stranger",
    "refuse_stranger_to_task",
    "refuse_task",
    "refuse_unless_recorded",
    "refuse_unreadable",
    "retry_pause",
    "schedule_settings",
    "token_bucket",
    "uuid7",
    "uuid7_at",
    # steps
    "accept_tasks",
    "advance_schedules",
    "apply_reports",
    "await_tasks",
    "begin_probes",
    "begin_rounds",
    "bring_back",
    "cancel_locked",
    "claim_limited",
    "clean_status_pushes",
    "drop_stale_pushes",
    "drop_partitions",
    "empty_net",
    "end_pauses",
    "end_schedules",
    "enqueue_task",
    "enter_fires",
    "fail_attempts",
    "find_due",
    "find_due_within_limits",
    "finish_tasks",
    "fold_fires",
    "fold_newest",
    "forget_probes",
    "hold_key",
    "hold_keys",
    "hold_recorded",
    "hold_unfinished",
    "keep_record",
    "lock_due_pushes",
    "lock_schedule",
    "lock_task",
    "lock_tasks_of",
    "log_schedule_act",
    "lose_tasks",
    "make_partitions",
    "make_runs",
    "note_gap",
    "plan_fires",
    "put_schedule",
    "record_events",
    "record_refusals",
    "return_tasks",
    "start_tasks",
    "tell_of_cancelled",
    "tell_statuses",
    "try_duty",
    "unblock_tasks",
    "unfold_fires",
    "wake_for_freed_slots",
    "was_woken",
}
FUNCTIONS = """
    select p.proname::text, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)
    from pg_proc as p
    where p.pronamespace = 'pgsched'::regnamespace
"""
# How Postgres writes what the docs write shorter.
SHORT = {
    "timestamp with time zone": "timestamptz",
    "'00:00:00'": "'0 seconds'",
    "'00:00:30'": "'30 seconds'",
    "'00:01:00'": "'60 seconds'",
    "'01:00:00'": "'1 hour'",
    "'24:00:00'": "'24 hours'",
}


def shortened(text: str) -> str:
    text = re.sub(r"('|NULL)::[a-z ]+(\[\])?", r"\1", text)
    text = re.sub(r"\b(DEFAULT|NULL|SETOF|TABLE)\b", lambda word: word[0].lower(), text)
    for long, short in SHORT.items():
        text = text.replace(long, short)
    return text


def functions(conn: Connection) -> dict[str, tuple[str, str]]:
    """Arguments and result of each documented function, by its name."""
    found = conn.execute(FUNCTIONS.encode()).fetchall()
    return {row[0]: (shortened(row[1]), shortened(row[2])) for row in found if row[0] in DOCUMENTED}


def test_every_function_is_documented_or_internal(postgresql: Connection) -> None:
    there = {row[0] for row in postgresql.execute(FUNCTIONS.encode())}

    assert there - DOCUMENTED - INTERNAL == set()
    assert (DOCUMENTED | INTERNAL) - there == set()
    assert DOCUMENTED.isdisjoint(INTERNAL)


def test_the_index_lists_every_function_once() -> None:
    index = read("sql_api.md").partition("\n## ")[0]
    listed = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| .+ \|$", index, re.MULTILINE)))

    assert sorted(
        name for name in listed if name not in {"Conflict", "Forbidden", "Invalid", "NotFound"}
    ) == sorted([*DOCUMENTED, *VIEWS])


def test_the_signatures_are_those_of_the_functions(postgresql: Connection) -> None:
    block = re.compile(r"^```sql\n(pgsched\..+?)\n```$", re.MULTILINE | re.DOTALL)
    written = {name: block.findall(API[f"{name}()"]) for name in DOCUMENTED}

    assert {
        name: re.sub(r"\s+", " ", " | ".join(texts)).replace("( ", "(").replace(" )", ")")
        for name, texts in written.items()
    } == {
        name: f"pgsched.{name}({arguments}) returns {result.replace('table(', 'table (')}"
        for name, (arguments, result) in functions(postgresql).items()
    }


def test_the_tables_of_arguments_are_those_of_the_functions(postgresql: Connection) -> None:
    there = {name: arguments for name, (arguments, _) in functions(postgresql).items() if arguments}
    rows = {name: table(API[f"{name}()"]) for name in there}

    assert {
        name: ", ".join(
            f"{argument.strip('`')} {kind}"
            + ("" if value == "required" else f" default {value.strip('`')}")
            for argument, kind, value, _ in arguments
        )
        for name, arguments in rows.items()
    } == there


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_a_function_is_shown_in_use(name: str) -> None:
    assert re.search(
        rf"^```text\n.*\bpgsched\.{name}\(", API[f"{name}()"], re.MULTILINE | re.DOTALL
    )


# Views


def test_every_view_is_documented(postgresql: Connection) -> None:
    query = "select viewname::text from pg_views where schemaname = 'pgsched' order by viewname"

    assert [row[0] for row in postgresql.execute(query.encode())] == VIEWS


def test_the_columns_in_the_tables_are_those_of_the_views(postgresql: Connection) -> None:
    query = """
        select
          c.relname::text,
          a.attname::text,
          replace(format_type(a.atttypid, null), 'pgsched.', '')
        from pg_class as c
        join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0
        where c.relnamespace = 'pgsched'::regnamespace
          and c.relkind = 'v'
          and c.relname <> 'my_tasks'
        order by c.relname, a.attnum
    """
    there = [
        (v, c, shortened(kind)) for v, c, kind in postgresql.execute(query.encode()).fetchall()
    ]

    written = [(v, row[0].strip("`"), row[1]) for v in VIEWS for row in table(API[v])]
    assert written == there


# Settings and commands

PAGE = read("settings.md")


def test_the_tables_of_settings_are_those_of_the_class() -> None:
    assert settings_page.page() == PAGE, "run: make settings"


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """A command, or those of a group, by name."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for part, below in command.commands.items():
        yield from commands(below, f"{name} {part}")


COMMAND_PAGE = sections(read("commands.md"))
COMMANDS = dict(commands(typer.main.get_command(app), "pgsched"))


def test_every_command_is_documented() -> None:
    assert {t for t in COMMAND_PAGE if t.startswith("pgsched ")} == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_of_a_command_is_documented(name: str) -> None:
    given = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    flags = {option for option in given if option.startswith("--")}
    common = {"--database-url", "--help"}

    assert set(re.findall(r"`(--[\w-]+)`", COMMAND_PAGE[name])) == flags - common


# Executors

EXECUTORS = sections(read("executors.md"))


def rows_named(section: str) -> set[str]:
    """What the first cells of a section's tables name."""
    cells = re.findall(r"^\| (.+?) \|", EXECUTORS[section], re.MULTILINE)
    return set(re.findall(r"`(?:…\()?(\w+)", " ".join(cells)))


async def test_every_field_and_header_of_a_push_is_documented() -> None:
    recorder = Recorder()
    body = await recorder.body(to=system("https://crm.example")._replace(secrets=(b"s" * 32,)))
    [request] = recorder.requests
    said_of_http = {"host", "user-agent", "accept", "content-type", "content-length"}

    fields = body.keys() - {"metadata"} | body["metadata"].keys()
    assert rows_named("What is sent") - {"metadata"} >= fields
    named = set(re.findall(r"`([\w-]+)`", EXECUTORS["What is sent"].lower()))
    assert {name.lower() for name in request.headers} - said_of_http - named == set()


def test_the_test_double_is_documented() -> None:
    parameters = inspect.signature(FakeExternalSystem).parameters.keys()
    there = {name for name in dir(FakeExternalSystem()) if not name.startswith("_")}

    written = set(re.findall(r"(?<=[`(. ])(\w+)(?=[`(=])", EXECUTORS["Tests"]))
    assert (parameters | there) - {"url"} - written == set()


# The rest


def test_the_code_map_names_every_module() -> None:
    source = ROOT / "src/pgsched"
    modules = {p.name for p in source.glob("*.py")} - {"__init__.py", "__main__.py"}

    assert set(re.findall(r"`(\w+\.py)`", read("design.md"))) == modules


def test_the_sql_of_the_readme_runs_as_it_stands(postgresql: psycopg.Connection[Any]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```sql\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    postgresql.autocommit = True

    postgresql.execute(block)

    query = "select schedule_type, count(*) from pgsched.scheduled_tasks group by 1 order by 1"
    assert postgresql.execute(query).fetchall() == [
        ("DELAYED", 1),
        ("IMMEDIATE", 1),
        ("INTERVAL_LOOP", 1),
    ]
    assert postgresql.execute("select name from pgsched.schedules").fetchall() == [("dunning",)]


def test_every_decision_is_in_the_index() -> None:
    linked = re.findall(r"\]\((\d{3}-[\w-]+\.md)\)", read("adr/README.md"))

    assert linked == sorted(path.name for path in (DOCS / "adr").glob("0*.md"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


PROOF = re.compile(r"`((?:tests|benchmarks)/[\w/]+\.py)(?:::(\w+))?`")


def test_every_promise_names_a_test_that_exists() -> None:
    page = (DOCS / "guarantees.md").read_text()
    promises, _, rest = page.partition("## What is not promised")
    rows = [line for line in promises.splitlines() if line.startswith("| ") and "---" not in line]
    without = [row for row in rows if not PROOF.search(row) and "| Proved by |" not in row]
    assert [row for row in without if "make " not in row and ".md)" not in row] == []
    assert len(rows) > 20
    assert rest
    for path, name in PROOF.findall(promises):
        source = (DOCS.parent / path).read_text()
        assert not name or f"def {name}(" in source, f"{path} has no {name}"
