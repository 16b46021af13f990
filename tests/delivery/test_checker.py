"""Each clause of the checker finds what it is there for, in a ledger that was true before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.delivery.checker import (
    CLAUSES,
    Clause,
    every_task_ends_once,
    spared,
    unheard,
    violations,
)
from tests.delivery.evidence import (
    Case,
    Claim,
    Delivery,
    End,
    Event,
    Reply,
    Report,
    Task,
    Terms,
    gather,
)

CALLBACK = Terms("callback", silence=2.0)
RESPONSE = Terms("response", silence=2.0)
T = "t"

Doctor = Callable[[Case], object]


# True stories


def delivery(count: int, attempt: int, at: float, reply: str, written: bool = True) -> Delivery:
    done = at + 0.1 if written else None
    return Delivery(T, attempt, f"{T}:{attempt}", 10 + count, 7, at + 0.05, reply, done)


def claim(count: int, attempt: int, at: float) -> Claim:
    return Claim(T, count, attempt, 10 + count, at)


def report(
    attempt: int | None, status: str, at: float, code: int = 200, result: str = "SUCCESS"
) -> Report:
    return Report(T, attempt, status, at, at + 0.1, code, result)


def retried() -> Case:
    """Deferred, failed, silent, broken; and then the attempt that was silent succeeds after all."""
    return Case(
        T,
        [Task(T, "SUCCESS", 3, 3, 3, 5, 2, "HTTP 500")],
        [
            delivery(1, 1, 1.0, Reply.DOWN),
            delivery(2, 1, 2.0, Reply.ACCEPTED),
            delivery(3, 2, 3.0, Reply.ACCEPTED),
            delivery(4, 3, 7.0, Reply.ERROR),
            delivery(5, 3, 8.0, Reply.ACCEPTED),
        ],
        [
            report(1, "FAILED", 2.5, result="PENDING"),
            report(4, "SUCCESS", 8.2, 422, "DISPATCHED"),
            report(1, "SUCCESS", 8.3, 409, "DISPATCHED"),
            report(2, "SUCCESS", 8.5),
            report(3, "SUCCESS", 9.0),
            report(1, "SUCCESS", 9.2, 409),
            report(None, "SUCCESS", 9.4),
        ],
        [claim(1, 1, 1.0), claim(2, 1, 2.0), claim(3, 2, 3.0), claim(4, 3, 7.0), claim(5, 3, 8.0)],
        [End(T, "SUCCESS", 16, 8.55)],
        [
            Event(T, 1.2, "DEFERRED", 1, 1, "HTTP 503"),
            Event(T, 2.55, "RETRY", 2, 2, "reported FAILED"),
            Event(T, 6.0, "RETRY", 3, 3, "no report until its deadline at six"),
            Event(T, 7.2, "RETRY", 3, 4, "HTTP 500"),
            Event(T, 8.35, "REPORT_REFUSED", 1, None, "too late"),
        ],
    )


def refused() -> Case:
    """The receiver does not want it."""
    return Case(
        T,
        [Task(T, "FAILED", 1, 0, 3, 1, None, "HTTP 400: no such thing")],
        [delivery(1, 1, 1.0, Reply.REFUSED)],
        [report(1, "SUCCESS", 1.5, 409, "FAILED")],
        [claim(1, 1, 1.0)],
        [End(T, "FAILED", 12, 1.2)],
    )


def exhausted() -> Case:
    """In response mode: cut off, and no time to answer the last time."""
    return Case(
        T,
        [Task(T, "FAILED", 2, 1, 1, 2, 1, "no answer within 0.5 s")],
        [delivery(1, 1, 1.0, Reply.RESET, False), delivery(2, 2, 2.0, Reply.HANG, False)],
        [],
        [claim(1, 1, 1.0), claim(2, 2, 2.0)],
        [End(T, "FAILED", 13, 2.6)],
        [Event(T, 1.2, "RETRY", 2, 1, "the connection broke before the answer")],
    )


def answered() -> Case:
    """In response mode: lost with its worker, broken, and then done."""
    return Case(
        T,
        [Task(T, "SUCCESS", 2, 1, 3, 3, None, "HTTP 500")],
        [
            delivery(1, 1, 1.0, Reply.EMPTY),
            delivery(2, 1, 7.0, Reply.ERROR),
            delivery(3, 2, 8.0, Reply.EMPTY),
        ],
        [],
        [claim(1, 1, 1.0), claim(2, 1, 7.0), claim(3, 2, 8.0)],
        [End(T, "SUCCESS", 14, 8.2)],
        [
            Event(T, 6.0, "LOST", 1, 1, "its worker has lost its lease"),
            Event(T, 7.2, "RETRY", 2, 2, "HTTP 500"),
        ],
    )


def in_batches() -> Case:
    """Not mentioned, pushed alone at once, and deferred; then accepted, and done."""
    batch = [
        delivery(1, 1, 1.0, Reply.UNSAID)._replace(in_batch=True),
        delivery(1, 1, 1.1, Reply.DOWN),
        delivery(2, 1, 3.0, Reply.RESET, False)._replace(in_batch=True),
        delivery(3, 1, 5.0, Reply.SUCCESS)._replace(in_batch=True),
    ]
    return Case(
        T,
        [Task(T, "SUCCESS", 1, 0, 3, 3, None, "HTTP 503")],
        batch,
        [],
        [claim(1, 1, 1.0), claim(2, 1, 3.0), claim(3, 1, 5.0)],
        [End(T, "SUCCESS", 14, 5.2)],
        [
            Event(T, 1.3, "DEFERRED", 1, 1, "HTTP 503"),
            Event(T, 3.3, "DEFERRED", 1, 2, "the connection broke before the answer"),
        ],
    )


def repeated() -> Case:
    """Failed twice, and then the executor says once more that it has failed."""
    return Case(
        T,
        [Task(T, "FAILED", 1, 1, 1, 2, None, "HTTP 500")],
        [delivery(1, 1, 1.0, Reply.ERROR), delivery(2, 1, 2.0, Reply.ERROR)],
        [report(1, "FAILED", 2.5, result="FAILED")],
        [claim(1, 1, 1.0), claim(2, 1, 2.0)],
        [End(T, "FAILED", 13, 2.2)],
        [Event(T, 1.2, "RETRY", 1, 1, "HTTP 500")],
    )


STORIES = [(CALLBACK, retried), (CALLBACK, refused), (RESPONSE, exhausted), (RESPONSE, answered)]
STORIES += [(CALLBACK, in_batches), (RESPONSE, in_batches), (CALLBACK, repeated)]


@pytest.mark.parametrize(("terms", "story"), STORIES)
def test_nothing_is_wrong_with_a_true_ledger(terms: Terms, story: Callable[[], Case]) -> None:
    assert list(violations(terms, [story()])) == []


# Doctored ones


def change(pieces: list[Any], index: int, **fields: Any) -> None:
    pieces[index] = pieces[index]._replace(**fields)


def task(**fields: Any) -> Doctor:
    return lambda case: change(case.tasks, 0, **fields)


def the(kind: str, index: int, **fields: Any) -> Doctor:
    return lambda case: change(getattr(case, kind), index, **fields)


def without(kind: str, index: int | None = None) -> Doctor:
    def doctor(case: Case) -> None:
        pieces = getattr(case, kind)
        del pieces[slice(None) if index is None else slice(index, index + 1)]

    return doctor


def with_more(*pieces: Any) -> Doctor:
    def doctor(case: Case) -> None:
        for piece in pieces:
            case.add(piece)

    return doctor


def both(*doctors: Doctor) -> Doctor:
    def doctor(case: Case) -> None:
        for one in doctors:
            one(case)

    return doctor


DOCTORED: dict[str, list[tuple[Terms, Callable[[], Case], Doctor, str]]] = {
    "every_task_ends_once": [
        (CALLBACK, retried, without("tasks"), "is there 0 times"),
        (CALLBACK, retried, lambda case: case.tasks.append(case.task), "is there 2 times"),
        (CALLBACK, retried, task(status="DISPATCHED"), "is DISPATCHED in the end"),
        (CALLBACK, retried, with_more(End(T, "SUCCESS", 17, 9.0)), "and ended ['SUCCESS', 'SUCC"),
        (CALLBACK, retried, the("ends", 0, status="FAILED"), "and ended ['FAILED']"),
    ],
    "every_task_is_delivered": [(CALLBACK, refused, without("deliveries"), "was never delivered")],
    "every_delivery_was_claimed": [
        (CALLBACK, retried, the("deliveries", 1, sequence=40), "40, which nobody claimed"),
        (CALLBACK, retried, the("deliveries", 3, attempt=2), "14, which nobody claimed"),
        (
            CALLBACK,
            retried,
            with_more(delivery(2, 1, 2.05, Reply.BUSY)),
            "was pushed 2 times with sequence 12",
        ),
        (CALLBACK, retried, task(delivery_count=6), "counts 6 deliveries"),
        (CALLBACK, retried, without("claims", 4), "which nobody claimed"),
    ],
    "what_a_batch_does_not_say_is_asked_alone": [
        (CALLBACK, in_batches, without("deliveries", 1), "and not asked alone with 11"),
        (CALLBACK, in_batches, the("deliveries", 1, in_batch=True), "not asked alone with 11"),
    ],
    "nothing_is_claimed_after_the_end": [
        (
            CALLBACK,
            retried,
            with_more(delivery(7, 3, 9.0, Reply.ACCEPTED)),
            "was claimed after its end, and delivered with 17",
        ),
        (CALLBACK, retried, with_more(claim(7, 3, 9.0)), "after its end, as delivery 7"),
        (CALLBACK, retried, the("ends", 0, sequence=14), "and delivered with 15"),
    ],
    "the_budget_is_kept": [
        (CALLBACK, retried, task(max_retries=2), "was retried 3 times of 2"),
        (CALLBACK, retried, task(retry_count=2), "says 2 retries, and its events say 3"),
        (
            RESPONSE,
            exhausted,
            with_more(delivery(3, 3, 3.0, Reply.BUSY)),
            "was delivered in 3 attempts",
        ),
        (
            CALLBACK,
            retried,
            both(
                *(the("deliveries", index, reply=Reply.ERROR) for index in (1, 2, 3)),
                task(max_retries=2),
            ),
            "has failed 4 times, and may 3 times",
        ),
    ],
    "equal_keys_are_equal_executions": [
        (CALLBACK, retried, the("deliveries", 2, key="t:1"), "with the key t:1 in attempt 2"),
        (CALLBACK, retried, the("deliveries", 4, attempt=4), "in attempt 4 of 3"),
        (CALLBACK, retried, the("deliveries", 4, number=8), "different input_params"),
        (
            CALLBACK,
            retried,
            the("deliveries", 4, attempt=2, key="t:2"),
            "went back from one attempt to an earlier one: [1, 1, 2, 3, 2]",
        ),
    ],
    "a_new_key_is_a_new_execution": [
        (CALLBACK, retried, task(attempt=4), "is in attempt 4, and 3 executions were begun"),
        (RESPONSE, retried, task(), "is in attempt 3, and 4 executions were begun"),
        (CALLBACK, answered, task(), "is in attempt 2, and 1 executions were begun"),
    ],
    "what_failed_is_not_run_again_with_its_key": [
        (CALLBACK, retried, the("claims", 2, attempt=1), "in attempt 1, which is claimed again"),
        (
            CALLBACK,
            retried,
            both(the("deliveries", 0, reply=Reply.FAILED), the("claims", 1, at=7.5)),
            "in attempt 1, which is claimed again",
        ),
        (RESPONSE, exhausted, the("claims", 1, attempt=1, at=9.0), "in attempt 1, which is claim"),
        (RESPONSE, answered, the("claims", 2, attempt=1, at=13.0), "in attempt 1, which is claim"),
    ],
    "a_success_is_never_lost": [
        (
            CALLBACK,
            retried,
            both(task(status="FAILED"), the("ends", 0, status="FAILED")),
            "took SUCCESS of attempt 2, and is FAILED",
        ),
        (CALLBACK, retried, task(lapsed_attempt=None), "2, which does not count"),
        (CALLBACK, retried, the("reports", 3, result="PENDING"), "took SUCCESS of attempt 2"),
        (
            CALLBACK,
            retried,
            the("claims", 4, at=8.7),
            "took SUCCESS of attempt 2, and was claimed again",
        ),
        (CALLBACK, retried, the("reports", 3, code=409), "refused SUCCESS of attempt 2, which"),
        (CALLBACK, retried, the("reports", 6, code=409), "refused SUCCESS of attempt None, which"),
        (CALLBACK, refused, the("ends", 0, at=1.7), "refused SUCCESS of attempt 1, which was no"),
        (
            CALLBACK,
            retried,
            the("reports", 2, answered=2.4),
            "refused SUCCESS of attempt 1, which was not over",
        ),
        (CALLBACK, retried, the("reports", 4, code=422), "as if it had never been pushed"),
        (CALLBACK, retried, the("reports", 3, code=404), "answered 404 to SUCCESS of attempt 2"),
        (
            CALLBACK,
            refused,
            both(the("deliveries", 0, reply=Reply.SUCCESS), the("ends", 0, at=9.0)),
            "was answered 200 SUCCESS, and is FAILED",
        ),
        (
            RESPONSE,
            answered,
            with_more(claim(4, 2, 14.0)),
            "was answered 200, and claimed again",
        ),
        (
            RESPONSE,
            answered,
            both(task(status="FAILED"), the("ends", 0, status="FAILED", at=20.0)),
            "was answered 200, and is FAILED",
        ),
    ],
    "a_success_has_a_reason": [
        (RESPONSE, answered, the("deliveries", 2, written=None), "and nobody said so"),
        (RESPONSE, answered, the("deliveries", 2, attempt=3), "and nobody said so"),
        (CALLBACK, answered, task(), "and nobody said so"),
        (CALLBACK, retried, without("reports"), "and nobody said so"),
    ],
    "a_failure_has_a_reason": [
        (CALLBACK, refused, the("deliveries", 0, reply=Reply.DOWN), "did not refuse it"),
        (CALLBACK, refused, task(error_msg="HTTP 500"), "is FAILED with 3 retries left"),
        (CALLBACK, exhausted, task(), "no answer within 0.5 s, which is no failure"),
        (RESPONSE, exhausted, task(error_msg="HTTP 500"), "receiver did not say so"),
        (RESPONSE, exhausted, task(error_msg="reported FAILED"), "receiver did not say so"),
        (RESPONSE, exhausted, task(error_msg="HTTP 503"), "receiver did not say so"),
        (
            RESPONSE,
            exhausted,
            task(error_msg="no report until its deadline at noon"),
            "was not silent for so long",
        ),
        (RESPONSE, exhausted, the("deliveries", 1, in_batch=True), "which is no failure"),
    ],
    "a_retry_has_a_reason": [
        (CALLBACK, retried, the("reports", 0, code=409), "attempt 1 has failed: reported FAILED"),
        (CALLBACK, retried, the("events", 2, at=5.0), "was not silent for so long"),
        (CALLBACK, retried, the("deliveries", 3, reply=Reply.DOWN), "attempt 3 has failed: HTTP"),
        (CALLBACK, retried, the("events", 3, delivery_count=5), "attempt 3 has failed: HTTP"),
        (CALLBACK, retried, the("events", 1, message="HTTP 503"), "receiver did not say so"),
        (CALLBACK, exhausted, task(), "the connection broke before the answer, which"),
    ],
}
CASES = [
    pytest.param(name, *doctored, id=f"{name}-{n}")
    for name, several in DOCTORED.items()
    for n, doctored in enumerate(several)
]
BY_NAME: dict[str, Clause] = {
    clause.__name__: clause for clause in (every_task_ends_once, *CLAUSES)
}


@pytest.mark.parametrize(("name", "terms", "story", "doctor", "text"), CASES)
def test_a_clause_finds_what_is_wrong(
    name: str, terms: Terms, story: Callable[[], Case], doctor: Doctor, text: str
) -> None:
    case = story()
    doctor(case)

    found = list(BY_NAME[name](terms, case))

    assert any(text in one for one in found), found
    assert any(text in one for one in violations(terms, [case]))


def test_each_clause_is_shown_to_find_something() -> None:
    assert DOCTORED.keys() == BY_NAME.keys()


# What is excused


def test_an_answer_that_was_not_heard_need_not_count() -> None:
    """The worker says of that very delivery that it was cut off; but not of another one."""
    case = refused()
    change(case.deliveries, 0, reply=Reply.SUCCESS)
    change(case.ends, 0, at=9.0)
    case.reports.clear()
    change(case.tasks, 0, error_msg="no answer within 0.5 s", retry_count=3)
    assert unheard(case) == case.deliveries
    assert not any("was answered" in text for text in violations(CALLBACK, [case]))

    case.add(Event(T, 1.1, "DEFERRED", 1, 2, "no answer within 0.5 s"))
    change(case.tasks, 0, error_msg="HTTP 500")

    assert unheard(case) == []
    assert any("was answered 200 SUCCESS" in text for text in violations(CALLBACK, [case]))


def test_a_late_answer_that_a_sleeping_worker_hears_may_count() -> None:
    """But one that was written to nobody does not."""
    case = retried()
    case.reports.clear()
    change(case.deliveries, 4, reply=Reply.LATE)
    assert not any("nobody said so" in text for text in violations(CALLBACK, [case]))

    change(case.deliveries, 4, written=None)
    assert any("nobody said so" in text for text in violations(CALLBACK, [case]))


def test_a_probe_that_fails_costs_nothing() -> None:
    """In response mode a reset is a new attempt, unless it was deferred; and that is told."""
    case = exhausted()
    change(case.deliveries, 1, attempt=1, reply=Reply.BUSY)
    change(case.claims, 1, attempt=1, at=9.0)
    assert any("claimed again" in text for text in violations(RESPONSE, [case]))
    assert spared(RESPONSE, case) == []

    case.add(Event(T, 1.2, "DEFERRED", 1, 1, "the connection broke before the answer"))
    assert not any("claimed again" in text for text in violations(RESPONSE, [case]))
    assert spared(RESPONSE, case) == case.deliveries[:1]


def test_a_500_that_came_too_late_is_unheard_and_no_probe() -> None:
    """The worker had given up waiting for it, which defers a task by callback as well."""
    case = retried()
    case.add(Event(T, 7.2, "DEFERRED", 3, 4, "HTTP 500"))
    assert (unheard(case), spared(CALLBACK, case)) == ([], [case.deliveries[3]])

    case.events.pop()
    case.add(Event(T, 7.2, "DEFERRED", 3, 4, "no answer within 0.5 s"))
    assert (unheard(case), spared(CALLBACK, case)) == ([case.deliveries[3]], [])


def test_a_500_that_met_the_end_costs_nothing() -> None:
    """It was under way when the executor reported: nobody counts it any more."""
    case = retried()
    for index in (1, 2, 3, 4):
        change(case.deliveries, index, reply=Reply.ERROR)
    assert not any("may 4 times" in text for text in violations(CALLBACK, [case]))

    change(case.tasks, 0, status="FAILED", error_msg="HTTP 500")
    change(case.ends, 0, status="FAILED")
    assert any("failed 5 times, and may 4 times" in text for text in violations(CALLBACK, [case]))


def test_what_belongs_to_no_task_is_found() -> None:
    stranger = delivery(1, 1, 1.0, Reply.ACCEPTED)

    found = list(violations(CALLBACK, gather(["other"], [stranger])))

    assert found == ["task other is there 0 times", "task t is there 0 times"]
