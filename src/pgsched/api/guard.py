"""What stands before every request: the key, the size of the body, and the last resort."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import re
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pgsched.errors import ConfigError
from pgsched.settings import Settings
from pgsched.signing import attempt_of

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/health/live", "/health/ready"})
LIST_PATHS = frozenset({"/api/tasks/status", "/api/tasks/bulk"})
# What a callback token opens, and where in the scope stands the attempt it is good for.
CALLBACK_PATH = re.compile(r"/api/tasks/([0-9a-fA-F-]{36})/status")
GRANTED = "pgsched.attempt"
# The HTTP status of each code.
STATUS = {"42501": 403, "PS404": 404, "PS409": 409, "PS422": 422}
MAX_BODY = 2**20
MAX_LIST = 8 * 2**20
# In seconds.
BODY_WAIT = 60.0


class JsonResponse(Response):
    """JSON by orjson, which also copies what was never parsed."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


def problem(
    status: int, code: str, message: str, headers: dict[str, str] | None = None
) -> JsonResponse:
    """The one shape of all errors."""
    return JsonResponse({"code": code, "message": message}, status, headers)


def require_key_unless_loopback(settings: Settings) -> None:
    """
    Refuse to serve the world without a key.

    Raises:
        ConfigError: The address is not loopback, and there is no key.
    """
    if key_of(settings) is None and not _is_loopback(settings.api_host):
        raise ConfigError(
            f"PGSCHED_API_KEY is missing: without it the API listens on loopback only,"
            f" and PGSCHED_API_HOST is {settings.api_host!r}"
        )


def key_of(settings: Settings) -> bytes | None:
    """The bearer key; one that is empty is none."""
    key = settings.api_key.get_secret_value() if settings.api_key else ""
    return key.encode() or None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may come to mean anything
        return False


class _Body:
    """Counts what comes in: no body without a length grows past the limit, or takes for ever."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._size = 0
        self._deadline: float | None = asyncio.get_running_loop().time() + BODY_WAIT

    async def __call__(self) -> Message:
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, f"the body took longer than {BODY_WAIT:g} s") from None
        if not message.get("more_body"):  # what comes next is that the caller hangs up
            self._deadline = None
        self._size += len(message.get("body", b""))
        if self._size > self._limit:
            raise HTTPException(413, _too_large(self._limit))
        return message


def _too_large(limit: int) -> str:
    return f"the body is larger than the {limit} bytes allowed"


class Guard:
    """ASGI middleware around the whole API."""

    def __init__(self, app: ASGIApp, key: bytes | None, secrets: tuple[bytes, ...]) -> None:
        self._app = app
        self._key = key
        self._secrets = secrets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        limit = MAX_LIST if scope["path"] in LIST_PATHS else MAX_BODY
        if refusal := self._refusal(scope, headers, limit):
            await refusal(scope, receive, send)
            return
        await self._last_resort(scope, _Body(receive, limit), send)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes], limit: int) -> Response | None:
        is_open = scope["path"] in OPEN_PATHS
        if not is_open and not self._is_authorized(scope, headers.get(b"authorization", b"")):
            return problem(
                401,
                "UNAUTHORIZED",
                "send the key of PGSCHED_API_KEY as Authorization: Bearer <key>",
                {"WWW-Authenticate": "Bearer"},
            )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            return problem(413, "TOO_LARGE", _too_large(limit))
        return None

    def _is_authorized(self, scope: Scope, given: bytes) -> bool:
        if self._key is None:
            return True
        scheme, _, key = given.partition(b" ")
        if scheme.lower() != b"bearer":
            return False
        return hmac.compare_digest(key.strip(), self._key) or self._is_callback(scope, key.strip())

    def _is_callback(self, scope: Scope, token: bytes) -> bool:
        path = CALLBACK_PATH.fullmatch(scope["path"])
        if scope["method"] != "POST" or path is None or not token.isascii():
            return False
        scope[GRANTED] = attempt_of(token.decode(), self._secrets, path[1].lower())
        return scope[GRANTED] is not None

    async def _last_resort(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What nobody foresaw is logged, and told without details."""
        has_started = False

        async def watched(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            log.exception(
                "request failed", extra={"method": scope["method"], "path": scope["path"]}
            )
            if has_started:
                raise
            failure = problem(500, "INTERNAL", "this is a fault of pgsched; its log tells more")
            await failure(scope, receive, send)
