"""Real worker processes: killed, stopped, asked to end, and started without a database."""

from __future__ import annotations

import base64
import signal
import socket
from typing import Any

import psycopg
from standardwebhooks import Webhook

from pgsched.signing import attempt_of
from tests.receiver import Receiver
from tests.sessions import cut_sessions
from tests.waiting import eventually
from tests.working import Connection, StartWorker, schedule, statuses


def test_nothing_is_lost_when_a_worker_is_killed_with_200_in_flight(
    db: Connection, receiver: Receiver, start_worker: StartWorker
) -> None:
    tasks = schedule(db, 200)
    receiver.holds = lambda push: True
    victim = start_worker()
    receiver.wait_for(200)

    victim.process.kill()
    victim.process.wait()
    receiver.holds = lambda push: False
    heir = start_worker()

    eventually(lambda: statuses(db) == {"DISPATCHED": 200})
    assert {push.task_id for push in receiver.pushes} == set(tasks)
    deliveries = [receiver.of(task) for task in tasks]
    assert all(len(pushes) == 2 for pushes in deliveries)
    assert all(a.headers["Idempotency-Key"] == b.headers["Idempotency-Key"] for a, b in deliveries)
    heir.signal(signal.SIGTERM)
    assert heir.process.wait(20) == 0


def test_a_worker_stopped_past_its_lease_cannot_settle_what_another_took(
    db: Connection, receiver: Receiver, start_worker: StartWorker
) -> None:
    [task] = schedule(db, 1)
    receiver.holds = lambda push: True
    sleeper = start_worker()
    receiver.wait_for(1)
    sleeper.signal(signal.SIGSTOP)
    start_worker()
    first, second = receiver.wait_for(2)

    first.answer(503)
    sleeper.signal(signal.SIGCONT)

    def refused() -> bool:
        query = "select count(*) = 1 from pgsched.task_events where event = 'SETTLE_REFUSED'"
        return db.execute(query).fetchone() == (True,)

    eventually(refused)
    assert statuses(db) == {"SCHEDULED": 1}
    second.answer(202)
    eventually(lambda: statuses(db) == {"DISPATCHED": 1})
    assert second.task_id == task


def test_a_result_that_a_stopped_worker_brings_still_counts(
    db: Connection, receiver: Receiver, start_worker: StartWorker
) -> None:
    schedule(db, 1)
    receiver.holds = lambda push: True
    sleeper = start_worker()
    receiver.wait_for(1)
    sleeper.signal(signal.SIGSTOP)
    start_worker()
    first, second = receiver.wait_for(2)

    first.answer(200, status="SUCCESS", output_ref="s3://there")
    sleeper.signal(signal.SIGCONT)

    eventually(lambda: statuses(db) == {"SUCCESS": 1})
    second.answer(202)
    assert db.execute("select output_ref from pgsched.tasks").fetchone() == ("s3://there",)


def test_sigterm_lets_pushes_end_and_gives_back_the_rest(
    db: Connection, receiver: Receiver, start_worker: StartWorker
) -> None:
    schedule(db, 10)
    receiver.holds = lambda push: True
    worker = start_worker(PGSCHED_PUSH_SLOTS="4")
    pushes = receiver.wait_for(4)
    eventually(lambda: statuses(db).get("SCHEDULED", 0) >= 8)

    worker.signal(signal.SIGTERM)
    eventually(lambda: "stopping" in worker.log)
    for push in pushes:
        push.answer(202)

    assert worker.process.wait(20) == 0
    assert statuses(db) == {"DISPATCHED": 4, "PENDING": 6}
    assert db.execute("select count(*) from pgsched.workers").fetchone() == (0,)


def test_an_unreachable_system_defers_and_says_so(
    db: Connection, receiver: Receiver, start_worker: StartWorker
) -> None:
    schedule(db, 1)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        start_worker(PGSCHED_EXTERNAL_SYSTEM_URL=url)
        query = "select message from pgsched.task_events where event = 'DEFERRED'"
        eventually(lambda: db.execute(query).fetchone())
        assert "could not be reached" in str(db.execute(query).fetchone())
    row = db.execute("select retry_count, attempt from pgsched.tasks").fetchone()
    assert row == (0, 1)


def test_a_push_is_signed_and_its_token_reports(
    dsn: str, db: Connection, receiver: Receiver, start_worker: StartWorker
) -> None:
    secret = "whsec_" + base64.b64encode(b"of the system" * 2).decode()
    callbacks = base64.b64encode(b"for callbacks" * 2).decode()
    db.execute(
        "select pgsched.define_external_system('crm', %s, p_signing_secret_env => 'CRM_SECRETS')",
        [receiver.url],
    )
    db.execute("select pgsched.define_queue('default', 'crm')")
    start_worker(CRM_SECRETS=secret, PGSCHED_CALLBACK_SECRET=callbacks)
    [task_id] = schedule(db, 1)

    [push] = receiver.wait_for(1)

    Webhook(secret).verify(push.raw, push.headers)
    token = push.body["callback_token"]
    assert attempt_of(token, [base64.b64decode(callbacks)], task_id) == 1


def test_what_cannot_be_signed_is_not_pushed(
    dsn: str, db: Connection, receiver: Receiver, start_worker: StartWorker
) -> None:
    db.execute(
        "select pgsched.define_external_system('crm', %s, p_signing_secret_env => 'CRM_SECRETS')",
        [receiver.url],
    )
    db.execute("select pgsched.define_queue('crm', 'crm')")
    worker = start_worker(CRM_SECRETS="swordfish")
    db.execute("select pgsched.schedule_immediate('job', p_queue => 'crm')")
    reason = (
        'queue is not served queue=crm error="CRM_SECRETS, the signing_secret_env of external'
        " system crm"
    )
    eventually(lambda: reason in worker.log)
    assert "swordfish" not in worker.log
    assert statuses(db) == {"PENDING": 1}

    db.execute("select pgsched.define_external_system('crm', %s)", [receiver.url])

    receiver.wait_for(1)
    assert worker.log.count(reason) == 1


def test_a_worker_waits_for_its_database(
    receiver: Receiver, start_worker: StartWorker, db: Connection
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"postgresql://nobody:secret@127.0.0.1:{unused.getsockname()[1]}/none"
        worker = start_worker(PGSCHED_DATABASE_URL=address)
        eventually(lambda: worker.log.count("database cannot be reached yet") >= 2)
    assert "secret" not in worker.log
    worker.signal(signal.SIGTERM)
    assert worker.process.wait(20) == 0


def test_a_database_without_the_schema_is_an_error_that_says_what_to_do(
    pg_server: Any, start_worker: StartWorker
) -> None:
    dsn = f"host={pg_server.host} port={pg_server.port} user={pg_server.user} dbname=postgres"
    worker = start_worker(PGSCHED_DATABASE_URL=dsn)

    assert worker.process.wait(20) == 1
    assert "run `pgsched migrate`" in worker.log


def test_a_database_that_refuses_us_is_an_error_and_no_outage(
    pg_server: Any, start_worker: StartWorker
) -> None:
    dsn = f"host={pg_server.host} port={pg_server.port} user={pg_server.user} dbname=not_there"
    worker = start_worker(PGSCHED_DATABASE_URL=dsn)

    assert worker.process.wait(20) == 1
    assert "PGSCHED_DATABASE_URL: connection failed" in worker.log
    assert 'database "not_there" does not exist' in worker.log


def test_a_worker_whose_heartbeat_hangs_claims_nothing_and_recovers(
    db: Connection, dsn: str, receiver: Receiver, start_worker: StartWorker
) -> None:
    worker = start_worker()
    worker.wait_until_ready()
    with psycopg.connect(dsn) as stranger:
        stranger.execute("select from pgsched.workers for update")
        eventually(lambda: "nothing is claimed" in worker.log)
        [task] = schedule(db, 1)
        eventually(lambda: worker.log.count("heartbeat") >= 1)
        query = "select delivery_count from pgsched.tasks where id = %s"
        assert db.execute(query, [task]).fetchone() == (0,)

    eventually(lambda: statuses(db) == {"DISPATCHED": 1})
    assert db.execute(query, [task]).fetchone() == (1,)


def test_an_outage_of_the_database_is_waited_out(
    db: Connection, receiver: Receiver, start_worker: StartWorker
) -> None:
    worker = start_worker()
    worker.wait_until_ready()

    cut_sessions(db)
    schedule(db, 5)

    eventually(lambda: statuses(db) == {"DISPATCHED": 5})


def test_a_stranger_who_locks_one_task_stalls_no_other(
    db: Connection, dsn: str, receiver: Receiver, start_worker: StartWorker
) -> None:
    [locked, *_] = schedule(db, 20)
    receiver.holds = lambda push: True
    start_worker()
    pushes = receiver.wait_for(20)
    with psycopg.connect(dsn) as stranger:
        stranger.execute("select from pgsched.scheduled_tasks where id = %s for update", [locked])
        for push in pushes:
            push.answer(202)
        eventually(lambda: statuses(db) == {"DISPATCHED": 19, "SCHEDULED": 1})
    eventually(lambda: statuses(db) == {"DISPATCHED": 20})
