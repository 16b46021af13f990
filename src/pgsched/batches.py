"""
What the answer to a batch says about each of its tasks.

A 2xx may be empty, and then holds for every task, or a JSON array with an
object for each: its `task_id`, the `code` that the push of it alone would have
been answered with (else the status of the whole), `retry_after` in seconds,
and what the body of such an answer may say.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import orjson

from pgsched.answers import Answer, Reply, is_deferral
from pgsched.decoding import excerpt, without_nul_escapes

# There is nobody who takes batches, but perhaps one who takes single pushes.
NO_BATCHES = frozenset({404, 405, 415})


class BatchAnswer(NamedTuple):
    """
    How the push of several tasks went.

    For each that was sent, in their order: its own answer, or the whole one,
    which defers them all, or None: it is to be pushed alone.
    """

    whole: Answer
    parts: list[Answer | None]


def answers_of(whole: Answer, task_ids: Sequence[str]) -> BatchAnswer:
    """What *whole*, the answer to a batch of these tasks, means for each."""
    if whole.status_code in NO_BATCHES or not (is_deferral(whole) or _is_success(whole)):
        return BatchAnswer(whole, [None] * len(task_ids))
    if is_deferral(whole):
        return BatchAnswer(whole, [whole] * len(task_ids))
    if not whole.raw.strip():
        each = whole._replace(body=None)
        return BatchAnswer(whole, [each] * len(task_ids))
    results = _results(whole.raw)
    return BatchAnswer(whole, [_part(whole, results.get(task_id)) for task_id in task_ids])


def _is_success(whole: Answer) -> bool:
    return whole.reply is Reply.ANSWERED and whole.status_code in range(200, 300)


def _results(raw: bytes) -> dict[str, dict[str, Any]]:
    try:
        results = orjson.loads(without_nul_escapes(raw))
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(results, list):
        return {}
    return {str(r["task_id"]).lower(): r for r in results if isinstance(r, dict) and "task_id" in r}


def _part(whole: Answer, result: dict[str, Any] | None) -> Answer | None:
    """The answer to one task; None if the result says nothing that could be understood."""
    if result is None:
        return None
    code = result.get("code", whole.status_code)
    if not isinstance(code, int) or isinstance(code, bool) or not 200 <= code <= 599:
        return None
    wait = result.get("retry_after")
    is_wait = isinstance(wait, int | float) and not isinstance(wait, bool) and 0 <= wait < 1e9
    return Answer(
        Reply.ANSWERED,
        code,
        result,
        timedelta(seconds=wait) if is_wait else None,  # type: ignore[arg-type]
        "" if code < 300 else excerpt(str(result.get("error_msg") or "")),
        whole.elapsed,
    )
