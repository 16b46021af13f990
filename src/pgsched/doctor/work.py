"""The work: what the view `health` says, and whether external systems can be reached."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from urllib.parse import urlsplit

from pgsched import reading
from pgsched.db import Session
from pgsched.diagnosis import work
from pgsched.diagnosis.work import System
from pgsched.doctor.findings import Finding, plural

# Seconds for one system to take a connection.
PATIENCE = 3.0
# Rows of the view that have a closer look of their own here.
ELSEWHERE = {"workers", "schedules", "partitions"}


async def signs(session: Session) -> list[Finding]:
    """Queues, breakers, due tasks, deadlines, failures and the outbox."""
    return [
        Finding(row["name"], row["status"], row["seen"], row["advice"] or "")
        for row in await reading.list_rows(session, "health")
        if row["name"] not in ELSEWHERE
    ]


async def external_systems(session: Session, *, url: str | None) -> Finding:
    """
    Each takes a connection from this machine; nothing is sent.

    *url* is that of the setting, for systems without one of their own.
    """
    systems = await work.systems(session)
    found = await asyncio.gather(*(_trouble(system, url) for system in systems))
    wrong = [problem for problem in found if problem]
    if not wrong:
        return Finding("external systems", "ok", f"{plural(len(systems), 'system')} can be reached")
    advice = (
        "From here: the workers may run elsewhere. An address is set by pgsched systems set NAME"
        " --base-url URL, or by PGSCHED_EXTERNAL_SYSTEM_URL for those without."
    )
    return Finding("external systems", "warning", "; ".join(wrong), advice)


async def _trouble(system: System, default_url: str | None) -> str:
    url = system.base_url or default_url
    if url is None:
        return f"{system.name} has no address"
    try:
        parts = urlsplit(url)
        is_tls = parts.scheme == "https"
        port = parts.port or (443 if is_tls else 80)
        async with asyncio.timeout(PATIENCE):
            context = ssl.create_default_context() if is_tls else None
            _, writer = await asyncio.open_connection(parts.hostname, port, ssl=context)
    except TimeoutError:
        return f"{system.name} ({url}) takes no connection within {PATIENCE:g} s"
    except (OSError, ValueError) as exc:  # of the address, the port, or the certificate
        return f"{system.name} ({url}): {' '.join(str(exc).split())}"
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(PATIENCE):
            await writer.wait_closed()
    return ""
