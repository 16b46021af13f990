"""The doctor on the work: what waits, what fails, and where it should go."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path

import pytest

from pgsched.db import Connection
from pgsched.doctor import CHECKS, Finding, examine, work
from tests.doctoring import Database, by_name, db, register_worker, seeing, session
from tests.receiver import receiving
from tests.roles import as_role

__all__ = ["db", "seeing", "session"]


async def sign(session: Connection, name: str) -> Finding:
    return by_name(await work.signs(session))[name]


def shift(db: Database, by: str) -> None:
    db.execute(
        "update pgsched.scheduled_tasks set execute_after = execute_after - %s::interval,"
        " deadline_at = deadline_at - %s::interval",
        [by, by],
    )


# What the view health says


async def test_all_is_well_with_a_worker_and_nothing_to_do(
    session: Connection, db: Database
) -> None:
    register_worker(db)

    findings = await work.signs(session)

    assert {finding.status for finding in findings} == {"ok"}
    assert {finding.advice for finding in findings} == {""}


async def test_a_queue_that_nobody_serves_is_an_error(session: Connection, db: Database) -> None:
    db.execute("select pgsched.define_queue('mail')")
    db.execute("select pgsched.register_worker('host', 1, 'test', '{default}')")
    db.execute("select pgsched.schedule_immediate('job', p_queue => 'mail')")

    finding = await sign(session, "queues served")

    assert (finding.status, finding.seen) == ("error", "nobody serves mail")
    assert "PGSCHED_QUEUES" in finding.advice


async def test_a_paused_queue_with_due_tasks_is_a_warning(
    session: Connection, db: Database
) -> None:
    db.execute("select pgsched.schedule_immediate('job')")
    db.execute("select pgsched.pause_queue('default')")

    finding = await sign(session, "paused queues")

    assert (finding.status, finding.seen) == ("warning", "default (1 due)")


async def test_an_open_breaker_is_an_error(session: Connection, db: Database) -> None:
    register_worker(db)
    db.execute("select pgsched.open_breaker('default', 'HTTP 503', id) from pgsched.workers")

    finding = await sign(session, "breakers")

    assert finding.status == "error"
    assert finding.seen.startswith("default open since ")
    assert finding.seen.endswith(": HTTP 503")


async def test_tasks_that_are_due_for_long_are_a_warning(session: Connection, db: Database) -> None:
    register_worker(db)
    db.execute("select pgsched.schedule_immediate('job')")
    shift(db, "1 hour")

    finding = await sign(session, "due tasks")

    assert finding.status == "warning"
    assert finding.seen.endswith(" in default")


async def test_deadlines_that_nobody_sees_to_are_an_error(
    session: Connection, db: Database
) -> None:
    db.execute("select pgsched.schedule_immediate('job')")
    register_worker(db)
    db.execute("select pgsched.claim_due_tasks(id, 1, '{default}') from pgsched.workers")
    shift(db, "2 hours")

    finding = await sign(session, "deadlines")

    assert finding.status == "error"
    assert finding.seen.startswith("passed by 1 task, the first at ")


async def test_tasks_that_mostly_fail_are_a_warning(session: Connection, db: Database) -> None:
    db.execute("select pgsched.define_task('once', p_max_retries => 0)")
    db.execute("select pgsched.schedule_immediate('once')")
    register_worker(db)
    db.execute(
        "select pgsched.report_status(c.id, 'FAILED') from pgsched.workers as w"
        " cross join lateral pgsched.claim_due_tasks(w.id, 1, '{default}') as c"
    )

    finding = await sign(session, "failures")

    assert finding.status == "warning"
    assert finding.seen.startswith("1 of the latest 1 tasks")


async def test_messages_that_were_given_up_are_a_warning(session: Connection, db: Database) -> None:
    db.execute("select pgsched.schedule_immediate('job')")
    register_worker(db)
    db.execute("select pgsched.claim_due_tasks(id, 1, '{default}') from pgsched.workers")
    db.execute("select pgsched.cancel_task(id) from pgsched.tasks")
    db.execute("update pgsched.status_pushes set given_up_at = pgsched.now(), due_at = null")

    assert (await sign(session, "outbox")).status == "warning"


# Where tasks go


async def test_a_system_that_takes_connections_is_well(session: Connection) -> None:
    with receiving() as receiver:
        finding = await work.external_systems(session, url=receiver.url)

    assert finding == Finding("external systems", "ok", "1 system can be reached")
    assert receiver.pushes == []


async def test_a_system_that_cannot_be_reached_is_named_with_the_error(
    session: Connection, db: Database
) -> None:
    db.execute("select pgsched.define_external_system('crm', 'http://127.0.0.1:1')")
    db.execute("select pgsched.define_queue('crm', 'crm')")

    finding = await work.external_systems(session, url=None)

    assert finding.status == "warning"
    assert "crm (http://127.0.0.1:1): " in finding.seen
    assert "Connect call failed" in finding.seen
    assert "default has no address" in finding.seen


async def test_a_name_that_does_not_resolve_and_a_port_that_speaks_no_tls_are_told(
    session: Connection, db: Database
) -> None:
    with receiving() as receiver:
        url = receiver.url.replace("http:", "https:")
        db.execute("select pgsched.define_external_system('tls', %s)", [url])
        db.execute("select pgsched.define_external_system('lost', 'http://no.such.host.invalid')")
        for name in ("tls", "lost"):
            db.execute("select pgsched.define_queue(%s, %s)", [name, name])

        finding = await work.external_systems(session, url=receiver.url)

    assert re.search(r"tls \(https://\S+\): .*SSL", finding.seen)
    assert "lost (http://no.such.host.invalid): " in finding.seen


async def test_a_system_that_is_silent_is_given_up(
    session: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # TLS waits for a hello
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        finding = await work.external_systems(session, url=url)

    assert finding.seen == f"default ({url}) takes no connection within 0.2 s"


# All of it


@pytest.mark.own_database
async def test_the_page_lists_each_finding(dsn: str, db: Database) -> None:
    register_worker(db)
    db.execute("select pgsched.maintain()")
    page = Path(__file__).parents[1] / "docs/doctor.md"
    rows = re.findall(r"^\| ([a-z ]+) \|", page.read_text(encoding="utf-8"), re.MULTILINE)

    with receiving() as receiver:
        findings = await examine(dsn, external_system_url=receiver.url)

    assert sorted(rows) == sorted(finding.name for finding in findings)
    assert {finding.name for finding in findings if finding.status == "error"} == set()
    # Nothing is flushed, the worker is none, and the zone data are those of this machine.
    expected = {"settings", "listeners", "zone data", "zone names"}
    assert {f.name for f in findings if f.status not in ("ok", "unknown")} <= expected


async def test_behind_a_pooler_nobody_is_expected_to_listen(dsn: str, db: Database) -> None:
    findings = by_name(await examine(dsn, is_pooled=True))

    assert not findings.keys() & {"notifications", "listeners"}


async def test_who_may_not_look_is_told_so_and_by_whom_it_is_granted(dsn: str) -> None:
    findings = by_name(await examine(as_role(dsn, "worker")))

    assert findings["workers"].status == "unknown"
    assert findings["workers"].seen.startswith("may not look: permission denied")
    assert "pgsched_operator" in findings["workers"].advice
    assert findings["transaction ids"].status == "ok"
    assert len(findings) > len(CHECKS) - 8


async def test_a_reader_sees_what_an_operator_sees(dsn: str) -> None:
    def seen(findings: list[Finding]) -> dict[str, str]:
        return {f.name: f.status for f in findings}

    reader, operator = await asyncio.gather(
        *(examine(as_role(dsn, role)) for role in ("reader", "operator"))
    )
    assert seen(reader) == seen(operator)
