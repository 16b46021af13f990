"""What Postgres stores of text and JSON, and what it does not."""

from __future__ import annotations

import math
from typing import Any


def storable(value: Any) -> Any:
    """*value*, or a ValueError when Postgres stores none such."""
    match value:
        case str() if "\0" in value:
            raise ValueError("must not hold the character NUL, of which Postgres stores none")
        case float() if not math.isfinite(value):
            raise ValueError(f"must not hold {value}, which is not JSON")
        case dict():
            for key, item in value.items():
                storable(key)
                storable(item)
        case list():
            for item in value:
                storable(item)
    return value


def without_nul(value: Any) -> Any:
    """*value* without the NUL characters in its texts: Postgres stores none."""
    match value:
        case str():
            return value.replace("\0", "")
        case list():
            return [without_nul(item) for item in value]
        case dict():
            return {without_nul(key): without_nul(item) for key, item in value.items()}
        case _:
            return value
