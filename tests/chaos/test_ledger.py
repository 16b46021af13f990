"""
Nothing is lost, stuck or settled twice while everything around fails.

An application schedules tasks of all types through a proxy, workers push them
through others to a receiver that lies, and meanwhile: workers are killed and
put to sleep for longer than their lease, Postgres is stopped at once and
started again, its backends are terminated, the proxies cut connections, let
them hang half-open and refuse new ones.  Nobody helps.  Then what became of
each task is held against what the receiver has written down, and what the
workers do in a second afterwards against what new ones do in a new database.

PGSCHED_TEST_CHAOS_TASKS says how many tasks, at about.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from benchmarks.bench import fill, receiver, workers
from pgsched.devdb import DevServer, state_dir
from tests.asked import asked
from tests.chaos.client import ROUNDS, Acknowledged, Client
from tests.chaos.door import Door, Streams, connect_to_server
from tests.conftest import install_schema
from tests.delivery.checker import violations
from tests.delivery.hostile import Habits
from tests.delivery.test_ledger import stories, summary
from tests.delivery.world import NOTES, Process, World, world

pytestmark = pytest.mark.chaos

TASKS = asked("PGSCHED_TEST_CHAOS_TASKS")
SEED = asked("PGSCHED_TEST_CHAOS_SEED")
WORKERS = 3
SCHEDULES, RUNS = 10, max(TASKS // 150, 20)
CRON = """
    select pgsched.schedule_every('job', interval '1 second', '{"number": 0}', 'every-' || n,
      p_overlap_policy => 'allow', p_misfire_policy => 'all', p_max_runs => %s)
    from generate_series(1, %s) as n
"""
SETTINGS: dict[str, str | int] = {
    "max_connections": 100,
    "fsync": "off",
    "synchronous_commit": "on",
}
# The system behind a queue of its own, which answers at once and never lies.
PLAIN = """
    select pgsched.define_external_system('plain', p_base_url => %s, p_completion => 'response');
    select pgsched.define_queue('plain', 'plain');
    select pgsched.define_task('plain', p_queue => 'plain');
"""
# A worker is caught while it holds tasks, if that comes within so many seconds.
AT_WORK = 3.0
LEASE_SECONDS = 6.0  # and a little more
# A result waits as long as a connection hangs, and then for a new one.
HANGING = 40.0
LEAD_TO = "update pgsched.external_systems set base_url = %s where name = 'default'"
PORTION = 3000
# They are enqueued so long before they are due, in seconds.
LEAD = 1.5
GOOD_ENOUGH = 0.95
TURNS, TRIES = 3, 12


class Stage(NamedTuple):
    """Where it all happens."""

    server: DevServer
    front: Door  # through which the client schedules
    database: Door  # and workers and API work
    executor: Door  # and workers push
    it: World
    client: Client
    workers: list[Process]

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.server.dsn("ledger"), autocommit=True)


# What happens, one after the other, again and again


def kill_a_worker(stage: Stage) -> None:
    stage.it.stop_at_work(victim := stage.workers.pop(0), AT_WORK)
    victim.kill()
    stage.workers.append(stage.it.start_worker())


def put_a_worker_to_sleep(stage: Stage) -> None:
    stage.it.stop_at_work(sleeper := stage.workers[0], AT_WORK)
    time.sleep(LEASE_SECONDS)
    stage.it.wake_without_its_tasks(sleeper)


def restart_postgres(stage: Stage) -> None:
    stage.server.stop("immediate")
    time.sleep(1)
    stage.server.start(**SETTINGS)
    stage.it.use(stage.connect())


def terminate_backends(stage: Stage) -> None:
    stage.it.break_connections()


def cut_the_database_off(stage: Stage) -> None:
    doors = (stage.front, stage.database)
    for door in doors:
        door.close()
    time.sleep(2)
    for door in doors:
        door.open()


def let_the_executor_die(stage: Stage) -> None:
    stage.executor.close()
    time.sleep(2)
    stage.executor.open()


def let_connections_hang(stage: Stage) -> None:
    stage.database.half_open()
    time.sleep(3)


FAULTS: list[Callable[[Stage], None]] = [
    kill_a_worker,
    restart_postgres,
    put_a_worker_to_sleep,
    terminate_backends,
    let_the_executor_die,
    cut_the_database_off,
    let_connections_hang,
]


@contextmanager
def own_server() -> Iterator[DevServer]:
    """One that may be stopped; what it has committed it has written to its log."""
    server = DevServer(state_dir() / f"test-{secrets.token_hex(4)}")
    server.start(**SETTINGS)
    try:
        yield server
    finally:
        server.remove()


async def connect(url: str) -> Streams:
    return await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))


def new_database(server: DevServer, name: str) -> str:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    install_schema(conninfo=server.dsn(name), autocommit=True)
    return server.dsn(name)


@pytest.mark.timeout(300 + TASKS // 10)
def test_whatever_fails_every_task_ends_once_and_all_goes_on(tmp_path: Path) -> None:
    habits = Habits("", SEED, "callback", request_timeout=0.5, silence=2.0)
    with ExitStack() as stack:
        server = stack.enter_context(own_server())
        dsn = new_database(server, "ledger")
        front = stack.enter_context(Door(lambda: connect_to_server(dsn)))
        back = stack.enter_context(Door(lambda: connect_to_server(dsn)))
        through = make_conninfo(dsn, host="127.0.0.1", port=back.port)
        it = stack.enter_context(world(psycopg.connect(dsn), through, tmp_path, habits))
        stack.callback(lambda: it.db.close())
        it.terms = it.terms._replace(settled=HANGING)
        executor = stack.enter_context(Door(lambda: connect(it.url)))
        it.db.execute(LEAD_TO, [f"http://127.0.0.1:{executor.port}"])
        by = make_conninfo(dsn, host="127.0.0.1", port=front.port)
        client = Client(by, TASKS - SCHEDULES * RUNS, seconds=TASKS / 150)
        crew = [it.start_worker() for _ in range(WORKERS)]
        stage = Stage(server, front, back, executor, it, client, crew)
        with stage.connect() as connection:
            connection.execute(CRON, [RUNS, SCHEDULES])
        faults = storm(stage)
        began = time.monotonic()
        it.wait_until_unfinished(0, 120 + TASKS / 50)
        it.wait_for_the_executor()
        print(
            f"{len(client.acknowledged)} acknowledged; {dict(faults)}; {dict(client.failures)};"
            f" the rest took {time.monotonic() - began:.0f} s"
        )
        assert all(worker.process.poll() is None for worker in stage.workers)
        with stage.connect() as connection:
            reconcile(it, client.acknowledged, connection)
        ratio = throughput(stack, stage)
        print(f"throughput afterwards / of a new database: {ratio:.2f}")


def storm(stage: Stage) -> Counter[str]:
    """One fault after the other, as long as the client schedules, and each at least once."""
    happened: Counter[str] = Counter()
    stage.client.start()
    while stage.client.is_alive() or len(happened) < len(FAULTS):
        fault = FAULTS[happened.total() % len(FAULTS)]
        fault(stage)
        happened[fault.__name__] += 1
        time.sleep(1)
    stage.client.join()
    return happened


def reconcile(it: World, said: list[Acknowledged], connection: psycopg.Connection[Any]) -> None:
    """All that was acknowledged is there, and all that is there ended as the contract says."""
    it.tasks = [
        row[0] for row in connection.execute("select id::text from pgsched.tasks").fetchall()
    ]
    assert {task.id for task in said} <= set(it.tasks), "acknowledged, and not there"
    cases = it.cases()
    print(summary(cases))
    if found := list(violations(it.terms, cases)):
        pytest.fail("\n".join([f"{len(found)} complaints", *found[:20], *stories(cases, found)]))

    loops = [task.id for task in said if task.kind in ("LOOP", "INTERVAL_LOOP")]
    wrong = connection.execute(
        """
        select l.id, array_agg(t.round_index order by t.round_index)
        from unnest(%s::uuid[]) as l (id)
        left join pgsched.tasks as t on t.loop_id = l.id
        group by l.id
        having array_agg(t.round_index order by t.round_index) is distinct from %s::integer[]
        """,
        [loops, list(range(ROUNDS))],
    ).fetchall()
    assert not wrong, f"{len(wrong)} of {len(loops)} loops have not gone their rounds: {wrong[:3]}"
    fires = connection.execute("""
        select s.name, count(*), count(distinct f.task_id), count(t.id),
          max(f.scheduled_time) - min(f.scheduled_time)
        from pgsched.schedules as s
        join pgsched.schedule_fires as f on f.schedule_id = s.id and f.outcome = 'RUN'
        left join pgsched.tasks as t on t.id = f.task_id and t.schedule_id = s.id
        group by s.name
    """).fetchall()
    assert len(fires) == SCHEDULES
    for name, ran, tasks, there, span in fires:
        assert (ran, tasks, there) == (RUNS, RUNS, RUNS), name
        assert span.total_seconds() == RUNS - 1, f"{name} left out an instant"


def throughput(stack: ExitStack, stage: Stage) -> float:
    """
    What the workers do now, against what as many new ones do in a new database.

    Both databases take notes, which costs something.  Both in turn, and of each
    the best: what takes away from that is the machine's.
    """
    url = stack.enter_context(receiver("--status", "200"))
    fresh = new_database(stage.server, "fresh")
    through = make_conninfo(fresh, host="127.0.0.1", port=stage.database.port)
    with psycopg.connect(fresh, autocommit=True) as connection:
        connection.execute(NOTES)
    stack.enter_context(workers(through, url, WORKERS, PGSCHED_LOG_LEVEL="INFO"))
    best = {stage.server.dsn("ledger"): 0.0, fresh: 0.0}
    for dsn in best:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(PLAIN.replace("%s", f"'{url}'").encode())
    for turn in range(TRIES):
        for dsn in best:
            best[dsn] = max(best[dsn], rate(dsn))
        now, new = best.values()
        if turn >= TURNS and now >= GOOD_ENOUGH * new:
            break
    assert now >= GOOD_ENOUGH * new, best
    return now / new


def rate(dsn: str) -> float:
    """Tasks a second, from the moment when many come due until the last has ended."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("vacuum analyze pgsched.scheduled_tasks")
        due = time.monotonic() + LEAD
        fill(connection, PORTION, due_in=f"{LEAD} seconds", definitions="plain")
        query = "select exists (select from pgsched.scheduled_tasks)"
        assert connection.execute(query).fetchone() == (True,)
        time.sleep(due - time.monotonic())
        while connection.execute(query).fetchone() == (True,):
            time.sleep(0.01)
        return PORTION / (time.monotonic() - due)
