"""The HTTP API: the app, its errors, and the process that serves it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg

from pgsched import pooler
from pgsched.arguments import explain
from pgsched.errors import ConfigError, PgschedError, Unavailable
from pgsched.settings import Settings, secrets_of

try:
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
except ImportError as exc:
    raise ConfigError("the API needs the extra `server`: pip install 'pgsched[server]'") from exc

from pgsched.api import cron_routes, operating_routes, reports, routes, schedule_routes
from pgsched.api.document import DescribedApp
from pgsched.api.guard import (
    STATUS,
    Guard,
    JsonResponse,
    key_of,
    problem,
    require_key_unless_loopback,
)
from pgsched.api.metrics import Measure, route_of
from pgsched.api.protocol import BoundedProtocol
from pgsched.api.services import Services, wired

log = logging.getLogger(__name__)

# Longer than clients keep an idle connection, so that it is never cut under a request.
KEEP_ALIVE = 75
# What Postgres says where the schema, or a part of it, is missing.
NO_SCHEMA = frozenset({"3F000", "42P01", "42883"})
# FastAPI (since 0.165) makes a server span of each request; more of it than that says little.
TELEMETRY: Any = {
    "operation_spans": False,
    "metrics": False,
    "logs": False,
    "exclude": lambda scope: not scope["path"].startswith("/api/"),
}
# Seconds after which it is tried again to see how the database is reached.
LOOK_AGAIN = 5.0
CODES = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 408: "TOO_SLOW", 413: "TOO_LARGE"}


def create_app(settings: Settings) -> FastAPI:
    """The ASGI app; its lifespan holds the pool of connections."""
    services = Services(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await services.database.open()
        try:
            yield
        finally:
            await services.database.close()

    app = DescribedApp(
        title="pgsched",
        summary="A durable task scheduler in your own Postgres.",
        lifespan=lifespan,
        redoc_url=None,
        telemetry=TELEMETRY,
    )
    app.state.services = services
    app.has_key = key_of(settings) is not None
    for part in (reports, routes, operating_routes, schedule_routes, cron_routes):
        app.include_router(part.router)
    app.include_router(routes.health)
    app.include_router(routes.metrics)
    app.add_middleware(Guard, key=key_of(settings), secrets=secrets_of(settings.callback_secret))
    app.add_middleware(Measure, metrics=services.metrics)
    app.add_exception_handler(PgschedError, _on_refusal)
    app.add_exception_handler(RequestValidationError, _on_malformed)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(psycopg.ProgrammingError, _on_database_error)
    return app


async def _on_refusal(request: Request, exc: Exception) -> JsonResponse:
    if isinstance(exc, Unavailable):
        wired(request).trouble.tell(exc)
        return problem(503, "UNAVAILABLE", str(exc), {"Retry-After": "1"})
    code = exc.code if isinstance(exc, PgschedError) else None
    if code is None:
        raise exc
    return problem(STATUS[code], code, str(exc))


async def _on_malformed(request: Request, exc: Exception) -> JsonResponse:
    assert isinstance(exc, RequestValidationError)  # noqa: S101
    errors = exc.errors()
    if any(error["type"] == "json_invalid" for error in errors):
        return problem(422, "PS422", "body: is not JSON")
    if any(error["loc"] == ("body",) for error in errors):
        return problem(
            422, "PS422", "body: must be a JSON object, sent as Content-Type: application/json"
        )
    # The first part of the path is body, query, path or header.
    return problem(422, "PS422", explain(errors, skip=1))


async def _on_http_error(request: Request, exc: Exception) -> JsonResponse:
    assert isinstance(exc, HTTPException)  # noqa: S101
    if exc.status_code == 400:  # a body that could not even be decoded
        return problem(422, "PS422", "body: is not JSON in UTF-8")
    headers = dict(exc.headers or {})
    if exc.status_code == 405:  # the routes of a path do not know of one another
        headers["Allow"] = ", ".join(request.app.methods_of(route_of(request.scope)))
    return problem(exc.status_code, CODES.get(exc.status_code, "ERROR"), exc.detail, headers)


async def _on_database_error(_: Request, exc: Exception) -> JsonResponse:
    assert isinstance(exc, psycopg.Error)  # noqa: S101
    if exc.sqlstate not in NO_SCHEMA:
        raise exc
    log.error("schema is not what this version needs", extra={"error": exc})
    return problem(503, "UNAVAILABLE", "the schema is not current: see /health/ready")


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # uvicorn would die of the signal once all is done; we exit 0


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """
    Serve until *stop* is set, then let the requests under way end.

    Raises:
        ConfigError: The address cannot be had, or wants a key; or sessions of the database
            are not our own, and `poll_only` does not say so.
    """
    require_key_unless_loopback(settings)
    listener = _listen(settings.api_host, settings.api_port)
    config = uvicorn.Config(
        create_app(settings),
        http=BoundedProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace_seconds)),
    )
    server = _Server(config)

    async def stop_server() -> None:
        await stop.wait()
        server.should_exit = True

    stopping = asyncio.create_task(stop_server())
    looking = asyncio.create_task(_look_for_pooler(settings, stop))
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    log.info("API listening", extra={"url": url})
    try:
        await server.serve(sockets=[listener])
    finally:
        stopping.cancel()
        looking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await looking
    log.info("API stopped")


async def _look_for_pooler(settings: Settings, stop: asyncio.Event) -> None:
    """Beside the server, which starts without a database as well."""
    is_seen = settings.poll_only
    while not is_seen:
        try:
            await pooler.refuse(settings.database_url)
            is_seen = True
        except psycopg.Error:
            await asyncio.sleep(LOOK_AGAIN)
        except ConfigError:
            stop.set()
            raise


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as exc:
        raise ConfigError(
            f"PGSCHED_API_HOST and PGSCHED_API_PORT: cannot listen on {host} port {port}: {exc}"
        ) from exc


async def _serve_until_signalled(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, stop)


def main(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve_until_signalled(settings))
    else:
        uvloop.run(_serve_until_signalled(settings))
