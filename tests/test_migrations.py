"""The files of sql/: by psql or by the migrator, twice, out of order, and by many at once."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pytest_postgresql.janitor import DatabaseJanitor

from pgsched import migrator
from pgsched.devdb import find_bindir
from pgsched.errors import MigrationError
from tests.roles import OWNER

pytestmark = pytest.mark.own_database

FILES = sorted((Path(__file__).parents[1] / "sql").glob("*.sql"))
NEXT = len(FILES) + 1

# How many wait for that session.
BLOCKED = "select count(*) from pg_stat_activity where %s = any (pg_blocking_pids(pid))"

# pg_dump of the later minor versions makes a key for \restrict at random.
RANDOM = re.compile(r"^\\(un)?restrict .*\n", re.MULTILINE)


@pytest.fixture
def empty(pg_server: Any) -> Iterator[Callable[[str], str]]:
    """Make databases with nothing in them."""
    made: list[DatabaseJanitor] = []
    server = {k: getattr(pg_server, k) for k in ("host", "port", "user")}
    password = pg_server.password or None

    def make(name: str) -> str:
        made.append(DatabaseJanitor(**server, dbname=f"pgsched_{name}", password=password))
        made[-1].init()
        return make_conninfo(**server, dbname=f"pgsched_{name}", password=password)

    yield make
    for janitor in made:
        janitor.drop()


def run(program: str, dsn: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of the programs of Postgres against a database."""
    given = conninfo_to_dict(dsn)
    environment = {f"PG{key.upper()}": str(value) for key, value in given.items()}
    environment = {k.replace("DBNAME", "DATABASE"): v for k, v in environment.items()}
    return subprocess.run(
        [find_bindir() / program, *arguments],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def psql(dsn: str, path: Path) -> subprocess.CompletedProcess[str]:
    return run("psql", dsn, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(path))


def dump(dsn: str) -> str:
    done = run("pg_dump", dsn, "--schema-only", "--no-owner")
    assert done.returncode == 0, done.stderr
    return RANDOM.sub("", done.stdout)


def ledger(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as conn:
        return conn.execute(
            "select version, name, checksum is not null from pgsched.schema_migrations order by 1"
        ).fetchall()


def test_psql_and_the_migrator_make_the_same_schema_byte_for_byte(
    empty: Callable[[str], str],
) -> None:
    by_hand, by_us = empty("by_hand"), empty("by_us")
    for path in FILES:
        done = psql(by_hand, path)
        assert (done.returncode, done.stderr, done.stdout) == (0, "", ""), path.name
    migrator.migrate(by_us)

    assert dump(by_hand) == dump(by_us)
    assert [row[:2] for row in ledger(by_hand)] == [row[:2] for row in ledger(by_us)]


def test_the_migrator_goes_on_where_psql_has_stopped(empty: Callable[[str], str]) -> None:
    dsn = empty("half")
    for path in FILES[:5]:
        assert psql(dsn, path).returncode == 0

    assert [m.version for m in migrator.migrate(dsn)] == list(range(6, NEXT))
    assert all(has_checksum for *_, has_checksum in ledger(dsn))


def test_migrating_twice_is_harmless(empty: Callable[[str], str]) -> None:
    dsn = empty("twice")
    assert [m.version for m in migrator.migrate(dsn)] == list(range(1, NEXT))
    before = (dump(dsn), ledger(dsn))

    assert migrator.migrate(dsn) == []

    assert (dump(dsn), ledger(dsn)) == before
    migrator.require_current(dsn)


def test_twenty_migrators_at_once_apply_each_file_once(empty: Callable[[str], str]) -> None:
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


def test_a_file_that_comes_too_early_stops_and_changes_nothing(empty: Callable[[str], str]) -> None:
    dsn = empty("early")
    for path in FILES[:2]:
        psql(dsn, path)
    before = (dump(dsn), ledger(dsn))

    done = psql(dsn, FILES[3])

    assert done.returncode == 3
    assert "Apply 3 first" in done.stderr
    assert (dump(dsn), ledger(dsn)) == before


def test_of_two_people_who_run_one_file_the_second_waits_and_stops(
    empty: Callable[[str], str],
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


def test_a_worker_refuses_a_schema_that_is_behind(empty: Callable[[str], str]) -> None:
    dsn = empty("behind")
    with pytest.raises(MigrationError, match="run `pgsched migrate`"):
        migrator.require_current(dsn)

    for path in FILES[:-1]:
        psql(dsn, path)
    with pytest.raises(MigrationError, match=FILES[-1].stem.replace("_", " ")):
        migrator.require_current(dsn)


def test_a_file_that_fails_leaves_the_schema_as_it_was(
    empty: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = empty("broken")
    broken = tmp_path / "002_broken.sql"
    broken.write_text(
        "begin;\ncall pgsched.begin_migration(2, 'broken');\n"
        "create table pgsched.half ();\nselect 1 / 0;\ncommit;\n",
        encoding="utf-8",
    )
    first = migrator.Migration(1, "foundation", FILES[0])
    monkeypatch.setattr(
        migrator, "migrations", lambda: [first, migrator.Migration(2, "broken", broken)]
    )

    with pytest.raises(MigrationError, match=r"002_broken\.sql: division by zero"):
        migrator.migrate(dsn)

    assert [row[0] for row in ledger(dsn)] == [1]
    assert "half" not in dump(dsn)


def test_what_is_in_the_wheel_is_what_is_in_the_checkout() -> None:
    assert [m.path.name for m in migrator.migrations()] == [path.name for path in FILES]
    assert [m.version for m in migrator.migrations()] == list(range(1, NEXT))
