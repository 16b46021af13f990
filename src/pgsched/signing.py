"""
Signatures of what we send, and of what comes back to a `callback_url`.

Pushes are signed as Standard Webhooks say (https://www.standardwebhooks.com):
HMAC-SHA256 over id, time and body, once for each secret.  With the old and the
new secret side by side, receivers can be led from one to the other without a
gap.

A callback token lets its bearer report on one attempt of one task, and
nothing else: an executor needs no API key.  It holds as long as the secret.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from hashlib import sha256

PREFIX = "whsec_"
# As the specification has it.
MIN_BYTES, MAX_BYTES = 24, 64
HOW_TO = f"use {PREFIX} and the base64 of {MIN_BYTES} to {MAX_BYTES} random bytes"
# As the public libraries of Standard Webhooks have it.
TOLERANCE = timedelta(minutes=5)


class BadSignature(ValueError):
    """A message that is not to be trusted; the text says why, and no secret."""


def read_secrets(text: str) -> tuple[bytes, ...]:
    """
    The secrets of a text that holds them separated by spaces, the newest first.

    Raises:
        ValueError: There is none, or one is no secret; it is not quoted.
    """
    secrets = tuple(_secret(word, n) for n, word in enumerate(text.split(), 1))
    if not secrets:
        raise ValueError(f"holds no secret: {HOW_TO}")
    return secrets


def _secret(word: str, n: int) -> bytes:
    try:
        bare = word.removeprefix(PREFIX).rstrip("=")
        secret = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except binascii.Error:
        secret = b""
    if not MIN_BYTES <= len(secret) <= MAX_BYTES:
        raise ValueError(f"secret {n} of it cannot be used: {HOW_TO}")
    return secret


def webhook_headers(
    secrets: Sequence[bytes], message_id: str, timestamp: int, body: bytes
) -> list[tuple[bytes, bytes]]:
    """
    The three headers of Standard Webhooks.

    Args:
        timestamp: Of this attempt to deliver, in seconds since 1970.
    """
    name, at = message_id.encode(), b"%d" % timestamp
    return [
        (b"webhook-id", name),
        (b"webhook-timestamp", at),
        (b"webhook-signature", b" ".join(_signatures(secrets, name, at, body))),
    ]


def verify(
    secrets: str | Sequence[bytes],
    headers: Mapping[str, str],
    body: bytes,
    *,
    tolerance: timedelta = TOLERANCE,
) -> None:
    """
    Return if *body* came from one who has one of the secrets, and not long ago.

    For executors, and for all that speak Standard Webhooks
    (https://github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md):
    signatures of other versions than v1 are passed over, and one that fits is enough.

    Args:
        secrets: As `read_secrets()` takes or returns them.
        headers: Of the request; their names in any case.
        body: Exactly the bytes that came, before anyone has parsed them.
        tolerance: How far the time of the message may be from ours, either way.

    Raises:
        BadSignature: It did not; the text says what is wrong with it.
        ValueError: The secrets are none.
    """
    if isinstance(secrets, str):
        secrets = read_secrets(secrets)
    name, at, signature = _read_headers(headers, tolerance)
    given, fits = [_bytes(word) for word in signature.split()], False
    for right in _signatures(secrets, _bytes(name), at.encode(), body):
        for one in given:  # all of them: the time it takes tells nothing
            fits |= hmac.compare_digest(one, right)
    if not fits:
        raise BadSignature("webhook-signature fits none of the secrets")


def callback_token(secret: bytes, task_id: str, attempt: int) -> str:
    """What lets its bearer report on that attempt of that task."""
    mac = _mac(secret, f"callback.{task_id}.{attempt}".encode())
    return f"{attempt}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def attempt_of(token: str, secrets: Sequence[bytes], task_id: str) -> int | None:
    """The attempt of *task_id* that *token* was made for, if it was by one of the secrets."""
    number = token.partition(".")[0]
    if not (number.isascii() and number.isdigit() and len(number) <= 10):
        return None
    attempt, found = int(number), False
    for secret in secrets:  # all of them: the time it takes tells nothing
        right = callback_token(secret, task_id, attempt)
        found |= hmac.compare_digest(token.encode(), right.encode())
    return attempt if found else None


def _read_headers(headers: Mapping[str, str], tolerance: timedelta) -> tuple[str, str, str]:
    """Id, time and signatures of a message that is not too old."""
    found = {name.lower(): value for name, value in headers.items()}
    name, at, signature = (found.get(f"webhook-{n}", "") for n in ("id", "timestamp", "signature"))
    if not (name and at and signature):
        raise BadSignature("webhook-id, webhook-timestamp or webhook-signature is missing")
    if not (at.isascii() and at.isdigit() and len(at) <= 12):
        raise BadSignature("webhook-timestamp is not in seconds since 1970")
    if abs(time.time() - int(at)) > tolerance.total_seconds():
        raise BadSignature(
            "webhook-timestamp is too far from now: an old message, or a wrong clock"
        )
    return name, at, signature


def _signatures(secrets: Sequence[bytes], name: bytes, at: bytes, body: bytes) -> list[bytes]:
    signed = b"%s.%s.%s" % (name, at, body)
    return [b"v1," + base64.b64encode(_mac(secret, signed)) for secret in secrets]


def _bytes(text: str) -> bytes:
    # What no header can hold fits nothing; it need not be an error of its own.
    return text.encode(errors="replace")


def _mac(secret: bytes, message: bytes) -> bytes:
    return hmac.digest(secret, message, sha256)
