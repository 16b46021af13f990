"""
A Postgres of one's own, for development, the demo and the tests.

All it has lies in one directory to which nobody else has access.  Any number
of processes may use it at once, and each may be killed at any moment: the next
one finds the server running, or starts it again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from psycopg.conninfo import make_conninfo

from pgsched.devbin import Programs, find_bindir, state_dir
from pgsched.errors import ConfigError
from pgsched.ports import free_port

__all__ = ["DevServer", "find_bindir", "main", "state_dir"]

LOCK, USERS = ".pgsched.lock", ".pgsched.users"

# The backends of a killed server take a moment to notice, and until they are
# gone Postgres refuses to start a new one.
PATIENCE = 5.0

# Above what Linux and macOS give out as a process id.
NO_PROCESS = 2**31 - 1

# A socket's path has room for 103 bytes on macOS and 107 on Linux.
LONGEST_SOCKET_DIR = 85


class DevServer:
    """One server, with everything it has below *root*."""

    def __init__(self, root: Path, bindir: Path | None = None, tcp: bool = False) -> None:
        self.root = root.absolute()
        self.tcp = tcp
        self._programs = Programs((bindir or find_bindir()).resolve())

    @cached_property
    def data(self) -> Path:
        """The data directory; no other major version could read it."""
        return self.root / f"data-{self._programs.major_version}"

    @cached_property
    def socket_dir(self) -> Path:
        if len(os.fsencode(self.data)) <= LONGEST_SOCKET_DIR:
            return self.data
        # Not gettempdir(): processes with different TMPDIR have to agree.
        digest = hashlib.sha256(os.fsencode(self.data)).hexdigest()
        return Path("/tmp", f"pgsched-{digest[:12]}")  # noqa: S108

    @property
    def port(self) -> int:
        match self._pid_file():
            case [_, _, _, port, *_]:
                return int(port)
        raise ConfigError(f"no server runs in {self.root}")

    def dsn(self, dbname: str = "postgres") -> str:
        """Where to connect, as a libpq string; for TCP it holds the password."""
        return make_conninfo(
            host="127.0.0.1" if self.tcp else str(self.socket_dir),
            port=self.port,
            user="postgres",
            password=self._password_file.read_text(encoding="ascii") if self.tcp else None,
            dbname=dbname,
        )

    def start(self, **settings: str | int) -> Self:
        """Start the server, or join the one that runs, which keeps its own settings."""
        self._programs.claim(self.root, LOCK)
        with self._locked(LOCK):
            if not self.data.exists():
                self._create_data()
            if self.socket_dir != self.data:
                self._programs.claim(self.socket_dir, LOCK)
            deadline = time.monotonic() + PATIENCE
            while not self.ready():
                if not self.running():
                    self._launch(settings, may_fail=time.monotonic() < deadline)
                time.sleep(0.02)
        if self.tcp and not self._pid_file()[5].strip():
            raise ConfigError(f"the server in {self.root} runs without TCP: stop it first")
        return self

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop the server, if it runs."""
        if not self.running():
            return
        with self._locked(LOCK):
            if self.running():
                self._programs.run("pg_ctl", "stop", "-w", "-m", mode, "-D", str(self.data))

    def running(self) -> bool:
        """Tell whether the server lives; one that was killed does not, reaped or not."""
        lines = self._pid_file()
        return bool(lines) and self._is_server(lines[0])

    @contextmanager
    def shared(self, **settings: str | int) -> Iterator[Self]:
        """Start or join the server; the last one to leave stops it."""
        self._programs.claim(self.root, LOCK)
        with self._locked(USERS, fcntl.LOCK_SH) as users:
            try:
                yield self.start(**settings)
            finally:
                with suppress(BlockingIOError):
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self.stop()

    def remove(self) -> None:
        """Stop the server and delete all it has, unless somebody shares it."""
        if not (self.root / LOCK).exists():
            return
        with (
            suppress(BlockingIOError),
            self._locked(USERS, fcntl.LOCK_EX | fcntl.LOCK_NB),
        ):
            self.stop("immediate")
            shutil.rmtree(self.root)
            shutil.rmtree(self.socket_dir, ignore_errors=True)

    @contextmanager
    def _locked(self, name: str, kind: int = fcntl.LOCK_EX) -> Iterator[int]:
        # The kernel lets go of the lock when the process ends, however it ends.
        file = os.open(self.root / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(file, kind)
            yield file
        finally:
            os.close(file)

    def _create_data(self) -> None:
        """Run initdb, under another name: what it did not finish is never started."""
        for unfinished in self.root.glob(f"{self.data.name}.*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        draft = self.root / f"{self.data.name}.{secrets.token_hex(4)}"
        if not self._password_file.exists():
            self._password_file.write_text(secrets.token_urlsafe(24), encoding="ascii")
            self._password_file.chmod(0o644)  # the account reads it; the directory is closed
        self._programs.run(
            *("initdb", "-D", str(draft), "-U", "postgres", "-E", "UTF8", "--no-locale", "-N"),
            *("--auth-local=trust", "--auth-host=scram-sha-256"),
            f"--pwfile={self._password_file}",
        )
        draft.rename(self.data)

    @property
    def _password_file(self) -> Path:
        return self.root / "password"

    def _launch(self, settings: dict[str, str | int], may_fail: bool) -> None:
        self._release_stale_locks()
        options = {
            "listen_addresses": "127.0.0.1" if self.tcp else "",
            "port": free_port() if self.tcp else 5432,
            "unix_socket_directories": self.socket_dir,
            "timezone": "UTC",
            "log_timezone": "UTC",
            **settings,
        }
        words = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in options.items())
        log = self.root / "server.log"
        try:
            self._programs.run(
                *("pg_ctl", "start", "-w", "-D", str(self.data), "-l", str(log), "-o", words)
            )
        except ConfigError as exc:
            if not may_fail:
                raise ConfigError(f"{exc}\n{log.read_text(errors='replace')[-1000:]}") from exc

    def _release_stale_locks(self) -> None:
        """
        Name an impossible process where a lock file names a dead server.

        Postgres takes a killed server for a living one until it is reaped, and
        when its number has gone to another process.  The files must stay: one
        leads to the shared memory that old backends may still be using.
        """
        for path in (self.data / "postmaster.pid", *self.socket_dir.glob(".s.PGSQL.*.lock")):
            with (
                suppress(FileNotFoundError),
                os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW), "r+") as lock,
            ):
                pid, _, rest = lock.read().partition("\n")
                if not self._is_server(pid):
                    lock.seek(0)
                    lock.truncate()
                    lock.write(f"{NO_PROCESS}\n{rest}")

    def ready(self) -> bool:
        """Tell whether the server lives, and takes connections."""
        return self.running() and [line.strip() for line in self._pid_file()[7:8]] == ["ready"]

    def _pid_file(self) -> list[str]:
        with suppress(OSError):
            return (self.data / "postmaster.pid").read_text().splitlines()
        return []

    def _is_server(self, pid: str) -> bool:
        """Tell whether that process lives, and serves this directory."""
        with suppress(OSError, ValueError):
            if sys.platform != "linux":
                os.kill(int(pid), 0)
                return True
            words = Path("/proc", pid, "cmdline").read_bytes().split(b"\0")
            return os.fsencode(self.data) in words
        return False


def main() -> None:
    """Run a server until Ctrl-C, and print where it is; the argument is its directory."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else state_dir() / "dev"
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    for number in signals:  # also while it starts: it must not be left behind
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt), DevServer(root).shared() as server:
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        sys.stdout.write(f"{server.dsn()}\n")
        sys.stdout.flush()
        signal.sigwait(signals)


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(f"pgsched: {error}")
