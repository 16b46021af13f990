"""What the tests of the doctor share: a patient, and its findings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest

from pgsched.db import Connection
from pgsched.doctor import Finding
from pgsched.visit import visit
from tests.roles import as_role

Database = psycopg.Connection[Any]


@pytest.fixture
async def session(dsn: str) -> AsyncIterator[Connection]:
    """The doctor's own, as an operator without further rights."""
    async with visit(as_role(dsn, "operator"), autocommit=True) as connection:
        yield connection


@pytest.fixture
async def seeing(dsn: str) -> AsyncIterator[Connection]:
    """The same of one who sees all sessions."""
    async with visit(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def db(dsn: str) -> Iterator[Database]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("select pgsched.define_task('job')")
        yield connection


@pytest.fixture
def other(dsn: str) -> Iterator[Database]:
    """Somebody else's session, which is in a transaction as soon as it does something."""
    with psycopg.connect(dsn, application_name="report-tool") as connection:
        yield connection


def register_worker(db: Database) -> None:
    db.execute("select pgsched.register_worker('host', 1, 'test')")


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}
