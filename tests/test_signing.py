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
    BadSignature,
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


# Verifying


@given(st.text(max_size=200))
def test_we_verify_what_the_public_library_signs(text: str) -> None:
    at = datetime.now(UTC)
    headers = {
        "Webhook-Id": "msg_1",
        "Webhook-Timestamp": str(int(at.timestamp())),
        "Webhook-Signature": Webhook(OLD).sign("msg_1", at, text),
    }

    verify(f"{NEW} {OLD}", headers, text.encode())
    verify(read_secrets(OLD), headers, text.encode())
    with pytest.raises(BadSignature, match="fits none"):
        verify(NEW, headers, text.encode())
    with pytest.raises(BadSignature, match="fits none"):
        verify(OLD, headers, text.encode() + b" ")


def test_we_verify_what_we_sign_with_either_secret() -> None:
    headers = signed(f"{NEW} {OLD}", b"[]")

    for secrets in (NEW, OLD, f"{STRANGE} {OLD}"):
        verify(secrets, headers, b"[]")
    with pytest.raises(BadSignature):
        verify(STRANGE, headers, b"[]")
    with pytest.raises(BadSignature):
        verify([], headers, b"[]")
    with pytest.raises(ValueError, match="holds no secret"):
        verify("", headers, b"[]")


@pytest.mark.parametrize("minutes", [-6, 6])
def test_a_message_from_another_time_is_not_trusted(minutes: int) -> None:
    headers = signed(NEW, b"{}", datetime.now(UTC) + timedelta(minutes=minutes))

    with pytest.raises(BadSignature, match="too far from now"):
        verify(NEW, headers, b"{}")
    verify(NEW, headers, b"{}", tolerance=timedelta(minutes=7))


@pytest.mark.parametrize(
    ("header", "value", "message"),
    [
        ("webhook-id", "", "is missing"),
        ("webhook-timestamp", "", "is missing"),
        ("webhook-signature", "", "is missing"),
        ("webhook-timestamp", "yesterday", "seconds since 1970"),
        ("webhook-timestamp", "-1", "seconds since 1970"),
        ("webhook-timestamp", "9" * 5000, "seconds since 1970"),
        ("webhook-timestamp", "²", "seconds since 1970"),
        ("webhook-timestamp", "12", "too far from now"),
        ("webhook-id", "another", "fits none"),
        ("webhook-id", "\udcff", "fits none"),
        ("webhook-signature", "v1", "fits none"),
        ("webhook-signature", "v1,", "fits none"),
        ("webhook-signature", "v1,ä\udcff =", "fits none"),
    ],
)
def test_what_is_no_signature_is_refused_with_the_reason(
    header: str, value: str, message: str
) -> None:
    with pytest.raises(BadSignature, match=message):
        verify(NEW, signed(NEW, b"{}") | {header: value}, b"{}")


def test_signatures_of_other_versions_are_passed_over() -> None:
    headers = signed(NEW, b"{}")
    right = headers["webhook-signature"]

    verify(NEW, headers | {"webhook-signature": f"v1a,c2lnbmVk {right} v2,x"}, b"{}")
    with pytest.raises(BadSignature, match="fits none"):
        verify(NEW, headers | {"webhook-signature": right.replace("v1,", "v2,")}, b"{}")


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
