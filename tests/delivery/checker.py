"""
Whether thousands of tasks ended as the contract says.  Pure: a function for each clause.

Each takes the terms and all that is known of one task, and tells what is wrong.
`every_task_ends_once()` comes first: the others want a task with one row.

Whether something was claimed after something else is told by the numbers of one
sequence, and where the other thing happened outside of the database, by times
of the clock that all processes of the test share.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from tests.delivery.evidence import Case, Delivery, Reply, Report, Terms

Clause = Callable[[Terms, Case], Iterator[str]]

# What a worker says of a push to which it heard no answer.
NOT_HEARD = ("no answer within", "the connection broke", "could not be reached")
# What a counted retry says, and which answer of the receiver is the reason.
ANSWERED = {
    "HTTP 500": Reply.ERROR,
    "HTTP 200: the body says FAILED": Reply.FAILED,
}


# What an answer means


def is_accepted(terms: Terms, delivery: Delivery) -> bool:
    """Whether the receiver has said that it has the task, and will report."""
    replies = {Reply.ACCEPTED}
    if terms.completion == "callback":
        replies |= {Reply.EMPTY, Reply.KNOWN}
    return delivery.reply in replies and delivery.written is not None


def is_success(terms: Terms, delivery: Delivery) -> bool:
    """Whether the receiver has answered, in time, that the task is done."""
    replies = {Reply.SUCCESS}
    if terms.completion == "response":
        replies |= {Reply.EMPTY}
    return delivery.reply in replies and delivery.written is not None


def is_counted(terms: Terms, delivery: Delivery) -> bool:
    """Whether the answer, or its lack, costs a retry."""
    replies = {Reply.ERROR, Reply.FAILED}
    if terms.completion == "response" and not delivery.in_batch:
        replies |= {Reply.RESET, Reply.HALF, Reply.HANG, Reply.LATE}
    return delivery.reply in replies


def was_heard(case: Case, delivery: Delivery) -> bool:
    """
    Whether an answer came to a worker that could still make use of it.

    It did not if the database was told of that very delivery that it was not
    answered, or if its worker was lost.
    """
    is_written = delivery.written is not None
    return is_written and not _was_missed(case, delivery) and not _was_lost(case, delivery)


def _was_missed(case: Case, delivery: Delivery) -> bool:
    """Whether its worker has said that there was no answer."""
    number = case.number_of(delivery)
    said = [event.message for event in case.events if event.delivery_count == number]
    said += [case.task.why_failed] if case.task.delivery_count == number else []
    return any(text.startswith(NOT_HEARD) for text in said)


def _was_lost(case: Case, delivery: Delivery) -> bool:
    """Whether its worker had lost the task when the answer came, or the task had gone on."""
    number = case.number_of(delivery)
    return any(
        event.delivery_count == number and event.event in ("LOST", "SETTLE_REFUSED")
        for event in case.events
    )


def _was_spared(case: Case, delivery: Delivery) -> bool:
    """Whether it was deferred, which an open breaker does with a probe that fails."""
    number = case.number_of(delivery)
    return any(e.delivery_count == number and e.event == "DEFERRED" for e in case.events)


def spared(terms: Terms, case: Case) -> list[Delivery]:
    """What should be counted, was heard, as far as it was answered, and was deferred."""
    counted = [d for d in case.deliveries if is_counted(terms, d) and d not in unheard(case)]
    return [delivery for delivery in counted if _was_spared(case, delivery)]


def unheard(case: Case) -> list[Delivery]:
    """What was answered, and the worker says that it was not."""
    answered = [d for d in case.deliveries if d.written is not None and d.reply != Reply.UNSAID]
    return [delivery for delivery in answered if _was_missed(case, delivery)]


# The clauses


def every_task_ends_once(_: Terms, case: Case) -> Iterator[str]:
    if len(case.tasks) != 1:
        yield f"is there {len(case.tasks)} times"
    elif case.task.status not in ("SUCCESS", "FAILED"):
        yield f"is {case.task.status} in the end"
    elif [end.status for end in case.ends] != [case.task.status]:
        yield f"is {case.task.status}, and ended {[end.status for end in case.ends]}"


def every_task_is_delivered(_: Terms, case: Case) -> Iterator[str]:
    if not case.deliveries:
        yield "was never delivered"


def every_delivery_was_claimed(_: Terms, case: Case) -> Iterator[str]:
    """What was pushed was claimed, once for each push, and the claims are counted."""
    claimed = {(claim.sequence, claim.attempt) for claim in case.claims}
    pushes: Counter[int] = Counter()
    for delivery in case.deliveries:
        if (delivery.sequence, delivery.attempt) not in claimed:
            yield f"was delivered with sequence {delivery.sequence}, which nobody claimed"
        # What the answer to a batch does not say is asked again, singly.
        if delivery.reply != Reply.UNSAID:
            pushes[delivery.sequence] += 1
    for sequence, count in pushes.items():
        if count > 1:
            yield f"was pushed {count} times with sequence {sequence}"
    numbers = [claim.delivery_count for claim in case.claims]
    if numbers != list(range(1, case.task.delivery_count + 1)):
        yield f"counts {case.task.delivery_count} deliveries, and its claims are {numbers}"


def what_a_batch_does_not_say_is_asked_alone(_: Terms, case: Case) -> Iterator[str]:
    alone = {delivery.sequence for delivery in case.deliveries if not delivery.in_batch}
    given_back = {e.delivery_count for e in case.events if e.event in ("RELEASED", "LOST")}
    for delivery in case.deliveries:
        is_unsaid = delivery.reply == Reply.UNSAID and delivery.sequence not in alone
        is_over = case.number_of(delivery) in given_back or _was_missed(case, delivery)
        if is_unsaid and not is_over and not _was_ended_by_an_earlier_attempt(case, delivery):
            yield f"was not mentioned in a batch, and not asked alone with {delivery.sequence}"


def _was_ended_by_an_earlier_attempt(case: Case, delivery: Delivery) -> bool:
    """
    Its late report came after the delivery, and was taken.

    A worker that slept until then gives back what is over, which leaves no event.
    """
    return any(
        report.code == 200
        and report.status != "RUNNING"
        and report.attempt is not None
        and report.attempt < delivery.attempt
        and (report.answered or 0.0) >= delivery.arrived
        for report in case.reports
    )


def nothing_is_claimed_after_the_end(_: Terms, case: Case) -> Iterator[str]:
    for end in case.ends:
        for delivery in case.deliveries:
            if delivery.sequence > end.sequence:
                yield f"was claimed after its end, and delivered with {delivery.sequence}"
        for claim in case.claims:
            if claim.sequence > end.sequence:
                yield f"was claimed after its end, as delivery {claim.delivery_count}"


def the_budget_is_kept(terms: Terms, case: Case) -> Iterator[str]:
    task = case.task
    retries = [event for event in case.events if event.event == "RETRY"]
    if task.retry_count > task.max_retries:
        yield f"was retried {task.retry_count} times of {task.max_retries}"
    if len(retries) != task.retry_count:
        yield f"says {task.retry_count} retries, and its events say {len(retries)}"
    attempts = {delivery.attempt for delivery in case.deliveries}
    if len(attempts) > 1 + task.max_retries:
        yield f"was delivered in {len(attempts)} attempts"
    if (failures := _failures(terms, case)) > 1 + task.max_retries:
        yield f"has failed {failures} times, and may {1 + task.max_retries} times"


def _failures(terms: Terms, case: Case) -> int:
    """How often it has failed, by the ledger: what was counted, and came before its end."""
    end = min((end.at for end in case.ends), default=math.inf)
    # Whoever reports after the end what it ended with is answered as if it had been the first.
    ended = {
        r.attempt for r in case.reports if r.status == "FAILED" and r.code == 200 and r.sent <= end
    }
    again = 0
    for delivery in case.deliveries:
        if not is_counted(terms, delivery) or not was_heard(case, delivery):
            continue
        if _was_spared(case, delivery):
            continue
        if delivery.reply != Reply.ERROR or terms.completion == "response":
            ended.add(delivery.attempt)
        elif not _met_the_end(case, delivery):
            again += 1
    return len(ended) + again


def _met_the_end(case: Case, delivery: Delivery) -> bool:
    """Whether it was under way when the task ended by something else, or may have been."""
    is_last = case.number_of(delivery) == case.task.delivery_count
    return is_last and not case.task.why_failed.startswith("HTTP 500")


def equal_keys_are_equal_executions(_: Terms, case: Case) -> Iterator[str]:
    for delivery in case.deliveries:
        if delivery.key != f"{case.task_id}:{delivery.attempt}":
            yield f"was delivered with the key {delivery.key} in attempt {delivery.attempt}"
        if not 1 <= delivery.attempt <= case.task.attempt:
            yield f"was delivered in attempt {delivery.attempt} of {case.task.attempt}"
    if len({delivery.number for delivery in case.deliveries}) > 1:
        yield "was delivered with different input_params"
    attempts = [delivery.attempt for delivery in case.deliveries]
    if attempts != sorted(attempts):
        yield f"went back from one attempt to an earlier one: {attempts}"


def a_new_key_is_a_new_execution(terms: Terms, case: Case) -> Iterator[str]:
    """What was deferred, lost, or may have been accepted keeps its key."""
    begun = [
        event
        for event in case.events
        if event.event == "RETRY"
        and not (terms.completion == "callback" and event.message.startswith("HTTP 500"))
    ]
    if case.task.attempt != 1 + len(begun):
        yield f"is in attempt {case.task.attempt}, and {1 + len(begun)} executions were begun"


def what_failed_is_not_run_again_with_its_key(terms: Terms, case: Case) -> Iterator[str]:
    over: dict[int, float] = {}
    for report in case.reports:
        if report.status == "FAILED" and report.code == 200 and report.attempt is not None:
            over.setdefault(report.attempt, report.answered)
    for delivery in case.deliveries:
        is_over = delivery.reply == Reply.FAILED or terms.completion == "response"
        is_excused = _was_lost(case, delivery) or _was_spared(case, delivery)
        if is_over and is_counted(terms, delivery) and not is_excused:
            over.setdefault(delivery.attempt, delivery.arrived + terms.settled)
    for claim in case.claims:
        if claim.at > over.get(claim.attempt, claim.at):
            yield f"has failed in attempt {claim.attempt}, which is claimed again"


def a_success_is_never_lost(terms: Terms, case: Case) -> Iterator[str]:
    for report in case.reports:
        if report.status == "SUCCESS":
            yield from _about_reported_success(case, report)
    for delivery in case.deliveries:
        if is_success(terms, delivery) and was_heard(case, delivery):
            assert delivery.written is not None
            by = delivery.written + terms.settled
            if case.task.status != "SUCCESS" and not _was_over(case, delivery.attempt, by):
                yield f"was answered {delivery.reply}, and is {case.task.status}"
            if any(claim.at > by for claim in case.claims) and not _was_over(
                case, delivery.attempt, by
            ):
                yield f"was answered {delivery.reply}, and claimed again"


def _about_reported_success(case: Case, report: Report) -> Iterator[str]:
    said = f"SUCCESS of attempt {report.attempt}"
    attempt = case.task.attempt if report.attempt is None else report.attempt
    if report.code == 200:
        yield from _about_taken_success(case, report, attempt)
    elif report.code == 409:
        if not _was_over(case, attempt, report.answered):
            yield f"refused {said}, which was not over"
    elif report.code == 422:
        if any(c.attempt >= attempt and c.at < report.sent for c in case.claims):
            yield f"refused {said}, as if it had never been pushed"
    elif report.code != 0:
        yield f"answered {report.code} to {said}"


def _about_taken_success(case: Case, report: Report, attempt: int) -> Iterator[str]:
    said = f"SUCCESS of attempt {report.attempt}"
    if case.task.status != "SUCCESS" or report.result != "SUCCESS":
        yield f"took {said}, and is {case.task.status}"
    if not _counts(case, attempt):
        yield f"took {said}, which does not count"
    if any(claim.at > report.answered for claim in case.claims):
        yield f"took {said}, and was claimed again"


def _counts(case: Case, attempt: int) -> bool:
    """Whether a SUCCESS of this attempt can be that of the task."""
    lapsed = case.task.lapsed_attempt
    return attempt == case.task.attempt or (
        lapsed is not None and lapsed <= attempt <= case.task.attempt
    )


def _was_over(case: Case, attempt: int, by: float) -> bool:
    """Whether until then the task had failed, or the attempt had, and not by silence."""
    if any(end.status != "SUCCESS" and end.at <= by for end in case.ends):
        return True
    return not _counts(case, attempt) and any(
        event.event == "RETRY" and (event.attempt or 0) > attempt and event.at <= by
        for event in case.events
    )


def a_success_has_a_reason(terms: Terms, case: Case) -> Iterator[str]:
    if case.task.status != "SUCCESS":
        return
    # A late answer finds nobody, or a worker that slept and hears it when it wakes up.
    answered = (
        d.attempt
        for d in case.deliveries
        if is_success(terms, d) or (d.reply == Reply.LATE and d.written is not None)
    )
    reported = (
        case.task.attempt if r.attempt is None else r.attempt
        for r in case.reports
        if r.status == "SUCCESS" and r.code in (0, 200)
    )
    if not any(_counts(case, attempt) for attempt in (*answered, *reported)):
        yield "is SUCCESS, and nobody said so of an attempt that counts"


def a_failure_has_a_reason(terms: Terms, case: Case) -> Iterator[str]:
    task = case.task
    if task.status != "FAILED":
        return
    reason = task.why_failed
    if reason.startswith("HTTP 400"):
        if not any(
            d.reply == Reply.REFUSED and d.written and d.attempt == task.attempt
            for d in case.deliveries
        ):
            yield "is refused, and the receiver did not refuse it"
    elif task.retry_count < task.max_retries:
        yield f"is FAILED with {task.max_retries - task.retry_count} retries left: {reason}"
    else:
        at = case.ends[0].at
        yield from _about_failure(terms, case, reason, task.attempt, task.delivery_count, at)


def a_retry_has_a_reason(terms: Terms, case: Case) -> Iterator[str]:
    attempt = 1
    for event in case.events:
        if event.event != "RETRY":
            continue
        number = event.delivery_count or 0
        yield from _about_failure(terms, case, event.message, attempt, number, event.at)
        attempt = event.attempt or 0


def _about_failure(
    terms: Terms, case: Case, reason: str, attempt: int, number: int, at: float
) -> Iterator[str]:
    """About a counted failure of an attempt, after so many deliveries."""
    mine = [d for d in case.deliveries if d.attempt == attempt]
    what = f"attempt {attempt} has failed: {reason}"
    if reason.startswith("no report until"):
        if not any(sign + terms.silence <= at for sign in _signs(terms, case, attempt)):
            yield f"{what}, and it was not silent for so long"
    elif reason.startswith(NOT_HEARD):
        singly = [d for d in mine if case.number_of(d) == number and not d.in_batch]
        if terms.completion != "response" or not singly:
            yield f"{what}, which is no failure"
    elif not (_was_reported(case, reason, attempt) or _was_answered(case, reason, mine, number)):
        yield f"{what}, and the receiver did not say so"


def _was_reported(case: Case, reason: str, attempt: int) -> bool:
    return reason == "reported FAILED" and any(
        report.status == "FAILED" and report.code in (0, 200) and report.attempt == attempt
        for report in case.reports
    )


def _was_answered(case: Case, reason: str, mine: list[Delivery], number: int) -> bool:
    reply = next((reply for text, reply in ANSWERED.items() if reason.startswith(text)), None)
    # A 500 is settled, and about that very delivery; a result is good for its attempt.
    return any(
        delivery.reply == reply
        and delivery.written is not None
        and (reply is not Reply.ERROR or case.number_of(delivery) == number)
        for delivery in mine
    )


def _signs(terms: Terms, case: Case, attempt: int) -> Iterator[float]:
    """When the deadline of an attempt began to run, or began anew."""
    for delivery in case.deliveries:
        if delivery.attempt == attempt and is_accepted(terms, delivery):
            assert delivery.written is not None
            yield delivery.written
    for report in case.reports:
        # One whose answer got lost may have been taken.
        if report.status == "RUNNING" and report.code in (0, 200) and report.attempt == attempt:
            yield report.sent


CLAUSES: Sequence[Clause] = (
    every_task_is_delivered,
    every_delivery_was_claimed,
    what_a_batch_does_not_say_is_asked_alone,
    nothing_is_claimed_after_the_end,
    the_budget_is_kept,
    equal_keys_are_equal_executions,
    a_new_key_is_a_new_execution,
    what_failed_is_not_run_again_with_its_key,
    a_success_is_never_lost,
    a_success_has_a_reason,
    a_failure_has_a_reason,
    a_retry_has_a_reason,
)


def violations(terms: Terms, cases: Sequence[Case]) -> Iterator[str]:
    """All that is wrong."""
    for case in cases:
        wrong = list(every_task_ends_once(terms, case))
        if not wrong:
            wrong = [text for clause in CLAUSES for text in clause(terms, case)]
        yield from (f"task {case.task_id} {text}" for text in wrong)
