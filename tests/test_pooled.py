"""The lists of what does not go through a pooler name tests that there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pooled import DIRECT, LEFT_OUT


@pytest.mark.parametrize("beginning", [*DIRECT, *LEFT_OUT])
def test_what_is_listed_exists(beginning: str) -> None:
    name, _, test = beginning.partition("::")
    source = (Path(__file__).parents[1] / name).read_text(encoding="utf-8")

    assert f"def {test or 'test_'}" in source
