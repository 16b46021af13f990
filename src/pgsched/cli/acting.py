"""Acts on tasks: on each of some ids, or on all that have something in common."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from pgsched import diagnosis, reading
from pgsched.cli import printing
from pgsched.cli.printing import line
from pgsched.cli.running import confirm, run
from pgsched.db import Connection
from pgsched.doctor import plural
from pgsched.errors import Conflict, NotFound, PgschedError
from pgsched.queues import BulkResult

# Tasks in one transaction.
CHUNK = 1000
# What a preview counts up to.
MOST = 100_000


class Act(NamedTuple):
    """What is done to many tasks, or to one; *done* is the word for it afterwards."""

    verb: str
    done: str
    many: Callable[..., Coroutine[Any, Any, BulkResult]]
    one: Callable[..., Coroutine[Any, Any, str]]
    statuses: type[StrEnum]


class How(NamedTuple):
    """How the command was called."""

    limit: int
    is_dry: bool
    is_sure: bool
    as_json: bool
    database_url: str | None


def act_on(
    act: Act, ids: list[UUID], filters: dict[str, Any], more: dict[str, Any], how: How
) -> None:
    """Do it, after a question if it is about many, and say what came of it."""
    given = {name: value for name, value in filters.items() if value is not None}
    if bool(ids) == bool(given):
        raise typer.BadParameter(
            "give ids of tasks, or flags that say what they have in common, and not both"
        )
    if ids:
        _tell(act, _to_each(act, ids, more, how), how)
        return
    matched = run(
        how.database_url, lambda session: act.many(session, is_preview=True, **given)
    ).matched
    if how.is_dry or matched == 0:
        _tell(act, BulkResult(matched, 0, 0), how)
        return
    if not how.is_sure:
        confirm(f"{act.verb} {_most(matched, how.limit)}?")
    _tell(act, _to_all(act, given, more, min(matched, how.limit), how), how)


def _most(matched: int, limit: int) -> str:
    of = f"{matched:,} or more" if matched >= MOST else f"{matched:,}"
    return f"{limit:,} of {of} tasks" if limit < matched else plural(matched, "task")


def _tell(act: Act, result: BulkResult, how: How) -> None:
    if how.as_json:
        printing.print_json(result._asdict())
    elif how.is_dry:
        more = " or more" if result.matched >= MOST else ""
        line(f"{plural(result.matched, 'task')}{more} to {act.verb}; nothing was done")
    elif result.matched == 0:
        line(f"no task to {act.verb}")
    else:
        left = (
            f"; {result.refused:,} left out: not possible, or locked by another session"
            if result.refused
            else ""
        )
        line(f"{act.done} {plural(result.done, 'task')}{left}")


# Many, by what they have in common


def _to_all(
    act: Act, given: dict[str, Any], more: dict[str, Any], most: int, how: How
) -> BulkResult:
    """In transactions of up to 1,000; what comes to match meanwhile is left alone."""

    async def work(session: Connection) -> BulkResult:
        now = await diagnosis.clock(session)
        filters = {**given, "before": min(now, given.get("before") or now)}
        done = 0
        with _progress(act.verb, most) as tell:
            while True:
                chunk = min(CHUNK, most - done)
                result = await act.many(session, limit=chunk, **filters, **more)
                done += result.done
                tell(done)
                if result.done < chunk or done >= most:
                    # Each call begins at the first again, and meets all that is refused.
                    return BulkResult(done + result.refused, done, result.refused)

    return run(how.database_url, work, autocommit=True)


def _progress(verb: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        return nullcontext(lambda _: None)
    return _Bar(console, verb, total)


class _Bar(AbstractContextManager[Callable[[int], None]]):
    """A bar on stderr, gone when it is done."""

    def __init__(self, console: Console, verb: str, total: int) -> None:
        columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._bar = self._progress.add_task("", total=total)

    def __enter__(self) -> Callable[[int], None]:
        self._progress.start()
        return lambda done: self._progress.update(self._bar, completed=done)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


# A few, by their ids


def _to_each(act: Act, ids: list[UUID], more: dict[str, Any], how: How) -> BulkResult:
    """Each by itself; what is refused is said on stderr, and ends in exit code 1."""

    async def work(session: Connection) -> tuple[int, list[str]]:
        done, refusals = 0, []
        for task_id in dict.fromkeys(ids):
            try:
                async with session.transaction():
                    await _to_one(act, session, task_id, more, how.is_dry)
                done += 1
            except (Conflict, NotFound) as exc:
                refusals.append(str(exc))
        return done, refusals

    done, refusals = run(how.database_url, work, autocommit=True)
    if refusals and not how.as_json:
        if done:
            line(f"{act.done if not how.is_dry else f'would {act.verb}'} {plural(done, 'task')}")
        raise PgschedError("\npgsched: ".join(refusals))
    result = BulkResult(done + len(refusals), 0 if how.is_dry else done, len(refusals))
    if refusals:
        printing.print_json(result._asdict())
        raise PgschedError("\npgsched: ".join(refusals))
    return result


async def _to_one(
    act: Act, session: Connection, task_id: UUID, more: dict[str, Any], is_dry: bool
) -> None:
    if not is_dry:
        await act.one(session, task_id, **more)
        return
    task = await reading.get_task(session, str(task_id))
    if task.status not in list(act.statuses):
        raise Conflict(f"task {task_id} is {task.status}, and cannot be {act.done}")
