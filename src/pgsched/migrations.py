"""The files of `sql/` that this version brings, one by one or as a bundle for psql."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pgsched.build import version
from pgsched.errors import Invalid, MigrationError


class Migration(NamedTuple):
    """One file of `sql/`."""

    version: int
    name: str
    path: Path

    def __str__(self) -> str:
        return f"{self.version:03d} {self.name}"

    @property
    def sql(self) -> bytes:
        return self.path.read_bytes()

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql).hexdigest()


@cache
def folder() -> Path:
    """
    Where they are: beside the package when installed, else in the checkout.

    Raises:
        MigrationError: Nowhere.
    """
    here = Path(__file__).resolve().parent
    for place in (here / "sql", here.parents[1] / "sql"):
        if any(place.glob("[0-9][0-9][0-9]_*.sql")):
            return place
    raise MigrationError("the SQL files of pgsched are missing from this installation")


def migrations() -> list[Migration]:
    """
    All of them, in order.

    Raises:
        MigrationError: They are missing from this installation.
    """
    found = sorted(folder().glob("[0-9][0-9][0-9]_*.sql"))
    return [Migration(int(path.name[:3]), path.stem[4:], path) for path in found]


def bundle(first: int = 1) -> bytes:
    """
    One file for psql: those from number *first* on, each as it stands.

    Raises:
        Invalid: There is no such number.
    """
    files = migrations()
    if not 1 <= first <= len(files):
        raise Invalid(f"--from must be the number of a migration, 1 to {len(files)}, not {first}")
    return b"".join(_parts(files[first - 1 :]))


def _parts(files: list[Migration]) -> Iterator[bytes]:
    yield _HEADER.format(version=version(), first=files[0], last=files[-1]).encode()
    for file in files:
        yield f"\n-- {file.path.name}, sha256 {file.checksum}\n\n".encode()
        yield file.sql


_HEADER = """\
-- pgsched {version}: migrations {first} to {last}
--
-- Run it by psql, as the owner of the schema:
--
--   psql -X -v ON_ERROR_STOP=1 -f FILE
--
-- Each file below is a transaction of its own, which stops when it is applied
-- already, or when the one before it is not.  After an error: mend the cause,
-- look which one is the last in pgsched.schema_migrations, and print a new
-- bundle with `pgsched migrate --print --from` the next.

\\set ON_ERROR_STOP on
"""
