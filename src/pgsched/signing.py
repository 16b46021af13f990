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
from collections.abc import Mapping, Sequence
from hashlib import sha256
from time import time

PREFIX = "whsec_"
# As the specification has it.
MIN_BYTES, MAX_BYTES = 24, 64
# How far the clocks of sender and receiver may differ, in seconds.
TOLERANCE = 300
HOW_TO = f"use {PREFIX} and the base64 of {MIN_BYTES} to {MAX_BYTES} random bytes"


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
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    signatures = (b"v1," + base64.b64encode(_mac(secret, signed)) for secret in secrets)
    return [
        (b"webhook-id", message_id.encode()),
        (b"webhook-timestamp", b"%d" % timestamp),
        (b"webhook-signature", b" ".join(signatures)),
    ]


class SignatureError(ValueError):
    """A message that was not signed as it should be; it says why."""


def verify(
    secrets: Sequence[bytes],
    headers: Mapping[str, str],
    body: bytes,
    *,
    tolerance: float = TOLERANCE,
    now: float | None = None,
) -> None:
    """
    Check a signature as receivers do (Standard Webhooks, "Verifying signatures").

    Args:
        secrets: Any of them may have signed it; see `read_secrets()`.
        headers: Of the request, by their names in lower case.
        body: Of the request, byte for byte.
        tolerance: How old, or how far in the future, it may be, in seconds.
        now: Seconds since 1970; None: the clock of this machine.

    Raises:
        SignatureError: A header is missing, it is too old, or no secret made the signature.
    """
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    if missing := [name for name in names if not headers.get(name)]:
        raise SignatureError(f"the header {missing[0]} is missing")
    message_id, timestamp, signatures = (headers[name] for name in names)
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        raise SignatureError("webhook-timestamp is no number of seconds")
    if abs((time() if now is None else now) - int(timestamp)) > tolerance:
        raise SignatureError(f"webhook-timestamp is more than {tolerance:g} s off")
    signed = b"%s.%s.%s" % (message_id.encode(), timestamp.encode(), body)
    right = [b"v1," + base64.b64encode(_mac(secret, signed)) for secret in secrets]
    found = False
    for given in signatures.split():  # all of them: the time it takes tells nothing
        for one in right:
            found |= hmac.compare_digest(given.encode(), one)
    if not found:
        raise SignatureError("no signature is by one of the secrets")


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


def _mac(secret: bytes, message: bytes) -> bytes:
    return hmac.digest(secret, message, sha256)
