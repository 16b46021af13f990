"""A PgBouncer in transaction mode before a server of the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgsched.devbin import Programs, find_bindir
from tests.roles import OWNER, ROLES, login_of
from tests.waiting import eventually

MISSING = "there is no pgbouncer here: apt install pgbouncer"
PORT = 6432
SETTINGS = """
    [databases]
    * = host={host} port={port}

    [pgbouncer]
    unix_socket_dir = {folder}
    listen_port = {listen}
    auth_type = trust
    auth_file = {folder}/users
    auth_user = postgres
    auth_query = select usename, passwd from pg_shadow where usename = $1
    pool_mode = {mode}
    max_client_conn = 1000
    default_pool_size = {size}
    server_idle_timeout = 10
    so_reuseport = 0
    {more}
"""


def find_pgbouncer() -> str | None:
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class PgBouncer:
    """One that runs, and where its sockets are."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    def dsn(self, direct: str) -> str:
        """The same database, through here."""
        return make_conninfo(direct, host=str(self._folder), port=PORT)


@contextmanager
def pgbouncer(
    direct: str, *, mode: str = "transaction", size: int = 20, more: str = ""
) -> Iterator[PgBouncer]:
    """
    One before the server that *direct* leads to.

    *more* are lines of its section; without any, it is as Debian brings it.
    """
    program = find_pgbouncer()
    assert program, MISSING
    account = Programs(find_bindir()).account  # it, too, refuses to run as root
    given = conninfo_to_dict(direct)
    folder = Path(tempfile.mkdtemp(prefix="pgsched-bouncer-"))
    settings = folder / "pgbouncer.ini"
    words = {"host": given["host"], "port": given["port"], "mode": mode, "size": size, "more": more}
    text = SETTINGS.format(folder=folder, listen=PORT, **words)
    settings.write_text("\n".join(line.strip() for line in text.splitlines()))
    names = ["postgres", OWNER, *map(login_of, ROLES)]
    (folder / "users").write_text("".join(f'"{name}" ""\n' for name in names))
    if account:
        for path in (folder, *folder.iterdir()):
            os.chown(path, account.pw_uid, account.pw_gid)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, str(settings)],
            stdout=log,
            stderr=log,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )
    try:
        bouncer = PgBouncer(folder)
        eventually(lambda: "process up" in bouncer.log or process.poll() is not None)
        assert process.poll() is None, bouncer.log
        yield bouncer
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)
