"""
Everything on one machine, for who tries pgsched or works on an application.

An embedded Postgres, a worker, the API and an executor that says yes to all:
one process tree, that ends as a whole.
"""

from __future__ import annotations

import asyncio
import signal
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from secrets import token_bytes
from urllib.parse import urlsplit

import httpx

from pgsched.configuration import load_settings
from pgsched.dev.database import make_database
from pgsched.dev.tree import Tree
from pgsched.devdb import DevServer, state_dir
from pgsched.errors import PgschedError
from pgsched.ports import free_port
from pgsched.settings import Settings

DATABASE = "pgsched"
# For Postgres to start, and the API to answer, on a slow machine.
PATIENCE = 60.0

Say = Callable[[str, str], None]


async def run(data: Path | None, say: Say) -> None:
    """
    Run it all until Ctrl-C, and pass on what the processes log, line by line.

    *data* is the directory of the server; by default it is the one of `make db`.

    Raises:
        ConfigError: There is no Postgres to be had, or a setting is wrong.
        PgschedError: A process ended by itself, or never got ready.
    """
    root = data or state_dir() / "dev"
    async with Tree.growing(say) as tree:
        stopped = asyncio.create_task(_stop_signal(), name="stop")
        work = asyncio.create_task(_work(tree, root, say))
        ended = asyncio.create_task(tree.first_to_end())
        try:
            await asyncio.wait((stopped, work, ended), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                await asyncio.wait((stopped, ended), return_when=asyncio.FIRST_COMPLETED)
            if ended.done() and not stopped.done():
                child = ended.result()
                raise PgschedError(f"{child.name} ended by itself, with exit code {child.code}")
        finally:
            for task in (stopped, work, ended):
                task.cancel()
            say("dev", "stopping")


async def _stop_signal() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


async def _work(tree: Tree, root: Path, say: Say) -> None:
    server = DevServer(root)
    say("dev", f"starting Postgres in {server.root}")
    await tree.start("postgres", "pgsched.devdb", str(server.root), ends_last=True)
    async with asyncio.timeout(PATIENCE):
        while not server.ready():  # noqa: ASYNC110 (a file tells)
            await asyncio.sleep(0.05)
    dsn = await asyncio.to_thread(make_database, server, DATABASE)
    settings = load_settings(database_url=dsn)
    environment = _environment(settings, dsn)
    if settings.external_system_url is None:
        port = str(urlsplit(environment["PGSCHED_EXTERNAL_SYSTEM_URL"]).port)
        command = ("pgsched.demo.executor", "--port", port)
        await tree.start("executor", *command, environment=environment)
    await tree.start("api", "pgsched", "serve", environment=environment)
    await tree.start("worker", "pgsched", "worker", environment=environment)
    api, metrics = _urls(environment)
    await asyncio.gather(
        _until_ready(f"{api}/health/ready"), _until_ready(f"{metrics}/health/live")
    )
    for line in _welcome(dsn, environment):
        say("dev", line)


def _environment(settings: Settings, dsn: str) -> dict[str, str]:
    """What the processes are told beyond what the user has set."""
    port = settings.api_port or free_port()
    told = {
        "PGSCHED_DATABASE_URL": dsn,
        "PGSCHED_API_PORT": str(port),
        "PGSCHED_METRICS_PORT": str(settings.metrics_port or free_port()),
        "PGSCHED_EXTERNAL_SYSTEM_URL": settings.external_system_url
        or f"http://127.0.0.1:{free_port()}",
        "PGSCHED_PUBLIC_URL": settings.public_url or f"http://127.0.0.1:{port}",
    }
    if settings.callback_secret is None:
        told["PGSCHED_CALLBACK_SECRET"] = f"whsec_{b64encode(token_bytes(32)).decode()}"
    return told


def _urls(environment: dict[str, str]) -> tuple[str, str]:
    ports = (environment["PGSCHED_API_PORT"], environment["PGSCHED_METRICS_PORT"])
    api, metrics = (f"http://127.0.0.1:{port}" for port in ports)
    return api, metrics


async def _until_ready(url: str) -> None:
    async with asyncio.timeout(PATIENCE), httpx.AsyncClient(trust_env=False) as client:
        while True:
            with suppress(httpx.TransportError):
                if (await client.get(url)).is_success:
                    return
            await asyncio.sleep(0.1)


def _welcome(dsn: str, environment: dict[str, str]) -> list[str]:
    api, metrics = _urls(environment)
    return [
        "all is up; Ctrl-C ends it",
        f"database  export PGSCHED_DATABASE_URL='{dsn}'",
        f"API       {api}/docs",
        f"metrics   {metrics}/metrics",
        f"tasks go to {environment['PGSCHED_EXTERNAL_SYSTEM_URL']}",
        "try       pgsched definitions set hello && pgsched submit hello --wait",
        "watch     pgsched top",
    ]
