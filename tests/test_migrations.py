"""The files of sql/: by psql or by us, twice, out of order, by many, by whom, under load."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.json import Jsonb

from pgsched import drift, migrator, preflight
from pgsched.errors import Invalid, MigrationError
from pgsched.migrations import Migration, bundle
from tests.empty import Empty, Login
from tests.programs import run_program
from tests.roles import OWNER
from tests.waiting import eventually

pytestmark = pytest.mark.own_database

FILES = sorted((Path(__file__).parents[1] / "sql").glob("*.sql"))
NEXT = len(FILES) + 1

# How many wait for that session.
BLOCKED = "select count(*) from pg_stat_activity where %s = any (pg_blocking_pids(pid))"

# pg_dump of the later minor versions makes a key for \restrict at random.
RANDOM = re.compile(r"^\\(un)?restrict .*\n", re.MULTILINE)


def psql(dsn: str, path: Path) -> subprocess.CompletedProcess[str]:
    return run_program("psql", dsn, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(path))


def dump(dsn: str) -> str:
    done = run_program("pg_dump", dsn, "--schema-only", "--no-owner")
    assert done.returncode == 0, done.stderr
    return RANDOM.sub("", done.stdout)


def ledger(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as conn:
        return conn.execute(
            "select version, name, checksum is not null from pgsched.schema_migrations order by 1"
        ).fetchall()


def test_psql_and_the_migrator_make_the_same_schema_byte_for_byte(
    empty: Empty,
) -> None:
    by_hand, by_us = empty("by_hand"), empty("by_us")
    for path in FILES:
        done = psql(by_hand, path)
        assert (done.returncode, done.stderr, done.stdout) == (0, "", ""), path.name
    migrator.migrate(by_us)

    assert dump(by_hand) == dump(by_us)
    assert [row[:2] for row in ledger(by_hand)] == [row[:2] for row in ledger(by_us)]


def test_the_migrator_goes_on_where_psql_has_stopped(empty: Empty) -> None:
    dsn = empty("half")
    for path in FILES[:5]:
        assert psql(dsn, path).returncode == 0

    assert [m.version for m in migrator.migrate(dsn)] == list(range(6, NEXT))
    assert all(has_checksum for *_, has_checksum in ledger(dsn))


def test_migrating_twice_is_harmless(empty: Empty) -> None:
    dsn = empty("twice")
    assert [m.version for m in migrator.migrate(dsn)] == list(range(1, NEXT))
    before = (dump(dsn), ledger(dsn))

    assert migrator.migrate(dsn) == []

    assert (dump(dsn), ledger(dsn)) == before
    migrator.require_current(dsn)


def test_twenty_migrators_at_once_apply_each_file_once(empty: Empty) -> None:
    dsn = empty("twenty")
    with ThreadPoolExecutor(20) as pool:
        done = list(pool.map(migrator.migrate, [dsn] * 20))

    assert sorted(m.version for applied in done for m in applied) == list(range(1, NEXT))
    assert [row[0] for row in ledger(dsn)] == list(range(1, NEXT))


@pytest.fixture
def owned(dsn: str) -> str:
    """A database as good as new, as the owner of its schema."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"grant create on database {conn.info.dbname} to {OWNER}".encode())
    return make_conninfo(dsn, options=f"-c role={OWNER}")


@pytest.mark.parametrize("path", [FILES[0], FILES[1], FILES[-1]], ids=lambda path: path.stem)
def test_a_file_that_is_run_twice_stops_and_changes_nothing(owned: str, path: Path) -> None:
    dsn = owned
    before = (dump(dsn), ledger(dsn))

    done = psql(dsn, path)

    assert done.returncode == 3
    assert "already" in done.stderr
    assert (dump(dsn), ledger(dsn)) == before


def test_a_file_that_comes_too_early_stops_and_changes_nothing(empty: Empty) -> None:
    dsn = empty("early")
    for path in FILES[:2]:
        psql(dsn, path)
    before = (dump(dsn), ledger(dsn))

    done = psql(dsn, FILES[3])

    assert done.returncode == 3
    assert "Apply 3 first" in done.stderr
    assert (dump(dsn), ledger(dsn)) == before


def test_of_two_people_who_run_one_file_the_second_waits_and_stops(
    empty: Empty,
) -> None:
    dsn = empty("two")
    psql(dsn, FILES[0])
    with psycopg.connect(dsn) as first, ThreadPoolExecutor(1) as pool:
        body = FILES[1].read_text(encoding="utf-8").removesuffix("commit;\n")
        first.execute(body.replace("\nbegin;\n", "\n", 1).encode())
        second = pool.submit(psql, dsn, FILES[1])
        with psycopg.connect(dsn, autocommit=True) as observer:
            while observer.execute(BLOCKED, [first.info.backend_pid]).fetchone() == (0,):
                assert not second.done()
        first.commit()

        assert second.result().returncode == 3
        assert "already" in second.result().stderr
    assert [row[0] for row in ledger(dsn)] == [1, 2]


@pytest.mark.parametrize("is_breaking", [True, False])
def test_a_newer_schema_is_refused_when_it_is_breaking(owned: str, is_breaking: bool) -> None:
    dsn = owned
    with psycopg.connect(dsn) as conn:
        conn.execute("call pgsched.begin_migration(%s, 'later', %s)", [NEXT, is_breaking])

    if is_breaking:
        for refuses in (migrator.migrate, migrator.require_current):
            with pytest.raises(MigrationError, match=f"breaking migration {NEXT} later"):
                refuses(dsn)
    else:
        assert migrator.migrate(dsn) == []
        migrator.require_current(dsn)


def test_a_worker_refuses_a_schema_that_is_behind(empty: Empty) -> None:
    dsn = empty("behind")
    with pytest.raises(MigrationError, match="run `pgsched migrate`"):
        migrator.require_current(dsn)

    for path in FILES[:-1]:
        psql(dsn, path)
    with pytest.raises(MigrationError, match=FILES[-1].stem.replace("_", " ")):
        migrator.require_current(dsn)


def test_a_file_that_fails_leaves_the_schema_as_it_was(empty: Empty, tmp_path: Path) -> None:
    dsn = empty("broken")
    broken = tmp_path / "002_broken.sql"
    broken.write_text(
        "begin;\ncall pgsched.begin_migration(2, 'broken');\n"
        "create table pgsched.half ();\nselect 1 / 0;\ncommit;\n",
        encoding="utf-8",
    )
    files = [Migration(1, "foundation", FILES[0]), Migration(2, "broken", broken)]

    with pytest.raises(MigrationError, match=r"002_broken\.sql: division by zero"):
        migrator.migrate(dsn, files=files)

    assert [row[0] for row in ledger(dsn)] == [1]
    assert "half" not in dump(dsn)


def test_what_is_in_the_wheel_is_what_is_in_the_checkout() -> None:
    assert [m.path.name for m in migrator.migrations()] == [path.name for path in FILES]
    assert [m.version for m in migrator.migrations()] == list(range(1, NEXT))


def test_each_file_is_told_of_when_it_is_applied(empty: Empty) -> None:
    said: list[str] = []

    migrator.migrate(empty("told"), say=said.append)

    assert [re.sub(r"\d+\.\d\d s$", "… s", line) for line in said] == [
        f"applied {path.stem.replace('_', ' ', 1)} in … s" for path in FILES
    ]


def test_a_file_that_was_patched_after_it_was_applied_is_told_of(dsn: str) -> None:
    migrator.migrate(dsn)
    with psycopg.connect(dsn) as conn:
        conn.execute("update pgsched.schema_migrations set checksum = 'abc' where version = 5")
    said: list[str] = []

    assert migrator.migrate(dsn, say=said.append) == []

    (warning,) = [line for line in said if line.startswith("warning: ")]
    assert "005 wake was applied from a file with sha256 abc" in warning
    with psycopg.connect(dsn) as conn:  # it stays, to be told of again
        query = "select checksum from pgsched.schema_migrations where version = 5"
        assert conn.execute(query).fetchone() == ("abc",)


# The bundle


def printed(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """What `pgsched migrate --print` says where there is neither a setting nor a database."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PGSCHED_", "PG"))}
    return subprocess.run(
        [sys.executable, "-m", "pgsched", "migrate", "--print", *arguments],
        env=environment,
        cwd="/",
        capture_output=True,
        check=False,
    )


def test_the_bundle_makes_the_same_schema_by_psql_as_the_migrator(
    empty: Empty, tmp_path: Path
) -> None:
    by_hand, by_us = empty("bundle"), empty("no_bundle")
    path = tmp_path / "pgsched.sql"
    path.write_bytes(printed().stdout)

    done = psql(by_hand, path)
    migrator.migrate(by_us)

    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")
    assert dump(by_hand) == dump(by_us)
    assert [row[:2] for row in ledger(by_hand)] == [row[:2] for row in ledger(by_us)]


def test_the_bundle_goes_on_from_a_number(empty: Empty, tmp_path: Path) -> None:
    dsn = empty("rest")
    for file in FILES[:7]:
        psql(dsn, file)
    path = tmp_path / "pgsched.sql"
    path.write_bytes(printed("--from", "8").stdout)

    assert psql(dsn, path).returncode == 0

    assert [row[0] for row in ledger(dsn)] == list(range(1, NEXT))


def test_the_bundle_stops_at_its_first_error_without_being_told(
    empty: Empty, tmp_path: Path
) -> None:
    dsn = empty("stops")
    path = tmp_path / "pgsched.sql"
    path.write_bytes(bundle(2))

    done = run_program("psql", dsn, "-X", "-q", "-f", str(path))

    assert done.returncode == 3
    assert done.stderr.count("ERROR") == 1


def test_the_files_stand_in_the_bundle_byte_for_byte() -> None:
    found, at = bundle(), 0

    for path in FILES:
        assert path.read_bytes() in found[at:]
        at = found.index(path.read_bytes(), at)
    head = found[: found.index(FILES[0].read_bytes())].decode()
    assert "psql -X -v ON_ERROR_STOP=1 -f" in head
    assert head.count("\n\\set ON_ERROR_STOP on\n") == 1
    assert f"migrations 001 foundation to {FILES[-1].stem.replace('_', ' ', 1)}" in head


@pytest.mark.parametrize("number", [-1, 0, NEXT])
def test_a_bundle_from_nowhere_is_refused(number: int) -> None:
    with pytest.raises(Invalid, match=f"--from must be .* 1 to {NEXT - 1}, not {number}"):
        bundle(number)


def test_a_bundle_from_nowhere_is_one_line_on_stderr() -> None:
    done = printed("--from", str(NEXT))

    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"pgsched: --from must be the number of a migration")


# Before anything is changed


def as_(dsn: str, user: str) -> str:
    return make_conninfo(dsn, user=user)


def execute(dsn: str, query: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(query.encode())


def grant(dsn: str, rights: str, user: str) -> None:
    execute(dsn, f"grant {rights} to {user}")


def migration(folder: Path, body: str) -> list[Migration]:
    """All files, and one more with that body."""
    path = folder / f"{NEXT:03d}_later.sql"
    path.write_text(
        f"-- {NEXT:03d} later\n\nbegin;\n\nset local lock_timeout = '2s';\n"
        "set local statement_timeout = '5min';\n\n"
        f"call pgsched.begin_migration({NEXT}, 'later');\n\n{body}\n\ncommit;\n",
        encoding="utf-8",
    )
    return [*migrator.migrations(), Migration(NEXT, "later", path)]


def test_one_without_createrole_is_told_what_an_administrator_must_run(
    empty: Empty, login: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, old, poor = empty("no_roles"), empty("roles_lost"), login()
    for dsn in (new, old):
        grant(dsn, f'create on database "{conninfo_to_dict(dsn)["dbname"]}"', poor)
    migrator.migrate(empty("makes_roles"))
    migrator.migrate(as_(old, poor))
    before = dump(old)
    missing = [f"test_missing_{secrets.token_hex(4)}" for _ in range(2)]
    monkeypatch.setattr(preflight, "ROLES", (*preflight.ROLES, *missing))
    files = migration(tmp_path, "create table pgsched.later ();")

    for dsn in (new, old):
        with pytest.raises(MigrationError) as refused:
            migrator.migrate(as_(dsn, poor), files=files)
        text, *lines = str(refused.value).splitlines()
        assert text.startswith(f"{poor} may not create the roles")
        assert lines == [f"create role {name} nologin;" for name in missing]

    assert ledger_is_missing(new)
    assert dump(old) == before


def ledger_is_missing(dsn: str) -> bool:
    with psycopg.connect(dsn) as conn:
        return conn.execute("select to_regnamespace('pgsched') is null").fetchone() == (True,)


def test_the_roles_are_those_that_the_first_file_makes() -> None:
    (listed,) = re.findall(
        r"foreach v_name in array array\[(.*?)\]", FILES[0].read_text(), re.DOTALL
    )

    assert tuple(re.findall(r"'(\w+)'", listed)) == preflight.ROLES


def test_a_role_that_was_lost_is_made_again(empty: Empty, monkeypatch: pytest.MonkeyPatch) -> None:
    dsn, name = empty("made_again"), f"test_lost_{secrets.token_hex(4)}"
    migrator.migrate(dsn)
    monkeypatch.setattr(preflight, "ROLES", (*preflight.ROLES, name))
    said: list[str] = []

    migrator.migrate(dsn, say=said.append)

    assert said == [
        f"warning: the role {name} was missing and is made anew, without the rights it had"
    ]
    execute(dsn, f"drop role {name}")  # fails if it is not there


def test_one_who_may_not_create_a_schema_is_told_so(empty: Empty, login: Login) -> None:
    dsn, poor = empty("no_create"), login("createrole")

    with pytest.raises(MigrationError) as refused:
        migrator.migrate(as_(dsn, poor))

    text, *lines = str(refused.value).splitlines()
    assert text.startswith(f"{poor} may not create a schema in the database pgsched_no_create.")
    assert ledger_is_missing(dsn)
    execute(dsn, "\n".join(lines))
    assert len(migrator.migrate(as_(dsn, poor))) == len(FILES)


def test_a_member_of_the_owner_acts_as_the_owner_and_says_so(
    empty: Empty, login: Login, tmp_path: Path
) -> None:
    dsn, owner, member = empty("owned"), login("createrole"), login()
    grant(dsn, "create on database pgsched_owned", owner)
    migrator.migrate(as_(dsn, owner))
    files = migration(tmp_path, "create table pgsched.later ();")
    said: list[str] = []

    with pytest.raises(MigrationError) as refused:
        migrator.migrate(as_(dsn, member), files=files)
    text, *lines = str(refused.value).splitlines()
    assert f"belongs to {owner}, and {member} may not act for that role" in text
    execute(dsn, "\n".join(lines))
    (done,) = migrator.migrate(as_(dsn, member), files=files, say=said.append)

    assert done.name == "later"
    assert said[0] == f"the schema belongs to {owner}: {member} acts as that role"
    query = "select tableowner::text from pg_tables where tablename = 'later'"
    with psycopg.connect(dsn) as conn:
        assert conn.execute(query).fetchone() == (owner,)


def test_a_superuser_acts_as_the_owner(empty: Empty, login: Login) -> None:
    dsn, owner = empty("superuser"), login("createrole")
    grant(dsn, "create on database pgsched_superuser", owner)
    migrator.migrate(as_(dsn, owner), files=migrator.migrations()[:5])

    assert len(migrator.migrate(dsn)) == len(FILES) - 5

    query = """
        select distinct pg_get_userbyid(p.proowner)::text
        from pg_proc as p
        where p.pronamespace = 'pgsched'::regnamespace
    """
    with psycopg.connect(dsn) as conn:
        assert conn.execute(query.encode()).fetchall() == [(owner,)]


def test_a_standby_is_refused(dsn: str) -> None:
    with pytest.raises(MigrationError, match="read-only: connect to the primary"):
        migrator.migrate(make_conninfo(dsn, options="-c default_transaction_read_only=on"))


# Under load

LOCK_TIMEOUT = 2.0
# What a loaded machine may add to a wait.
MARGIN = 1.0


class Load:
    """Enqueues, claims, settles and reports in threads; keeps the time of the slowest claim."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.slowest = 0.0
        self.finished = 0
        self._is_over = threading.Event()
        self._pool = ThreadPoolExecutor(3)

    def __enter__(self) -> Self:
        execute(self.dsn, "select pgsched.define_task('job')")
        jobs = [self._enqueue, self._work, self._work]
        self._running = [self._pool.submit(job) for job in jobs]
        self.goes_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for job in self._running:
            job.result(30)

    def goes_on(self) -> None:
        """Wait until some more has ended."""
        already = self.finished
        eventually(
            lambda: self.finished > already + 100 or any(job.done() for job in self._running)
        )

    def _enqueue(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            while not self._is_over.is_set():
                conn.execute("select pgsched.schedule_immediate('job') from generate_series(1, 20)")
                time.sleep(0.005)  # the machine has to do the rest as well

    def _work(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            (worker,) = conn.execute("select pgsched.register_worker('h', 1, 't')").fetchone() or ()
            while not self._is_over.is_set():
                began = time.monotonic()
                query = "select id, attempt, delivery_count from pgsched.claim_due_tasks(%s, 50)"
                tasks = conn.execute(query, [worker]).fetchall()
                self.slowest = max(self.slowest, time.monotonic() - began)
                ended = [{"task_id": str(row[0]), "attempt": row[1]} for row in tasks]
                accepted = [
                    {**end, "delivery_count": row[2], "outcome": "ACCEPTED"}
                    for end, row in zip(ended, tasks, strict=True)
                ]
                conn.execute("select pgsched.settle_tasks(%s)", [Jsonb(accepted)])
                reports = [{**end, "status": "SUCCESS"} for end in ended]
                conn.execute("select pgsched.report_statuses(%s)", [Jsonb(reports)])
                self.finished += len(tasks)


@contextmanager
def stranger(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A transaction that has read a task, and stays open."""
    with psycopg.connect(dsn, application_name="somebody's report") as conn:
        conn.execute("select from pgsched.scheduled_tasks limit 1")
        yield conn


USUAL = """
alter table pgsched.scheduled_tasks add column later text;

create or replace function pgsched.was_woken()
  returns boolean
  language sql
  volatile
  return false;
"""


def test_a_migration_that_meets_a_lock_gives_up_before_it_harms_and_says_who_holds_it(
    empty: Empty, tmp_path: Path
) -> None:
    dsn = empty("load")
    migrator.migrate(dsn)
    files = migration(tmp_path, USUAL)
    with Load(dsn) as load:
        with stranger(dsn) as conn:
            began = time.monotonic()
            with pytest.raises(MigrationError) as refused:
                migrator.migrate(dsn, files=files)
            waited = time.monotonic() - began
            pid = conn.info.backend_pid
        load.goes_on()
        assert ledger(dsn)[-1][0] == NEXT - 1
        (done,) = migrator.migrate(dsn, files=files, retries=3, pause=0.1)
        load.goes_on()

    said = str(refused.value)
    assert "another session holds a lock" in said
    assert "try again" in said
    assert f"pid {pid} (somebody's report, " in said
    assert LOCK_TIMEOUT <= waited < LOCK_TIMEOUT + MARGIN + 1
    assert done.name == "later"
    assert load.slowest < LOCK_TIMEOUT + MARGIN


def test_a_migration_is_tried_again_until_the_lock_is_free(empty: Empty, tmp_path: Path) -> None:
    dsn = empty("retries")
    migrator.migrate(dsn)
    files = migration(tmp_path, USUAL)
    said: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(stranger(dsn))

        def say(text: str) -> None:
            said.append(text)
            stack.close()

        migrator.migrate(dsn, files=files, retries=1, pause=0, say=say)

    assert re.match(rf"{NEXT:03d} later met a lock of pid \d+ \(somebody's report, ", said[0])
    assert said[-1].startswith(f"applied {NEXT:03d} later in ")


def test_a_migrator_waits_for_another_longer_than_for_a_stranger(
    empty: Empty, tmp_path: Path
) -> None:
    dsn = empty("patient")
    migrator.migrate(dsn)
    files = migration(tmp_path, "select pg_sleep(2.5);")
    said: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(migrator.migrate, dsn, files=files)
        with psycopg.connect(dsn, autocommit=True) as observer:
            query = """
                select from pg_stat_activity
                where wait_event = 'PgSleep' and datname = current_database()
            """
            eventually(lambda: observer.execute(query).rowcount == 1)
        second = pool.submit(migrator.migrate, dsn, files=files, say=said.append)

        assert [m.name for m in first.result(30)] == ["later"]
        assert second.result(30) == []
    assert said[0].startswith(f"{NEXT:03d} later waits for another migrator: pid ")


def test_a_fresh_install_beside_makes_no_claim_wait(empty: Empty) -> None:
    busy, new = empty("busy"), empty("new")
    migrator.migrate(busy)
    with Load(busy) as load:
        migrator.migrate(new)
        load.goes_on()

    assert load.slowest < LOCK_TIMEOUT


# Looking needs no right


def test_the_definitions_are_compared_for_one_who_has_no_right(empty: Empty, login: Login) -> None:
    dsn, poor = empty("looked_at"), login()
    migrator.migrate(dsn)

    def look() -> tuple[list[str], list[str]]:
        with psycopg.connect(as_(dsn, poor), autocommit=True) as conn:
            return drift.inspect(conn)

    unread = "the ledger was not compared: this role may not read it"
    assert look() == ([], [unread])
    execute(dsn, "drop view pgsched.upcoming")
    assert look() == (["view upcoming is missing"], [unread])
