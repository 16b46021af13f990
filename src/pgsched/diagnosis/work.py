"""What the doctor asks about the work: where tasks go."""

from __future__ import annotations

from typing import NamedTuple

from pgsched.db import Session
from pgsched.diagnosis.asking import rows


class System(NamedTuple):
    """An external system that tasks go to."""

    name: str
    base_url: str | None


async def systems(session: Session) -> list[System]:
    """External systems that a queue leads to."""
    query = """
        select s.name, s.base_url
        from pgsched.external_systems as s
        where exists (select from pgsched.queues as q where q.external_system = s.name)
        order by s.name
    """
    return [System._make(row) for row in await rows(session, query)]
