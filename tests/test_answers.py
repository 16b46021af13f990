"""The answer table: what came back from a push, and what it means for the task."""

from __future__ import annotations

import string
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgsched.answers import (
    BACKOFF_BASE,
    BACKOFF_CAP,
    RETRY_AFTER_CAP,
    Answer,
    Outcome,
    Reply,
    Verdict,
    outcome_of,
)
from pgsched.decoding import EXCERPT_BYTES, excerpt, read_body, read_retry_after
from pgsched.models import Completion

CALLBACK = Completion.CALLBACK
RESPONSE = Completion.RESPONSE

MISCONFIGURED = {*range(300, 400), 401, 403, 404, 405, 407}
BUSY = {408, 425, 429, 502, 503, 504}

# The whole table, code by code: (statuses, callback mode, response mode).
TABLE = [
    (set(range(200, 300)) - {202}, Verdict.ACCEPTED, Verdict.SUCCEEDED),
    ({202}, Verdict.ACCEPTED, Verdict.ACCEPTED),
    ({409}, Verdict.ACCEPTED, Verdict.DEFERRED),
    (BUSY, Verdict.DEFERRED, Verdict.DEFERRED),
    (MISCONFIGURED, Verdict.DEFERRED, Verdict.DEFERRED),
    (set(range(500, 600)) - BUSY - {501}, Verdict.RETRY_SAME, Verdict.RETRY),
    (set(range(400, 500)) - BUSY - MISCONFIGURED - {409} | {501}, Verdict.REFUSED, Verdict.REFUSED),
]
ROWS = [
    (statuses, completion, verdict)
    for statuses, callback, response in TABLE
    for completion, verdict in ((CALLBACK, callback), (RESPONSE, response))
]
UNANSWERED = [
    (Reply.UNREACHABLE, CALLBACK, Verdict.DEFERRED),
    (Reply.UNREACHABLE, RESPONSE, Verdict.DEFERRED),
    (Reply.TIMED_OUT, CALLBACK, Verdict.DEFERRED),
    (Reply.TIMED_OUT, RESPONSE, Verdict.RETRY_LAPSED),
    (Reply.CUT, CALLBACK, Verdict.DEFERRED),
    (Reply.CUT, RESPONSE, Verdict.RETRY_LAPSED),
]

modes = pytest.mark.parametrize("completion", [CALLBACK, RESPONSE])


def answered(code: int, /, **said: object) -> Answer:
    return Answer(Reply.ANSWERED, code, body=said or None)


def longest(low: float, high: float) -> float:
    """The unluckiest draw of a jitter."""
    assert low == 0
    return high


def delay_of(answer: Answer, deferrals: int) -> timedelta:
    delay = outcome_of(answer, CALLBACK, deferrals, uniform=longest).delay
    assert delay is not None
    return delay


# The table.


def test_the_table_speaks_of_every_status_exactly_once() -> None:
    statuses = [status for statuses, _, _ in TABLE for status in statuses]
    assert sorted(statuses) == list(range(200, 600))


@pytest.mark.parametrize(("statuses", "completion", "verdict"), ROWS)
def test_a_status_means_what_the_table_says(
    statuses: set[int], completion: Completion, verdict: Verdict
) -> None:
    for status in statuses:
        outcome = outcome_of(answered(status), completion, 0)
        assert outcome.verdict is verdict, status
        assert outcome.is_misconfigured is (status in MISCONFIGURED)
        assert (outcome.delay is not None) is (verdict is Verdict.DEFERRED)


@pytest.mark.parametrize(("reply", "completion", "verdict"), UNANSWERED)
def test_no_answer_means_what_the_table_says(
    reply: Reply, completion: Completion, verdict: Verdict
) -> None:
    outcome = outcome_of(Answer(reply), completion, 0)
    assert outcome.verdict is verdict
    assert not outcome.is_misconfigured
    assert (outcome.delay is not None) is (verdict is Verdict.DEFERRED)


@modes
@pytest.mark.parametrize("reply", [Reply.TIMED_OUT, Reply.CUT])
def test_a_2xx_that_was_not_heard_to_its_end_is_no_answer(
    reply: Reply, completion: Completion
) -> None:
    heard = Answer(reply, 200, {"status": "SUCCESS"})
    assert (
        outcome_of(heard, completion, 0).verdict is outcome_of(Answer(reply), completion, 0).verdict
    )


@pytest.mark.parametrize("status", [199, 600, 999])
def test_a_status_that_is_none_counts_as_a_server_error(status: int) -> None:
    assert outcome_of(answered(status), CALLBACK, 0).verdict is Verdict.RETRY_SAME
    assert outcome_of(answered(status), RESPONSE, 0).verdict is Verdict.RETRY


# A body that settles.


@modes
@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_a_2xx_body_settles_at_once_in_both_modes(status: int, completion: Completion) -> None:
    done = answered(status, status="SUCCESS", output_ref="s3://b/k", next_input={"page": 2})
    broken = answered(status, status="FAILED", error_msg="no such order", stop_loop=True)

    succeeded = outcome_of(done, completion, 0)
    failed = outcome_of(broken, completion, 0)

    assert succeeded == Outcome(
        Verdict.SUCCEEDED,
        succeeded.reason,
        elapsed=done.elapsed,
        output_ref="s3://b/k",
        next_input={"page": 2},
    )
    assert failed == Outcome(
        Verdict.FAILED,
        failed.reason,
        elapsed=broken.elapsed,
        error_msg="no such order",
        stop_loop=True,
    )


@modes
@pytest.mark.parametrize("status", ["RUNNING", "CANCELLED", "success", "", None, 1, ["SUCCESS"]])
def test_no_other_word_in_a_body_settles(status: object, completion: Completion) -> None:
    plain = outcome_of(answered(200), completion, 0).verdict
    assert outcome_of(answered(200, status=status), completion, 0).verdict is plain


@modes
@pytest.mark.parametrize("code", [302, 404, 409, 422, 500, 503])
def test_only_a_2xx_can_settle(code: int, completion: Completion) -> None:
    plain = outcome_of(answered(code), completion, 0, uniform=longest)
    assert outcome_of(answered(code, status="SUCCESS"), completion, 0, uniform=longest) == plain


def test_what_should_be_a_text_and_is_not_is_kept_as_json() -> None:
    outcome = outcome_of(answered(200, status="SUCCESS", output_ref={"id": 7}), CALLBACK, 0)
    assert outcome.output_ref == '{"id":7}'


@pytest.mark.parametrize("stop", ["false", 1, {}, None])
def test_a_loop_is_stopped_by_true_alone(stop: object) -> None:
    assert not outcome_of(answered(200, status="SUCCESS", stop_loop=stop), CALLBACK, 0).stop_loop


# How long a deferral waits.


def test_deferrals_wait_below_a_bound_that_doubles_from_one_second_to_five_minutes() -> None:
    bounds = [delay_of(Answer(Reply.UNREACHABLE), n).total_seconds() for n in range(12)]
    assert bounds == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]


@given(st.integers(min_value=0, max_value=2**31 - 1))
def test_a_deferral_waits_anything_from_nothing_to_the_bound(deferrals: int) -> None:
    outcome = outcome_of(Answer(Reply.UNREACHABLE), CALLBACK, deferrals)
    assert outcome.delay is not None
    assert timedelta() <= outcome.delay <= BACKOFF_CAP


@pytest.mark.parametrize("deferrals", [0, 20])
def test_retry_after_is_honoured_however_often_it_was_deferred(deferrals: int) -> None:
    busy = answered(503)._replace(retry_after=timedelta(seconds=7))
    assert delay_of(busy, deferrals) == timedelta(seconds=7)


@pytest.mark.parametrize(
    ("asked", "waits"),
    [(timedelta(), BACKOFF_BASE), (timedelta(days=2), RETRY_AFTER_CAP)],
)
def test_retry_after_is_clamped(asked: timedelta, waits: timedelta) -> None:
    assert delay_of(answered(429)._replace(retry_after=asked), 0) == waits


# Reading the header.

NOW = datetime(2026, 11, 23, 18, 0, tzinfo=UTC)
DATE = format_datetime(NOW, usegmt=True)


@pytest.mark.parametrize("value", ["120", " 120 ", "00120"])
def test_retry_after_in_seconds(value: str) -> None:
    assert read_retry_after(value) == timedelta(seconds=120)


@pytest.mark.parametrize(
    "value",
    [
        "Mon, 23 Nov 2026 18:02:00 GMT",  # IMF-fixdate
        "Monday, 23-Nov-26 18:02:00 GMT",  # RFC 850
        "Mon Nov 23 18:02:00 2026",  # asctime
    ],
)
def test_retry_after_as_a_date_counts_from_the_date_of_the_answer(value: str) -> None:
    assert read_retry_after(value, DATE) == timedelta(minutes=2)


def test_retry_after_as_a_date_counts_from_now_if_the_answer_has_no_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True)
    waits = read_retry_after(soon)
    assert waits is not None
    assert timedelta(minutes=9) < waits <= timedelta(minutes=10)


def test_retry_after_in_the_past_asks_for_nothing() -> None:
    assert read_retry_after("Mon, 23 Nov 2026 17:00:00 GMT", DATE) == timedelta()


@pytest.mark.parametrize("value", [None, "", "soon", "-5", "1.5", "1e3", "٣", "Mon, 99 Nov 2026"])
def test_a_retry_after_that_says_nothing_is_ignored(value: str | None) -> None:
    assert read_retry_after(value, DATE) is None


def test_a_retry_after_of_a_thousand_digits_is_just_long() -> None:
    waits = read_retry_after("9" * 1000)
    assert waits is not None
    assert waits > RETRY_AFTER_CAP


@given(st.text() | st.from_regex(r"\w{3}, ?\d+ \w{3} \d+ \d+:\d+:\d+ [+-]?\w+"), st.text())
def test_no_header_can_do_harm(value: str, date: str) -> None:
    waits = read_retry_after(value, date)
    assert waits is None or waits >= timedelta()


# Reading the body.


@pytest.mark.parametrize(
    "raw",
    [b"", b"ok", b"[]", b'"SUCCESS"', b"{", b"null", b'{"a": 1} x', b"\xff{}", b'{"a":"\x00"}'],
)
def test_only_a_json_object_is_a_body(raw: bytes) -> None:
    assert read_body(raw) is None


@given(st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53) | st.none()))
def test_a_json_object_is_read_as_it_is_but_for_nul(said: dict[str, str | int | None]) -> None:
    clean = {
        key.replace("\0", "\ufffd"): value.replace("\0", "\ufffd")
        if isinstance(value, str)
        else value
        for key, value in said.items()
    }
    assert read_body(b" \n" + orjson.dumps(said)) == clean


@given(st.text(alphabet='\\u0\0"n'))
def test_a_nul_that_is_only_spoken_of_stays(text: str) -> None:
    body = read_body(orjson.dumps({"error_msg": text}))
    assert body == {"error_msg": text.replace("\0", "\ufffd")}


def test_half_a_character_is_no_json() -> None:
    assert read_body(b'{"error_msg": "\\ud800"}') is None


# For people.


def test_an_excerpt_is_one_line() -> None:
    assert (
        excerpt(b"<html>\r\n  <h1>502\x00 Bad\tGateway</h1>\n") == "<html> <h1>502 Bad Gateway</h1>"
    )


@given(st.binary(max_size=3 * EXCERPT_BYTES) | st.text(max_size=EXCERPT_BYTES))
def test_an_excerpt_is_short_and_cannot_steer_a_terminal(raw: bytes | str) -> None:
    text = excerpt(raw)
    assert len(text.encode()) <= EXCERPT_BYTES
    assert text.isprintable()


@given(st.text(alphabet=string.printable.split("\t")[0], max_size=200))
def test_an_excerpt_keeps_the_words(text: str) -> None:
    assert excerpt(text).split() == text.split()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(Reply.ANSWERED, 503, text="try later"), "HTTP 503: try later"),
        (Answer(Reply.ANSWERED, 202), "HTTP 202"),
        (
            Answer(Reply.UNREACHABLE, text="a.example:80: refused"),
            "could not be reached: a.example:80: refused",
        ),
        (Answer(Reply.TIMED_OUT, elapsed=timedelta(seconds=30.004)), "no answer within 30 s"),
        (Answer(Reply.CUT), "the connection broke before the answer"),
    ],
)
def test_the_reason_says_what_happened(answer: Answer, reason: str) -> None:
    assert outcome_of(answer, RESPONSE, 0).reason == reason
