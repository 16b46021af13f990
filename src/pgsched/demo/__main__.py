"""Schedule all six types, watch them run, kill a worker, and sum up."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from pgsched import migrator
from pgsched.demo.processes import Processes
from pgsched.devdb import DevServer, state_dir
from pgsched.errors import PgschedError
from pgsched.models import ScheduleType
from pgsched.ports import free_port
from pgsched.scheduler import SchedulerService

API_KEY = "demo-key"
# The lease of a killed worker ends after 30 s; the rest takes a few.
PATIENCE = 120.0
STATES = ("PENDING", "SCHEDULED", "DISPATCHED", "RUNNING", "SUCCESS", "FAILED", "CANCELLED")
COUNTS = """
    select schedule_type, status, count(*), sum(retry_count), sum(delivery_count)
    from pgsched.tasks group by 1, 2
"""


def main() -> None:
    console = Console()
    server = DevServer(state_dir() / f"demo-{os.getpid()}")
    try:
        console.print("[dim]starting an embedded Postgres …[/]")
        with server.shared() as running:
            is_well = _run(console, _create_database(running), running.root)
    except KeyboardInterrupt:
        sys.exit("demo: interrupted")
    except PgschedError as exc:
        sys.exit(f"demo: {exc}")
    finally:
        server.remove()
    sys.exit(0 if is_well else 1)


def _create_database(server: DevServer) -> str:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("create database demo")
    migrator.migrate(server.dsn("demo"))
    return server.dsn("demo")


def _run(console: Console, dsn: str, root: Path) -> bool:
    api, executor = free_port(), free_port()
    environment = {
        "PGSCHED_DATABASE_URL": dsn,
        "PGSCHED_EXTERNAL_SYSTEM_URL": f"http://127.0.0.1:{executor}",
        "PGSCHED_EXTERNAL_SYSTEM_API_KEY": API_KEY,
        "PGSCHED_API_KEY": API_KEY,
        "PGSCHED_API_PORT": str(api),
        "PGSCHED_PUBLIC_URL": f"http://127.0.0.1:{api}",
        "PGSCHED_PUSH_SLOTS": "8",  # few, so that there is something to lose
    }
    with Processes.running(root, environment) as processes:
        processes.start("api", "pgsched", "serve")
        processes.start("executor", "pgsched.demo.executor", "--port", str(executor))
        victim = processes.start("worker-1", "pgsched", "worker")
        processes.start("worker-2", "pgsched", "worker")
        _wait_until_ready(f"http://127.0.0.1:{api}/health/ready", processes, root)
        console.print(f"[dim]API at http://127.0.0.1:{api}/docs, an executor, two workers[/]\n")
        asyncio.run(_schedule(dsn))
        with psycopg.connect(dsn, autocommit=True) as connection:
            return _watch(console, connection, processes, victim, root)


def _wait_until_ready(url: str, processes: Processes, root: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if name := processes.died():
            log = (root / f"{name}.log").read_text()[-2000:]
            raise PgschedError(f"{name} did not start:\n{log}")
        try:
            with urllib.request.urlopen(url, timeout=1):  # noqa: S310
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise PgschedError(f"nothing answers at {url}")


async def _schedule(dsn: str) -> None:
    """All six types, in one transaction: either all of them exist, or none."""
    service = SchedulerService()
    async with await psycopg.AsyncConnection.connect(dsn) as session:
        define = service.define_task
        await define(session, "mail", content={"work": 0.3})
        await define(session, "report", content={"answer_after": 1.0, "work": 0.5})
        await define(session, "tick", content={"work": 0.1})
        flaky = {"work": 0.2, "fail_attempts": 1}
        await define(session, "flaky", content=flaky, retry_delay=timedelta(seconds=1))

        for n in range(200):
            await service.schedule_immediate(session, "mail", {"n": n})
        for n in range(40):
            await service.schedule_immediate(session, "report", {"n": n}, priority=-1)
        for n in range(5):
            await service.schedule_immediate(session, "flaky", {"n": n}, priority=5)
        for seconds in (1, 2, 3):
            await service.schedule_delayed(session, "mail", timedelta(seconds=seconds))
        await service.schedule_cron(session, "tick", "*/2 * * * * *")
        await service.schedule_loop(session, "tick", max_rounds=5)
        await service.schedule_loop(
            session, "tick", max_rounds=3, loop_interval=timedelta(seconds=2)
        )
        await service.trigger_loop_once(session, "tick")


def _watch(
    console: Console,
    connection: psycopg.Connection[Any],
    processes: Processes,
    victim: subprocess.Popen[bytes],
    root: Path,
) -> bool:
    note = ""
    started = time.monotonic()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while time.monotonic() < started + PATIENCE:
            elapsed = time.monotonic() - started
            counts = connection.execute(COUNTS).fetchall()
            live.update(_table(counts, elapsed, note), refresh=True)
            if name := processes.died():
                raise PgschedError(f"{name} died:\n{(root / f'{name}.log').read_text()[-2000:]}")
            if not note and elapsed > 1.5:
                note = _kill(connection, victim)
                console.print(note)
            if elapsed > 8:
                connection.execute("update pgsched.schedules set is_active = false")
            if elapsed > 8 and not _unfinished(counts):
                break
            time.sleep(0.25)
    return _sum_up(console, connection, time.monotonic() - started)


def _kill(connection: psycopg.Connection[Any], victim: subprocess.Popen[bytes]) -> str:
    victim.kill()
    victim.wait()
    row = connection.execute(
        "select count(*) from pgsched.scheduled_tasks as t join pgsched.workers as w"
        " on w.id = t.worker_id where t.status = 'SCHEDULED' and w.pid = %s",
        [victim.pid],
    ).fetchone()
    held = row[0] if row else 0
    return (
        f"[bold red]kill -9[/] worker 1, which held {held} tasks. Some had reached the executor, "
        "which reports them itself; worker 2 takes over the others when the lease has ended (30 s)"
    )


def _unfinished(counts: list[Any]) -> int:
    return sum(row[2] for row in counts if row[1] in STATES[:4])


def _table(counts: list[Any], elapsed: float, note: str) -> Table:
    title = f"pgsched.tasks after {elapsed:.0f} s"
    table = Table(title=title, caption=note or None, box=box.SIMPLE, padding=(0, 1, 0, 0))
    cells = {(row[0], row[1]): row[2] for row in counts}
    seen = {row[1] for row in counts}
    states = [state for state in STATES if state != "CANCELLED" or state in seen]
    table.add_column("type", min_width=13)
    for state in states:
        table.add_column(state.lower(), justify="right", min_width=len(state))
    for kind in ScheduleType:
        table.add_row(kind, *(str(cells.get((kind, state), "")) for state in states))
    return table


def _sum_up(console: Console, connection: psycopg.Connection[Any], elapsed: float) -> bool:
    counts = connection.execute(COUNTS).fetchall()
    console.print(_table(counts, elapsed, ""))
    total = sum(row[2] for row in counts)
    succeeded = sum(row[2] for row in counts if row[1] == "SUCCESS")
    retries = sum(row[3] for row in counts)
    pushes = sum(row[4] for row in counts)
    rows = connection.execute("select count(*) from pgsched.task_events where event = 'LOST'")
    lost = (rows.fetchone() or (0,))[0]
    console.print(
        f"{succeeded} of {total} tasks succeeded, with {pushes} deliveries: {retries} retries of "
        f"what failed on purpose, {lost} taken over from the killed worker."
    )
    kinds = {row[0] for row in counts}
    return succeeded == total > 0 and kinds == set(ScheduleType)


main()
