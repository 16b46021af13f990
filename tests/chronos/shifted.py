"""
Run `pgsched` in a process whose clocks are wrong: `python shifted.py SECONDS worker`.

All of them are shifted before pgsched is imported: what it takes from a clock
other than that of the database is another hour.
"""

from __future__ import annotations

import datetime as dt
import runpy
import sys
import time
from collections.abc import Callable
from typing import Any

from pydantic_core import core_schema

REAL = dt.datetime
SECOND = dt.timedelta(seconds=1)


class AnyDatetime(type):
    """Instances are plain datetimes, also those that libraries in C make."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, REAL)


def shift(seconds: float) -> None:
    """Have all clocks of this process go wrong by so many seconds."""
    for name in ("time", "monotonic"):
        setattr(time, name, _later(getattr(time, name), seconds))
        nanoseconds = getattr(time, f"{name}_ns")
        setattr(time, f"{name}_ns", _later(nanoseconds, int(seconds * 1e9)))
    dt.datetime = _wrong(seconds * SECOND)  # type: ignore[misc]


def _later(clock: Callable[[], Any], by: float) -> Callable[[], Any]:
    return lambda: clock() + by


def _wrong(by: dt.timedelta) -> Any:
    class Wrong(REAL, metaclass=AnyDatetime):
        def __new__(cls, *given: Any, **named: Any) -> Any:
            return REAL(*given, **named)

        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            return REAL.now(tz) + by

        @classmethod
        def utcnow(cls) -> Any:
            return REAL.now(dt.UTC).replace(tzinfo=None) + by

        @classmethod
        def __get_pydantic_core_schema__(cls, *_: object) -> core_schema.CoreSchema:
            return core_schema.datetime_schema()

    for name in ("combine", "fromtimestamp", "fromisoformat", "fromordinal", "strptime"):
        setattr(Wrong, name, staticmethod(getattr(REAL, name)))
    return Wrong


if __name__ == "__main__":
    shift(float(sys.argv[1]))
    sys.argv[1:] = sys.argv[2:]
    runpy.run_module("pgsched", run_name="__main__", alter_sys=True)
