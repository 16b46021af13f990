"""
The plans of the hot functions, in one session that lives through everything.

Plans are cached: those made while the table was empty are still used when it
holds a hundred thousand rows, by statistics that know nothing of them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb
from pytest_postgresql.janitor import DatabaseJanitor

from pgsched.firing import tick_of
from tests.sql.sched import Sched, settlement

# All phases are gone through before the first test, which some machines take long for.
pytestmark = pytest.mark.timeout(400)

BATCH = 200
PHASES = [
    "empty",
    "a hundred",
    "a hundred thousand",
    "churned",
    "and as many in future",
    "analyzed",
]
CALLS = [
    "claim",
    "claim with cursors",
    "settle accepted",
    "settle deferred",
    "settle retried",
    "settle refused",
    "report running",
    "report success",
    "report failed",
    "report known",
    "report one",
    "cancel",
    "retry",
    "stop a loop",
    "a key again",
    "maintain",
    "goodbye",
    "dead workers",
    "next_due_in",
    "expire_deadlines",
    "new failures",
    "due schedules",
    "fire",
    "resolve dependencies",
    "depend on tasks",
    "cancel with dependents",
    "free dependents",
    "delete a schedule",
    "claim news",
    "drop stale news",
    "settle news",
    "tell of cancelled",
    "a list with new keys",
    "a list with keys again",
    "a list with expired keys",
    "cancel many",
    "retry many",
]
EXPLAIN = """
    load 'auto_explain';
    set auto_explain.log_level = 'notice';
    set auto_explain.log_analyze = on;
    set auto_explain.log_timing = off;
    set auto_explain.log_nested_statements = on;
    set auto_explain.log_format = 'json';
"""
HOT = ("scheduled_tasks", "task_instances", "schedules", "schedule_fires", "status_pushes")


class Node(NamedTuple):
    """One node of a plan that was executed."""

    kind: str
    relation: str
    used_index: str
    rows: int  # that it gave or threw away, in all its loops
    query: str


def nodes(plan: dict[str, Any], query: str) -> Iterator[Node]:
    loops = plan.get("Actual Loops", 0)
    removed = sum(plan.get(f"Rows Removed by {by}", 0) for by in ("Filter", "Join Filter"))
    yield Node(
        plan["Node Type"],
        plan.get("Relation Name", ""),
        plan.get("Index Name", ""),
        round((plan.get("Actual Rows", 0) + removed) * loops),
        query,
    )
    for child in plan.get("Plans", []):
        yield from nodes(child, query)


class Observer:
    """Keeps the plans of all statements that are run inside `watching()`."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self.conn = conn
        self.seen: dict[str, list[Node]] = defaultdict(list)
        self._call = ""
        conn.execute(EXPLAIN.encode())
        conn.add_notice_handler(self._note)

    def _note(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        head, _, text = (diagnostic.message_primary or "").partition("plan:\n")
        if self._call and head.startswith("duration"):
            plan = json.loads(text)
            self.seen[self._call] += nodes(plan["Plan"], plan["Query Text"])

    @contextmanager
    def watching(self, call: str) -> Iterator[None]:
        self._call = call
        self.conn.execute("set auto_explain.log_min_duration = 0")
        yield
        self._call = ""
        self.conn.execute("set auto_explain.log_min_duration = -1")


def fill(sched: Sched, count: int, after: str) -> None:
    """Add copies of a task, spread over ten priorities."""
    sched.conn.execute("create temp table if not exists model as table pgsched.scheduled_tasks")
    if not sched.value("select count(*) from model"):
        model = sched.schedule()
        sched.conn.execute("insert into model select * from pgsched.scheduled_tasks")
        sched.call("cancel_task", model)
    changed = {
        "id": "gen_random_uuid()",
        "priority": "n % 10",
        "execute_after": f"pgsched.now() + {after} + n * interval '1 microsecond'",
    }
    names = [row.attname for row in sched.rows(COLUMNS)]
    values = ", ".join(changed.get(name, name) for name in names)
    sched.conn.execute(
        f"insert into pgsched.scheduled_tasks ({', '.join(names)})"
        f" select {values} from model, generate_series(1, {count}) as n".encode()
    )


def fill_schedules(sched: Sched, count: int) -> None:
    """Add schedules that are due, and half of them with a run that is under way."""
    with sched.conn.transaction():
        sched.conn.execute("set local session_replication_role = 'replica'")
        sched.conn.execute(
            """
            insert into pgsched.schedules
              (definition_id, name, every, next_run_at, counts_from, last_task_id)
            select
              d.id, pgsched.uuid7()::text, interval '1 hour', n.at, n.at - interval '30 minutes',
              case when i %% 2 = 0 then (select t.id from pgsched.scheduled_tasks as t limit 1) end
            from pgsched.task_definitions as d
            cross join (select pgsched.now() as at) as n
            cross join generate_series(1, %s) as i
            """,
            [count],
        )


COLUMNS = """
    select a.attname::text
    from pg_attribute as a
    where a.attrelid = 'pgsched.scheduled_tasks'::regclass and a.attnum > 0 and not a.attisdropped
"""


def churn(sched: Sched, count: int) -> None:
    """Claim, accept and finish so many tasks."""
    for _ in range(count // 1000):
        fill(sched, 1000, "interval '-1 hour'")
        claimed = sched.claim(1000)
        sched.settle_many(*(settlement(row) for row in claimed))
        sched.report_many(*({"task_id": row.id, "status": "SUCCESS"} for row in claimed))


def exercise(sched: Sched, observer: Observer) -> None:
    """Every hot function once, on batches of real tasks as far as there are any."""
    unknown = [sched.value("select pgsched.uuid7()::text") for _ in range(BATCH)]
    named = {"attempt": 1, "delivery_count": 1}

    def claim(call: str, cursors: dict[str, Any] | None = None) -> list[Any]:
        with observer.watching(call):
            return sched.claim(BATCH, cursors=cursors)

    def settle(call: str, claimed: list[Any], outcome: str) -> None:
        known = [settlement(row, outcome, delay="1 hour") for row in claimed]
        phantom = [{"task_id": i, "outcome": outcome, **named} for i in unknown]
        with observer.watching(call):
            sched.settle_many(*(known or phantom))

    def report(call: str, claimed: list[Any], status: str) -> None:
        with observer.watching(call):
            sched.report_many(
                *({"task_id": i, "status": status} for i in [r.id for r in claimed] or unknown)
            )

    accepted = claim("claim")
    settle("settle accepted", accepted, "ACCEPTED")
    report("report running", accepted, "RUNNING")
    third = BATCH // 3
    report("report success", accepted[:third], "SUCCESS")
    report("report failed", accepted[third:-1], "FAILED")
    report("report known", accepted[:third], "SUCCESS")
    with observer.watching("report one"):
        for row in accepted[-1:]:
            sched.report(row.id, "SUCCESS")
    start = {"default": {"*": ["2020-01-01T00:00:00Z", "00000000-0000-0000-0000-000000000000"]}}
    settle("settle deferred", claim("claim with cursors", start), "DEFERRED")
    settle("settle retried", claim("claim"), "RETRY")
    settle("settle refused", claim("claim"), "REFUSED")
    single(sched, observer)
    repeated(sched, observer)
    dependent(sched, observer)
    news(sched, observer)
    listed(sched, observer)
    many(sched, observer)
    with observer.watching("next_due_in"):
        sched.call("next_due_in")
    with observer.watching("expire_deadlines"):
        sched.call("expire_deadlines", BATCH)
    query = (
        "select id from pgsched.workers where lease_expires_at > pgsched.now() order by id limit 1"
    )
    oldest = sched.value(query)
    with observer.watching("new failures"):
        sched.call("new_failures", oldest, sched.now - timedelta(seconds=2))


def news(sched: Sched, observer: Observer) -> None:
    """What the external systems are told of tasks: of those that are to be retried, all is true."""
    ended = sched.rows(
        "select p.task_id::text as id from pgsched.status_pushes as p"
        " where p.status <> 'PENDING' limit %s",
        BATCH,
    )
    with observer.watching("tell of cancelled"):
        sched.call("tell_of_cancelled", [row.id for row in ended], sched.now)
    sched.conn.execute("update pgsched.status_pushes set attempt = 99 where status <> 'PENDING'")
    with observer.watching("drop stale news"):
        sched.call("drop_stale_pushes", [row.id for row in ended], sched.now)
    with observer.watching("claim news"):
        claimed = sched.claim_news(BATCH)
    with observer.watching("settle news"):
        sched.settle_news(*claimed[::2])
        sched.settle_news(*claimed[1::2], outcome="DEFERRED", delay="1 hour")
    with observer.watching("look at tasks"):
        sched.rows("select * from pgsched.tasks limit %s", BATCH)


def repeated(sched: Sched, observer: Observer) -> None:
    """What is done to schedules, and to what waits for another task."""
    with observer.watching("due schedules"):
        due = sched.due(BATCH)
    with observer.watching("fire"):
        sched.tick(*(tick_of(schedule) for schedule in due))
    sched.conn.execute(
        "insert into pgsched.task_dependencies (task_id, depends_on_id)"
        f" select gen_random_uuid(), gen_random_uuid() from generate_series(1, {BATCH})".encode()
    )
    with observer.watching("resolve dependencies"):
        sched.call("resolve_dependencies")
    sched.call("schedule_cron", "job", "@daily", name="a")
    for _ in range(BATCH):
        sched.call("trigger_schedule", "a")
    with observer.watching("delete a schedule"):
        assert sched.call("delete_schedule", "a") == BATCH


def dependent(sched: Sched, observer: Observer) -> None:
    """What is done to tasks that others wait for."""
    ids = [row.id for row in sched.rows("select id from pgsched.scheduled_tasks limit %s", BATCH)]
    with observer.watching("depend on tasks"):
        waiting = sched.schedule(depends_on=ids)
    sched.call("cancel_task", waiting)
    sched.conn.execute("delete from pgsched.task_dependencies")
    sched.define("stubborn", on_dependency_failure="run")
    for definition, call in (("job", "cancel with dependents"), ("stubborn", "free dependents")):
        first = sched.schedule()
        sched.conn.execute(
            "select pgsched.schedule_immediate(%s, p_depends_on => array[%s::uuid])"
            " from generate_series(1, %s)",
            [definition, first, BATCH],
        )
        with observer.watching(call):
            sched.call("cancel_task", first)
    sched.conn.execute(
        "delete from pgsched.scheduled_tasks where depends_on is not null and status = 'PENDING'"
    )


def listed(sched: Sched, observer: Observer) -> None:
    """What is done to a list of tasks with keys, where many others are held."""
    sched.conn.execute(
        "insert into pgsched.idempotency_keys (definition_id, key, task_id, input_hash, expires_at)"
        " select d.id, 'held ' || n, gen_random_uuid(), '', pgsched.now() + interval '1 day'"
        " from pgsched.task_definitions as d cross join generate_series(1, 10000) as n"
        " where d.name = 'job'"
    )
    tasks = Jsonb([{"definition": "job", "idempotency_key": f"new {n}"} for n in range(BATCH)])
    found = []
    for call in ("new keys", "keys again", "expired keys"):
        if call == "expired keys":  # which hold as long as their tasks are unfinished
            sched.conn.execute(
                "update pgsched.idempotency_keys set expires_at = pgsched.now()"
                " where key like 'new %'"
            )
        with observer.watching(f"a list with {call}"):
            found.append(sched.call("schedule_many", tasks))
    assert found == found[:1] * 3
    sched.conn.execute(
        "delete from pgsched.scheduled_tasks where id = any (array("
        "select task_id from pgsched.idempotency_keys where key like 'new %'))"
    )
    sched.conn.execute("delete from pgsched.idempotency_keys")


def many(sched: Sched, observer: Observer) -> None:
    """Cancel many tasks and bring them back."""
    at = sched.now
    for call, function, after in (
        ("cancel many", "cancel_tasks", "-infinity"),
        ("retry many", "retry_tasks", at),
    ):
        query = f"select * from pgsched.{function}(p_after => %s, p_limit => {BATCH})"
        with observer.watching(call):
            sched.rows(query, after)


def single(sched: Sched, observer: Observer) -> None:
    """What is done to one task at a time, and to a worker's."""
    task_id, loop_id = sched.schedule(idempotency_key="k"), sched.loop()
    with observer.watching("a key again"):
        assert sched.schedule(idempotency_key="k") == task_id
    with observer.watching("cancel"):
        sched.call("cancel_task", task_id)
    with observer.watching("retry"):
        sched.call("retry_task", task_id)
    with observer.watching("stop a loop"):
        sched.call("stop_loop", loop_id)
    sched.conn.execute("update pgsched.idempotency_keys set expires_at = pgsched.now()")
    with observer.watching("maintain"):
        sched.call("maintain")
    sched.call("cancel_task", task_id)
    sched.call("maintain")
    worker, _ = sched.register(), sched.claim(BATCH)
    sched.conn.execute(
        "update pgsched.workers set lease_since = pgsched.now() - interval '1 hour',"
        " lease_expires_at = pgsched.now() + (case when id = %s then '1' else '-1' end)::interval",
        [worker],
    )
    with observer.watching("dead workers"):
        sched.call("release_dead_workers", worker)
    sched.claim(BATCH)
    with observer.watching("goodbye"):
        sched.goodbye()


def live(sched: Sched, observer: Observer) -> dict[str, dict[str, list[Node]]]:
    """Go through all phases in one session; what was seen in each."""
    seen: dict[str, dict[str, list[Node]]] = {}

    def phase(name: str) -> None:
        exercise(sched, observer)
        seen[name], observer.seen = observer.seen, defaultdict(list)

    for _ in range(7):  # so often that each statement has the plan it keeps
        phase("empty")
    sched.conn.execute("analyze pgsched.scheduled_tasks")  # the last it hears for long
    fill(sched, 100, "interval '-1 hour'")
    fill_schedules(sched, 100)
    phase("a hundred")
    fill(sched, 100_000, "interval '-1 minute'")
    fill_schedules(sched, 20_000)
    phase("a hundred thousand")
    churn(sched, 50_000)
    phase("churned")
    fill(sched, 100_000, "interval '1 hour'")
    phase("and as many in future")
    sched.conn.execute("analyze pgsched.scheduled_tasks, pgsched.task_instances")
    phase("analyzed")
    return seen


@pytest.fixture(scope="module")
def seen(pgsched_db: Any) -> Iterator[dict[str, dict[str, list[Node]]]]:
    server = {k: getattr(pgsched_db, k) for k in ("host", "port", "user")}
    password = pgsched_db.password or None
    name = f"{pgsched_db.dbname}_plans"  # each process of pytest-xdist has its own
    with DatabaseJanitor(
        **server, dbname=name, template_dbname=pgsched_db.template_dbname, password=password
    ):
        dsn = make_conninfo(**server, dbname=name, password=password)
        with psycopg.connect(dsn, autocommit=True) as conn:
            try:
                observer = Observer(conn)
            except psycopg.Error as exc:
                pytest.skip(f"auto_explain cannot be loaded: {exc}")
            sched = Sched(conn)
            sched.define()
            yield live(sched, observer)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("phase", PHASES)
def test_no_call_scans_a_hot_table(
    seen: dict[str, dict[str, list[Node]]], phase: str, call: str
) -> None:
    scans = [
        node
        for node in seen[phase][call]
        if node.relation.startswith(HOT) and node.kind in ("Seq Scan", "Bitmap Heap Scan")
    ]
    assert scans == []


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("phase", PHASES)
def test_the_rows_a_call_touches_are_bounded_by_its_batch(
    seen: dict[str, dict[str, list[Node]]], phase: str, call: str
) -> None:
    # A task may have several messages; and nineteen priorities are looked at, whatever is in them.
    bound = (3 if call == "drop stale news" else 1) * BATCH + 19
    touched = [n for n in seen[phase][call] if n.relation.startswith(HOT) and n.rows > bound]

    assert touched == []


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("phase", PHASES)
def test_no_join_compares_everything_with_everything(
    seen: dict[str, dict[str, list[Node]]], phase: str, call: str
) -> None:
    assert [node for node in seen[phase][call] if node.rows > 20 * BATCH] == []


@pytest.mark.parametrize("call", ["claim", "claim with cursors", "next_due_in"])
@pytest.mark.parametrize("phase", PHASES)
def test_what_is_due_is_found_by_its_index(
    seen: dict[str, dict[str, list[Node]]], phase: str, call: str
) -> None:
    assert "scheduled_tasks_due_idx" in {node.used_index for node in seen[phase][call]}


@pytest.mark.parametrize("phase", PHASES)
def test_what_may_be_retried_is_found_by_its_index(
    seen: dict[str, dict[str, list[Node]]], phase: str
) -> None:
    used = {node.used_index for node in seen[phase]["retry many"]}

    assert "task_instances_default_status_finished_at_idx" in used


@pytest.mark.parametrize("phase", PHASES)
def test_a_due_schedule_is_found_by_its_index(
    seen: dict[str, dict[str, list[Node]]], phase: str
) -> None:
    used = {n.used_index for n in seen[phase]["due schedules"] if n.relation == "schedules"}

    assert "schedules_due_idx" in used


def test_the_claims_were_of_full_batches(seen: dict[str, dict[str, list[Node]]]) -> None:
    """Or the bounds above would say nothing."""
    for phase in PHASES[2:]:
        updated = [n.rows for n in seen[phase]["claim"] if n.kind == "LockRows"]
        assert max(updated) == BATCH, phase


def test_the_ticks_were_of_full_batches(seen: dict[str, dict[str, list[Node]]]) -> None:
    for phase in PHASES[2:]:
        locked = [n.rows for n in seen[phase]["fire"] if n.kind == "LockRows"]
        assert max(locked) == BATCH, phase


@pytest.mark.parametrize("call", ["cancel with dependents", "free dependents"])
def test_the_dependents_were_full_batches(
    seen: dict[str, dict[str, list[Node]]], call: str
) -> None:
    for phase in PHASES:
        locked = [n.rows for n in seen[phase][call] if n.kind == "LockRows"]
        assert max(locked) == BATCH, phase


def test_the_news_were_full_batches(seen: dict[str, dict[str, list[Node]]]) -> None:
    for phase in PHASES[2:]:
        locked = [n.rows for n in seen[phase]["claim news"] if n.kind == "LockRows"]
        assert max(locked) == BATCH, phase


@pytest.mark.parametrize("phase", PHASES)
def test_due_news_are_found_by_their_index(
    seen: dict[str, dict[str, list[Node]]], phase: str
) -> None:
    assert "status_pushes_due_idx" in {node.used_index for node in seen[phase]["claim news"]}


@pytest.mark.parametrize("phase", PHASES[2:])
def test_whether_all_was_told_is_looked_up_for_each_task_that_is_shown(
    seen: dict[str, dict[str, list[Node]]], phase: str
) -> None:
    looks = [n for n in seen[phase]["look at tasks"] if n.relation == "status_pushes"]

    assert {node.used_index for node in looks} == {"status_pushes_task_idx"}
    assert sum(node.rows for node in looks) <= BATCH


@pytest.mark.parametrize("phase", PHASES)
def test_new_failures_are_found_by_the_index_of_what_did_not_end_well(
    seen: dict[str, dict[str, list[Node]]], phase: str
) -> None:
    used = {
        node.used_index
        for node in seen[phase]["new failures"]
        if node.relation.startswith("task_instances")
    }
    assert used
    assert all("status_finished_at" in index for index in used), used
