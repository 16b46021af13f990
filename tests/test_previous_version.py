"""
Workers of the version before, on the schema of this one, while it is migrated and after.

The version before is the newest release, by its tag `v…`; before the first one
it is this tree itself.  The version after is then this tree with one more file,
which changes what a migration may change under the feet of workers: so it is
seen that the promise of docs/migrations.md can be kept, and that this test sees
when it is not.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from pgsched import migrator
from tests.delivery.world import Process
from tests.empty import Empty
from tests.receiver import Receiver
from tests.test_migrations import FILES, NEXT
from tests.waiting import eventually

pytestmark = pytest.mark.own_database

ROOT = Path(__file__).parents[1]
LATER = f"""
begin;
set local lock_timeout = '2s';
call pgsched.begin_migration({NEXT}, 'later');

alter table pgsched.scheduled_tasks add column later text default 'new';
alter table pgsched.task_instances add column later text default 'new';
alter table pgsched.external_systems add column later integer not null default 1;
alter table pgsched.workers add column later timestamptz;
create index scheduled_tasks_later_idx on pgsched.scheduled_tasks (later) where later <> 'new';
{{more}}
revoke execute on all routines in schema pgsched from public;
commit;
"""
# What may not be done without the mark: workers ask for it by this name.
BREAKING = "alter function pgsched.claim_due_tasks rename to claim_due_tasks_later;"
SCHEDULE = """
    select pgsched.define_external_system(
      'default', p_base_url => %(url)s, p_completion => 'response'
    );
    select pgsched.define_task('job', p_retry_delay => '0.1 seconds');
    select pgsched.schedule_immediate('job') from generate_series(1, 40);
    select pgsched.schedule_delayed('job', n * interval '20 milliseconds')
    from generate_series(1, 40) as n;
    select pgsched.schedule_loop('job', 5), pgsched.schedule_loop('job', 3, interval '0.1 seconds');
    select pgsched.trigger_loop_once('job');
    select pgsched.schedule_every('job', interval '1 second', p_name => 'every', p_max_runs => 2);
"""
EXPECTED = 40 + 40 + 5 + 3 + 1 + 2


class Trees(NamedTuple):
    """Two versions, as folders with `src` and `sql`."""

    before: Path
    after: Path
    name: str  # of the version before


def git(*words: str) -> bytes:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True)
    return done.stdout if done.returncode == 0 else b""


def latest_release() -> str:
    """The tag of the newest release that is not this very commit; empty if there is none."""
    here = set(git("tag", "--points-at", "HEAD").decode().split())
    tags = git("tag", "--list", "v*", "--sort=-version:refname", "--merged", "HEAD").decode()
    return next((tag for tag in tags.split() if tag not in here), "")


def copy_of_this_tree(folder: Path, more: str = "") -> Path:
    for name in ("src", "sql"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    if more:
        (folder / "sql" / f"{NEXT:03}_later.sql").write_text(more)
    return folder


@pytest.fixture
def trees(tmp_path: Path) -> Trees:
    tag = latest_release()
    if not tag:
        later = copy_of_this_tree(tmp_path / "after", LATER.format(more=""))
        return Trees(copy_of_this_tree(tmp_path / "before"), later, "this tree")
    with tarfile.open(fileobj=io.BytesIO(git("archive", tag, "src", "sql"))) as archive:
        archive.extractall(tmp_path / "before", filter="data")
    return Trees(tmp_path / "before", ROOT, tag)


class Old(NamedTuple):
    """A database, and how the processes of a version are run on it."""

    dsn: str
    start: Callable[..., Process]

    def migrate(self, tree: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pgsched", "migrate"],
            env=environment(tree, self.dsn),
            capture_output=True,
            text=True,
        )

    def worker(self, tree: Path) -> Process:
        worker = self.start(tree)
        worker.says("(worker ready)")
        return worker


def environment(tree: Path, dsn: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(tree / "src"),
        "PGSCHED_DATABASE_URL": dsn,
        "PGSCHED_LOG_FORMAT": "text",
    }


@contextmanager
def running(dsn: str, folder: Path) -> Iterator[Old]:
    with ExitStack() as stack:
        started = 0

        def start(tree: Path) -> Process:
            nonlocal started
            started += 1
            log = folder / f"worker-{started}.log"
            process = Process(log, "pgsched", "worker", **environment(tree, dsn))
            stack.callback(process.kill)
            return process

        yield Old(dsn, start)


def schedule(dsn: str, receiver: Receiver) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SCHEDULE.replace("%(url)s", f"'{receiver.url}'").encode())


def finished(dsn: str) -> dict[str, Any]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        query = "select status, count(*) from pgsched.tasks group by status"
        return dict(connection.execute(query).fetchall())


def test_workers_of_the_version_before_go_on_with_the_schema_of_this_one(
    empty: Empty, tmp_path: Path, trees: Trees, receiver: Receiver
) -> None:
    receiver.code = 200
    with running(empty("previous"), tmp_path) as old:
        done = old.migrate(trees.before)
        assert done.returncode == 0, done.stderr
        worker = old.worker(trees.before)
        schedule(old.dsn, receiver)
        eventually(lambda: finished(old.dsn).get("SUCCESS", 0) > 10)

        done = old.migrate(trees.after)

        assert done.returncode == 0, done.stderr
        schedule(old.dsn, receiver)  # the schedule is the same one
        beside = old.worker(trees.after)
        eventually(lambda: finished(old.dsn) == {"SUCCESS": 2 * EXPECTED - 2})
        assert worker.process.poll() is None
        assert beside.process.poll() is None

        worker.kill()
        beside.kill()
        again = old.worker(trees.before)
        with psycopg.connect(old.dsn, autocommit=True) as connection:
            connection.execute("select pgsched.schedule_immediate('job')")
        eventually(lambda: finished(old.dsn) == {"SUCCESS": 2 * EXPECTED - 1})
        assert again.process.poll() is None


def test_a_change_that_breaks_workers_and_does_not_say_so_is_seen(
    empty: Empty, tmp_path: Path, receiver: Receiver
) -> None:
    before = copy_of_this_tree(tmp_path / "before")
    after = copy_of_this_tree(tmp_path / "after", LATER.format(more=BREAKING))
    with running(empty("broken"), tmp_path) as old:
        assert old.migrate(before).returncode == 0
        worker = old.worker(before)
        assert old.migrate(after).returncode == 0

        schedule(old.dsn, receiver)

        worker.says("(claim_due_tasks.* does not exist)")
        assert "SUCCESS" not in finished(old.dsn)


def test_the_newest_release_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"--points-at": b"v1.2.0\n", "--list": b"v1.2.0\nv1.1.1\nv1.1.0\n"}
    monkeypatch.setattr(f"{__name__}.git", lambda *words: said[words[1]])

    assert latest_release() == "v1.1.1"


def test_the_next_file_has_the_next_number() -> None:
    assert [m.version for m in migrator.migrations()] == list(range(1, NEXT))
    assert len(FILES) == NEXT - 1
