"""From a command to the database and back."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg
import typer

from pgsched.configuration import load_settings
from pgsched.db import Connection
from pgsched.errors import MigrationError, NotFound, PgschedError
from pgsched.visit import visit

T = TypeVar("T")

# What a schema that is not ours lacks.
_LACKS = (
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedTable,
)


def run(
    database_url: str | None,
    action: Callable[[Connection], Awaitable[T]],
    *,
    autocommit: bool = False,
) -> T:
    """
    Let *action* work on a connection; unless *autocommit*, in one transaction.

    Raises:
        MigrationError: The schema lacks what is needed.
        PgschedError: The database refused, in one line.
        Exit: 130 after Ctrl-C.
    """
    settings = load_settings(database_url=database_url)

    async def act() -> T:
        async with visit(
            settings.database_url, is_pooled=settings.poll_only, autocommit=autocommit
        ) as connection:
            return await action(connection)

    try:
        return asyncio.run(act())
    except _LACKS as exc:
        what = exc.diag.message_primary
        raise MigrationError(f"the schema lacks something ({what}): run `pgsched migrate`") from exc
    except psycopg.Error as exc:
        raise PgschedError(f"the database says: {exc.diag.message_primary or exc}") from exc
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


async def found(session: Connection, look: Awaitable[T]) -> T | None:
    """What *look* finds, None when it does not exist; the transaction goes on."""
    try:
        async with session.transaction():
            return await look
    except NotFound:
        return None


def confirm(question: str) -> None:
    """
    Ask at a terminal alone: what is in a pipe is no answer to this question.

    Raises:
        PgschedError: Stdin is no terminal, or the answer was not yes.
        Exit: 130 after Ctrl-C.
    """
    if not sys.stdin.isatty():
        raise PgschedError("stdin is no terminal to ask at: nothing was done; --yes does not ask")
    ask(question)


def ask(question: str) -> None:
    """
    Go on after a yes.

    Raises:
        PgschedError: Anything else was answered, or nobody is there to ask.
        Exit: 130 after Ctrl-C.
    """
    typer.echo(f"{question} [y/N] ", nl=False, err=True)
    try:
        answer = typer.get_text_stream("stdin").readline()
    except KeyboardInterrupt:
        typer.echo(err=True)
        raise typer.Exit(130) from None
    if not answer:
        typer.echo(err=True)
        raise PgschedError("nobody is there to say yes: nothing was done; --yes does not ask")
    if answer.strip().lower() not in ("y", "yes"):
        raise PgschedError("not confirmed: nothing was done")
