"""
A worker that is killed at one point on the way of a task.

`python -m tests.chaos.dying POINT` is `pgsched worker`, but that its process
gets a SIGKILL the first time it comes to POINT: no handler runs, nothing is
flushed, and the kernel closes its connections.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from pgsched.cli import main
from pgsched.database import Database
from pgsched.http1 import Connection
from pgsched.observer import ObservedDatabase
from pgsched.settler import Settler
from pgsched.transport import Http1Transport

# For what was written to a socket to be on its way, in seconds.
ON_ITS_WAY = 0.2

Call = Callable[..., Any]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(call: Call) -> Call:
    """*call*, which is never made."""

    @functools.wraps(call)
    def dying(*_: Any, **__: Any) -> None:
        die()

    return dying


def after(call: Callable[..., Awaitable[Any]]) -> Call:
    """*call*, whose answer nobody gets."""

    @functools.wraps(call)
    async def dying(*given: Any, **named: Any) -> Any:
        found = await call(*given, **named)
        if found is None or not isinstance(found, tuple) or found[1]:  # a claim that found tasks
            die()
        return found

    return dying


def soon_after(call: Call) -> Call:
    @functools.wraps(call)
    def dying(*given: Any) -> None:
        call(*given)
        asyncio.get_running_loop().call_later(ON_ITS_WAY, die)

    return dying


# Where, and in which way it dies there.  Claims, settles and reports of the worker go through
# the functions of Database; those of ObservedDatabase call them.
POINTS: dict[str, tuple[type, str, Callable[[Call], Call]]] = {
    "after the claim": (Database, "claim", after),
    "after connecting": (Http1Transport, "_connect", after),
    "after the request": (Connection, "send", soon_after),
    "after the answer": (Settler, "settle", before),
    "before the settle": (ObservedDatabase, "settle", before),
    "after the settle": (Database, "settle", after),
    "before the report": (ObservedDatabase, "report", before),
    "after the report": (Database, "report", after),
}


def arm(point: str) -> None:
    owner, name, how = POINTS[point]
    setattr(owner, name, how(getattr(owner, name)))


if __name__ == "__main__":
    point = sys.argv.pop()
    arm(point)
    sys.argv = ["pgsched", "worker"]
    main()
