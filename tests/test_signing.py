"""Signatures against the public library of Standard Webhooks, and callback tokens."""

from __future__ import annotations

import base64
import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from pgsched.signing import (
    SignatureError,
    attempt_of,
    callback_token,
    read_secrets,
    verify,
    webhook_headers,
)

TASK = "01980000-0000-7000-8000-000000000001"
OTHER_TASK = "01980000-0000-7000-8000-000000000002"


def secret_of(size: int, seed: int = 0) -> str:
    return "whsec_" + base64.b64encode(random.Random(seed).randbytes(size)).decode()


OLD, NEW, STRANGE = (secret_of(32, seed) for seed in (1, 2, 3))


def signed(given: str, body: bytes, at: datetime | None = None) -> dict[str, str]:
    at = at or datetime.now(UTC)
    found = webhook_headers(read_secrets(given), f"{TASK}:1", int(at.timestamp()), body)
    return {name.decode(): value.decode() for name, value in found}


# Standard Webhooks


@given(st.text(max_size=200))
def test_the_public_library_verifies_what_we_sign(text: str) -> None:
    body = text.encode()

    Webhook(NEW).verify(body, signed(NEW, body), json_parse=False)


def test_the_example_of_the_specification() -> None:
    """https://github.com/standard-webhooks/standard-webhooks, libraries, common test vector."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'

    headers = webhook_headers(
        read_secrets(secret), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body
    )

    signature = b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert dict(headers)[b"webhook-signature"] == signature


def test_while_secrets_are_rotated_receivers_with_either_are_content() -> None:
    body = b'{"task_id": 1}'
    headers = signed(f"{NEW} {OLD}", body)

    for secret in (OLD, NEW):
        Webhook(secret).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(STRANGE).verify(body, headers)


def test_what_was_changed_on_the_way_is_no_match() -> None:
    headers = signed(NEW, b'{"amount": 1}')

    with pytest.raises(WebhookVerificationError, match="No matching"):
        Webhook(NEW).verify(b'{"amount": 9}', headers)
    with pytest.raises(WebhookVerificationError, match="No matching"):
        Webhook(NEW).verify(b'{"amount": 1}', headers | {"webhook-id": f"{TASK}:2"})


def test_an_old_push_cannot_be_played_again() -> None:
    headers = signed(NEW, b"{}", datetime.now(UTC) - timedelta(minutes=6))

    with pytest.raises(WebhookVerificationError, match="too old"):
        Webhook(NEW).verify(b"{}", headers)


# Secrets


@pytest.mark.parametrize("size", [24, 25, 26, 64])
def test_a_secret_may_go_without_prefix_and_padding(size: int) -> None:
    secret = secret_of(size)
    bare = secret.removeprefix("whsec_").rstrip("=")

    assert read_secrets(f" {secret}\n{bare} ") == (read_secrets(secret) * 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no secret"),
        ("  ", "holds no secret"),
        ("hunter2hunter2hunter2hunter2hunter2!", "secret 1"),
        (secret_of(23), "secret 1"),
        (secret_of(65), "secret 1"),
        (f"{NEW},{OLD}", "secret 1"),
        (f"{NEW} whsec_", "secret 2"),
    ],
)
def test_what_is_no_secret_is_refused_and_not_quoted(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_secrets(text)

    assert "base64 of 24 to 64 random bytes" in str(caught.value)
    assert not text.strip() or text not in str(caught.value)


# Callback tokens


@given(st.integers(1, 2**31 - 1))
def test_a_token_names_its_attempt(attempt: int) -> None:
    old, new = read_secrets(OLD)[0], read_secrets(NEW)[0]

    token = callback_token(old, TASK, attempt)

    assert attempt_of(token, [new, old], TASK) == attempt
    assert attempt_of(token, [new], TASK) is None
    assert attempt_of(token, [], TASK) is None
    assert attempt_of(token, [old], OTHER_TASK) is None
    number, _, mac = token.partition(".")
    assert attempt_of(f"{attempt + 1}.{mac}", [old], TASK) is None
    assert attempt_of(f"0{number}.{mac}", [old], TASK) is None


@pytest.mark.parametrize("token", ["", ".", "1", "1.", "x.y", "-1.a", "²." + "a" * 43, "9" * 5000])
def test_what_is_no_token_opens_nothing(token: str) -> None:
    assert attempt_of(token, read_secrets(NEW), TASK) is None


# Verifying, as receivers do


@given(st.text(max_size=200), st.binary(min_size=24, max_size=64))
def test_we_verify_what_the_public_library_signs(text: str, secret: bytes) -> None:
    at = datetime.now(UTC)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign("msg_1", at, text),
    }

    verify([b"another one" * 3, secret], headers, text.encode())


def test_a_signature_by_a_stranger_or_of_another_body_is_refused() -> None:
    headers = signed(NEW, b"{}")

    for secret, body in ((STRANGE, b"{}"), (NEW, b"{ }")):
        with pytest.raises(SignatureError, match="no signature is by one of the secrets"):
            verify(read_secrets(secret), headers, body)


@pytest.mark.parametrize("seconds", [-301, 301, 10**9])
def test_a_signature_is_good_for_five_minutes(seconds: int) -> None:
    headers = signed(NEW, b"{}", datetime.now(UTC) + timedelta(seconds=seconds))

    with pytest.raises(SignatureError, match="more than 300 s off"):
        verify(read_secrets(NEW), headers, b"{}")


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_missing_header_is_named(name: str) -> None:
    headers = {k: v for k, v in signed(NEW, b"{}").items() if k != name}

    with pytest.raises(SignatureError, match=name):
        verify(read_secrets(NEW), headers, b"{}")


@pytest.mark.parametrize("stamp", ["", "x", "1e9", "-1", "²", "1" * 5000])
def test_a_timestamp_that_is_none_is_refused(stamp: str) -> None:
    with pytest.raises(SignatureError):
        verify(read_secrets(NEW), signed(NEW, b"{}") | {"webhook-timestamp": stamp}, b"{}")


@pytest.mark.parametrize("given", ["v2,abc", "abc", "ü", " "])
def test_a_signature_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(SignatureError):
        verify(read_secrets(NEW), signed(NEW, b"{}") | {"webhook-signature": given}, b"{}")
