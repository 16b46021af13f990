"""The programs that come with Postgres, as a DBA runs them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from pgsched.devbin import candidates, find_bindir


def client(program: str) -> Path:
    """The one beside the server, or where that has none the newest there is."""
    found = [folder / program for folder in (find_bindir(), *candidates())]
    return next(path for path in found if path.exists())


def run_program(program: str, dsn: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of the programs of Postgres against a database."""
    given = conninfo_to_dict(dsn)
    environment = {f"PG{key.upper()}": str(value) for key, value in given.items()}
    environment = {k.replace("DBNAME", "DATABASE"): v for k, v in environment.items()}
    return subprocess.run(
        [client(program), *arguments],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
