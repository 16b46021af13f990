"""What an external system answered to a push, and what that means for the task."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Container
from datetime import timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from pgsched.models import Completion, Json

# A deferral waits a random time below a bound that doubles up to the cap.
BACKOFF_BASE = timedelta(seconds=1)
BACKOFF_CAP = timedelta(minutes=5)
# However long a system asks us to stay away, we look again after this.
RETRY_AFTER_CAP = timedelta(hours=1)
# As much of a text as the database takes.
TEXT_LENGTH = 2048


class Reply(StrEnum):
    """What came back."""

    ANSWERED = "ANSWERED"  # an HTTP status
    UNREACHABLE = "UNREACHABLE"  # nothing was sent: connect, DNS or TLS error
    TIMED_OUT = "TIMED_OUT"  # sent, and no answer in time
    CUT = "CUT"  # sent, and the connection broke


class Answer(NamedTuple):
    """How one push went, before anyone says what that means."""

    reply: Reply
    status_code: int | None = None
    body: dict[str, Any] | None = None  # the JSON object it was, if it was one
    retry_after: timedelta | None = None
    text: str = ""  # the body, or what went wrong, for people
    elapsed: timedelta = timedelta()
    raw: bytes = b""  # the body as it came, if it came whole


class Verdict(StrEnum):
    """What an answer means for the task."""

    ACCEPTED = "ACCEPTED"  # the external system has it, and will report
    SUCCEEDED = "SUCCEEDED"  # done
    FAILED = "FAILED"  # it ran and failed: retried while there is budget
    DEFERRED = "DEFERRED"  # not delivered: later, same key, uncounted
    RETRY = "RETRY"  # counted, as a new attempt
    RETRY_SAME = "RETRY_SAME"  # counted, same attempt and key: it may have accepted
    RETRY_LAPSED = "RETRY_LAPSED"  # counted, a new attempt; the old one may still be running
    REFUSED = "REFUSED"  # this task will never be taken: FAILED now


class Outcome(NamedTuple):
    """A verdict, with what the settle and the log need."""

    verdict: Verdict
    reason: str
    delay: timedelta | None = None  # of a deferral
    is_misconfigured: bool = False  # the system is at fault, not the task
    elapsed: timedelta | None = None  # from the request to the answer
    # From a body that settles.
    output_ref: str | None = None
    error_msg: str | None = None
    next_input: Json = None
    stop_loop: bool = False


class _Row(NamedTuple):
    when: Container[int | Reply]
    callback: Verdict
    response: Verdict
    is_misconfigured: bool = False


_V = Verdict
_MISCONFIGURED = True

# The answer table.  The first row that matches holds.
# fmt: off
_TABLE = (
    #    what came back                    callback mode  response mode
    _Row({202},                            _V.ACCEPTED,   _V.ACCEPTED),
    _Row(range(200, 300),                  _V.ACCEPTED,   _V.SUCCEEDED),
    _Row({409},                            _V.ACCEPTED,   _V.DEFERRED),  # it already has it
    _Row({Reply.UNREACHABLE},              _V.DEFERRED,   _V.DEFERRED),
    _Row({408, 425, 429, 502, 503, 504},   _V.DEFERRED,   _V.DEFERRED),
    _Row({Reply.TIMED_OUT, Reply.CUT},     _V.DEFERRED,   _V.RETRY_LAPSED),
    _Row({501},                            _V.REFUSED,    _V.REFUSED),
    _Row({401, 403, 404, 405, 407},        _V.DEFERRED,   _V.DEFERRED, _MISCONFIGURED),
    _Row(range(300, 400),                  _V.DEFERRED,   _V.DEFERRED, _MISCONFIGURED),
    _Row(range(400, 500),                  _V.REFUSED,    _V.REFUSED),
)
# fmt: on
# Other 5xx, and by RFC 9110 15 every status that is none.
_SERVER_ERROR = _Row((), _V.RETRY_SAME, _V.RETRY)


def outcome_of(
    answer: Answer,
    completion: Completion,
    deferrals: int,
    *,
    uniform: Callable[[float, float], float] = random.uniform,
) -> Outcome:
    """
    What *answer* means for a task that was deferred *deferrals* times before.

    A 2xx whose body says SUCCESS or FAILED settles the task in both modes;
    everything else is in the table.
    """
    if (settled := _settled_by(answer)) is not None:
        return settled
    row = _row_of(answer)
    verdict = row.response if completion is Completion.RESPONSE else row.callback
    if verdict is Verdict.DEFERRED:
        return deferral_of(answer, deferrals, uniform=uniform)
    return Outcome(verdict, reason_of(answer), elapsed=answer.elapsed)


def is_deferral(answer: Answer) -> bool:
    """Whether it says nothing of the task, only that it was not delivered, or perhaps not."""
    return _row_of(answer).callback is Verdict.DEFERRED


def deferral_of(
    answer: Answer,
    deferrals: int,
    *,
    uniform: Callable[[float, float], float] = random.uniform,
) -> Outcome:
    """The outcome of *answer* for a task that is to be delivered again, whatever the mode."""
    delay = _delay(answer.retry_after, deferrals, uniform)
    is_misconfigured = _row_of(answer).is_misconfigured
    return Outcome(Verdict.DEFERRED, reason_of(answer), delay, is_misconfigured, answer.elapsed)


def is_fault(answer: Answer) -> bool:
    """Whether the system is to blame, and not the task: what counts for the breaker."""
    status = answer.status_code or 0
    is_broken = answer.reply is not Reply.ANSWERED or (status >= 500 and status != 501)
    return is_broken or _row_of(answer).is_misconfigured


def _row_of(answer: Answer) -> _Row:
    # The status is there even when the body was cut off: what was not heard to its
    # end goes by how it ended.
    what = answer.status_code if answer.reply is Reply.ANSWERED else answer.reply
    return next((row for row in _TABLE if what in row.when), _SERVER_ERROR)


def _settled_by(answer: Answer) -> Outcome | None:
    if answer.reply is not Reply.ANSWERED or answer.status_code not in range(200, 300):
        return None
    body = answer.body
    if not body or body.get("status") not in ("SUCCESS", "FAILED"):
        return None
    is_success = body["status"] == "SUCCESS"
    next_input = body.get("next_input")
    return Outcome(
        Verdict.SUCCEEDED if is_success else Verdict.FAILED,
        f"HTTP {answer.status_code}: the body says {body['status']}",
        elapsed=answer.elapsed,
        output_ref=_text(body.get("output_ref")),
        error_msg=_text(body.get("error_msg")),
        next_input=next_input if isinstance(next_input, dict) else None,
        stop_loop=body.get("stop_loop") is True,
    )


def _text(value: Json) -> str | None:
    # A receiver that sends an object where a text belongs, or too much of it, has
    # still done the work.
    if value is None:
        return None
    text = (
        value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    )
    return text[:TEXT_LENGTH]


def reason_of(answer: Answer) -> str:
    """What came back, in words, with the body as far as it is for people."""
    said = _said_of(answer)
    return f"{said}: {answer.text}" if answer.text else said


def cause_of(answer: Answer) -> str:
    """The same for the log: a body may quote what was pushed, so none is in it."""
    return _said_of(answer) if answer.reply is Reply.ANSWERED else reason_of(answer)


def _said_of(answer: Answer) -> str:
    match answer.reply:
        case Reply.ANSWERED:
            return f"HTTP {answer.status_code}"
        case Reply.UNREACHABLE:
            return "could not be reached"
        case Reply.TIMED_OUT:
            return f"no answer within {answer.elapsed.total_seconds():.3g} s"
        case Reply.CUT:
            return "the connection broke before the answer"


def _delay(
    retry_after: timedelta | None, deferrals: int, uniform: Callable[[float, float], float]
) -> timedelta:
    if retry_after is not None:
        return min(max(retry_after, BACKOFF_BASE), RETRY_AFTER_CAP)
    # Ten doublings are beyond the cap, ten thousand beyond a timedelta.
    bound = min(BACKOFF_BASE * 2 ** min(deferrals, 10), BACKOFF_CAP)
    return timedelta(seconds=uniform(0, bound.total_seconds()))
