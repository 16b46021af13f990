"""
What a run is asked to do beyond the ordinary, by variables of the environment.

Each is a whole number.  They are read before anything is run, so that a slip is
told at once, and not as one failed test among thousands.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

import pytest

PREFIX = "PGSCHED_TEST_"
# The name of the server of a run, which the run itself sets.
ROOT = f"{PREFIX}ROOT"
# No bound.
ANY = 2**31 - 1


class Wish(NamedTuple):
    """What is tried when nothing is said, and what may be said."""

    default: int
    least: int
    most: int = ANY


WISHES = {
    "PGSCHED_TEST_CHAOS_SEED": Wish(1, 0),
    "PGSCHED_TEST_CHAOS_TASKS": Wish(12_000, 1000),
    "PGSCHED_TEST_CHRONOS_SEEDS": Wish(1, 1),
    "PGSCHED_TEST_DELIVERY_SEED": Wish(1, 0),
    "PGSCHED_TEST_DELIVERY_TASKS": Wish(1500, 1500),  # with fewer, what is rare does not happen
    "PGSCHED_TEST_FUZZ_EXAMPLES": Wish(5, 1),
    "PGSCHED_TEST_MODEL_EXAMPLES": Wish(50, 1),
    "PGSCHED_TEST_NODE_RED": Wish(0, 0, 1),
    "PGSCHED_TEST_PGBOUNCER": Wish(0, 0, 1),
}


def asked(name: str) -> int:
    """What the variable says, or its default."""
    return read(name, os.environ)


def default(name: str) -> int:
    """What holds when the variable is not set."""
    return WISHES[name].default


def check(environ: Mapping[str, str]) -> None:
    """
    Read everything that is asked.

    Raises:
        pytest.UsageError: a variable is unknown, no whole number, or out of its range.
    """
    for name in environ:
        if name.startswith(PREFIX) and name != ROOT:
            read(name, environ)


def read(name: str, environ: Mapping[str, str]) -> int:
    if name not in WISHES:
        raise pytest.UsageError(f"{name} is not known; known are {', '.join(WISHES)}")
    wish = WISHES[name]
    text = environ.get(name, str(wish.default))
    if not text.isdecimal() or not wish.least <= int(text) <= wish.most:
        bounds = f"from {wish.least}" + (f" to {wish.most}" if wish.most < ANY else "")
        raise pytest.UsageError(f"{name} must be a whole number {bounds}, not {text!r}")
    return int(text)
