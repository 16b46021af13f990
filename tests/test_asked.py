"""What a run is asked by the environment is read before it runs, or it does not."""

from __future__ import annotations

import pytest

from tests.asked import WISHES, check


def test_what_is_asked_in_the_right_way() -> None:
    check({"PATH": "/bin", "PGSCHED_TEST_ROOT": "/tmp/x", "PGSCHED_DSN": "dbname=x"})
    check({name: str(wish.least) for name, wish in WISHES.items()})
    check({name: str(wish.default) for name, wish in WISHES.items()})


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("CHAOS_TASKS", "abc", "must be a whole number from 1000, not 'abc'"),
        ("CHAOS_TASKS", "999", "must be a whole number from 1000, not '999'"),
        ("CHAOS_SEED", "-1", "must be a whole number from 0, not '-1'"),
        ("PGBOUNCER", "yes", "must be a whole number from 0 to 1, not 'yes'"),
        ("NODE_RED", "", "must be a whole number from 0 to 1, not ''"),
        ("CHAO_TASKS", "3000", "is not known; known are PGSCHED_TEST_CHAOS_SEED, "),
    ],
)
def test_what_is_asked_in_the_wrong_way(name: str, text: str, complaint: str) -> None:
    with pytest.raises(pytest.UsageError, match=f"^PGSCHED_TEST_{name} {complaint}"):
        check({f"PGSCHED_TEST_{name}": text})
