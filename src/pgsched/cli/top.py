"""`pgsched top`: what goes on right now, again and again."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from contextlib import suppress
from datetime import timedelta
from typing import Annotated

import psycopg
import typer
from rich.console import Console
from rich.live import Live

from pgsched.cli import printing
from pgsched.cli.flags import AsJson, DatabaseUrl
from pgsched.cli.frame import SORTS, View, frame
from pgsched.cli.keys import keys
from pgsched.cli.running import run
from pgsched.cli.snapshot import Snapshot, take
from pgsched.cli.values import duration_of
from pgsched.configuration import load_settings
from pgsched.db import Connection
from pgsched.errors import PgschedError
from pgsched.loops import end
from pgsched.settings import Settings
from pgsched.visit import visit

SHORTEST, LONGEST = timedelta(seconds=0.2), timedelta(hours=1)
# Seconds for all questions together; then the connection is taken for dead.
PATIENCE = 10.0
# Seconds between two attempts to connect.
PAUSE = 1.0

Interval = Annotated[
    timedelta,
    typer.Option(parser=duration_of, metavar="DURATION", help="From look to look."),
]
Once = Annotated[bool, typer.Option("--once", help="Print one frame and end.")]


def top(
    interval: Interval = "2s",  # type: ignore[assignment]  # parsed by typer
    once: Once = False,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Watch queues, workers and failures; q quits, p pauses, s sorts."""
    if as_json and not once:
        raise typer.BadParameter("--json is for --once")
    if not SHORTEST <= interval <= LONGEST:
        raise typer.BadParameter("--interval must be from 0.2s to 1h")
    if not once and not sys.stdout.isatty():
        raise typer.BadParameter("stdout is no terminal: --once prints one frame")
    snapshot = run(database_url, take, autocommit=True)
    if as_json:
        printing.print_json(snapshot.document())
    elif once:
        printing.print_rows(frame(snapshot, View()))
    else:
        _watch(load_settings(database_url=database_url), snapshot, interval)


def _watch(settings: Settings, snapshot: Snapshot, interval: timedelta) -> None:
    # Of a connection that breaks we tell ourselves, and not across the screen.
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)
    with suppress(KeyboardInterrupt):
        if (received := asyncio.run(Top(settings, snapshot, interval).run())) == 0:
            return
        raise typer.Exit(128 + received)
    raise typer.Exit(130)


class Top:
    """The screen: asks every *interval*, and draws whenever something has changed."""

    def __init__(self, settings: Settings, snapshot: Snapshot, interval: timedelta) -> None:
        self._settings = settings
        self._snapshot = snapshot
        self._view = View(every=interval)
        self._console = Console(markup=False, emoji=False, highlight=False)
        self._live = Live(console=self._console, screen=True, auto_refresh=False)
        self._is_over = asyncio.Event()
        self._may_look = asyncio.Event()
        self._signal = 0

    async def run(self) -> int:
        """Until q, or a signal, which is returned."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGWINCH, self._draw)
        self._may_look.set()
        with self._live, keys(self._press):
            self._draw()
            looking = asyncio.create_task(self._look_on())
            try:
                await self._is_over.wait()
            finally:
                await end([looking])
        return self._signal

    def _stop(self, number: int = 0) -> None:
        self._signal = number
        self._is_over.set()

    def _press(self, key: str) -> None:
        match key.lower():
            case "q":
                self._stop()
            case "p":
                self._pause()
            case "s":
                names = list(SORTS)
                following = (names.index(self._view.sort) + 1) % len(names)
                self._view = self._view._replace(sort=names[following])
        self._draw()

    def _pause(self) -> None:
        self._view = self._view._replace(is_paused=not self._view.is_paused)
        if self._view.is_paused:
            self._may_look.clear()
        else:
            self._may_look.set()

    def _draw(self) -> None:
        view = self._view._replace(height=self._console.size.height)
        self._live.update(frame(self._snapshot, view), refresh=True)

    async def _look_on(self) -> None:
        """Look again and again; without a database say so, and connect anew."""
        away_since: float | None = None
        while True:
            try:
                async with visit(
                    self._settings.database_url,
                    is_pooled=self._settings.poll_only,
                    autocommit=True,
                ) as session:
                    while True:
                        await self._look(session)
                        away_since = None
            except (PgschedError, psycopg.Error, TimeoutError) as exc:
                away_since = away_since or time.monotonic()
                self._tell(exc, away_since)
            await asyncio.sleep(PAUSE)

    async def _look(self, session: Connection) -> None:
        await self._may_look.wait()
        async with asyncio.timeout(PATIENCE):
            snapshot = await take(session)
        if not self._view.is_paused:  # meanwhile
            self._snapshot = snapshot
            self._view = self._view._replace(trouble="")
            self._draw()
        await asyncio.sleep(self._view.every.total_seconds())

    def _tell(self, exc: Exception, away_since: float) -> None:
        seconds = time.monotonic() - away_since
        reason = " ".join(str(exc).split()) or "it does not answer"
        self._view = self._view._replace(
            trouble=f"no database for {seconds:.0f}s, trying again: {reason}"
        )
        self._draw()
