"""What the doctor asks about the work: the view `health`, and where tasks go."""

from __future__ import annotations

from typing import NamedTuple

from pgsched.db import Session
from pgsched.diagnosis.asking import rows


class Sign(NamedTuple):
    """One row of the view `health`."""

    name: str
    status: str
    seen: str
    advice: str | None


class System(NamedTuple):
    """An external system that tasks go to, and its queues."""

    name: str
    base_url: str | None
    queues: list[str]


async def health(session: Session) -> list[Sign]:
    """The view, in its order."""
    query = "select name, status, seen, advice from pgsched.health"
    return [Sign._make(row) for row in await rows(session, query)]


async def systems(session: Session) -> list[System]:
    """External systems that a queue leads to."""
    query = """
        select s.name, s.base_url, array_agg(q.name order by q.name)
        from pgsched.external_systems as s
        join pgsched.queues as q
          on q.external_system = s.name
        group by s.name, s.base_url
        order by s.name
    """
    return [System._make(row) for row in await rows(session, query)]
