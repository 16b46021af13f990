"""Worker processes that tell the external system what pgsched has decided."""

from __future__ import annotations

import signal
from collections import Counter

from pgsched.testing import FakeExternalSystem
from tests.receiver import Push, Receiver
from tests.waiting import eventually
from tests.working import Connection, StartWorker, schedule, statuses


def news(receiver: Receiver, task_id: str) -> list[str]:
    return [push.body["status"] for push in receiver.of(task_id) if push.is_news]


def all_told(db: Connection) -> bool:
    return db.execute("select count(*) = 0 from pgsched.status_pushes").fetchone() == (True,)


def test_the_executor_of_a_task_that_is_cancelled_in_flight_is_told(
    db: Connection, receiver: Receiver, start_worker: StartWorker
) -> None:
    [task] = schedule(db, 1)
    receiver.holds = lambda push: not push.is_news
    start_worker()
    [ready] = receiver.wait_for(1)

    db.execute("select pgsched.cancel_task(%s, 'order was withdrawn')", [task])
    _, told = receiver.wait_for(2)
    ready.answer(202)
    again = receiver.wait_for(3)[2]

    for push in (told, again):
        assert (push.body["status"], push.body["error_msg"]) == ("CANCELLED", "order was withdrawn")
        key = f"{task}:status:{push.body['sequence']}"
        assert push.headers["Idempotency-Key"] == push.body["idempotency_key"] == key
    assert ready.body["sequence"] < told.body["sequence"] < again.body["sequence"]
    eventually(lambda: all_told(db))
    query = "select external_status_pushed from pgsched.tasks"
    assert db.execute(query).fetchone() == (True,)


def test_what_is_told_of_a_task_comes_in_order_though_the_receiver_fails(
    db: Connection, receiver: Receiver, start_worker: StartWorker
) -> None:
    """Two workers, and a receiver that takes each message at its third sight only."""
    db.execute("select pgsched.define_task('job', p_max_retries => 0)")
    tasks = schedule(db, 20)
    start_worker()
    start_worker()
    eventually(lambda: statuses(db) == {"DISPATCHED": 20})
    taken: dict[str, list[str]] = {task: [] for task in tasks}
    seen: Counter[str] = Counter()

    def answer(push: Push) -> bool:
        if not push.is_news:
            return False
        seen[push.body["idempotency_key"]] += 1
        if seen[push.body["idempotency_key"]] < 3:
            push.answer(500)
        else:
            taken[push.task_id].append(push.body["status"])
            push.answer(200)
        return True

    receiver.holds = answer
    for task in tasks:
        db.execute("select pgsched.report_status(%s, 'FAILED')", [task])
    eventually(lambda: all_told(db))
    for task in tasks:
        db.execute("select pgsched.retry_task(%s)", [task])
        db.execute("select pgsched.cancel_task(%s)", [task])
    eventually(lambda: all_told(db))

    for task in tasks:
        order = [p.body["sequence"] for p in receiver.of(task) if p.is_news]
        assert order == sorted(order)
        # PENDING was true for a moment only.
        assert [said for said in taken[task] if said != "PENDING"] == ["FAILED", "CANCELLED"]


def test_dispatch_goes_on_while_nobody_answers_what_is_told(
    db: Connection, receiver: Receiver, start_worker: StartWorker
) -> None:
    first = schedule(db, 50)
    worker = start_worker(PGSCHED_PUSH_SLOTS="4")
    eventually(lambda: statuses(db) == {"DISPATCHED": 50})
    receiver.holds = lambda push: push.is_news
    for task in first:
        db.execute("select pgsched.cancel_task(%s)", [task])
    eventually(lambda: any(push.is_news for push in receiver.pushes))

    schedule(db, 200)

    eventually(lambda: statuses(db).get("DISPATCHED") == 200)
    assert sum(push.is_news for push in receiver.pushes) <= 2
    worker.signal(signal.SIGTERM)
    assert worker.process.wait(20) == 0
    assert db.execute("select count(*) from pgsched.workers").fetchone() == (0,)


def test_what_is_refused_is_given_up_and_said_so(
    db: Connection, receiver: Receiver, start_worker: StartWorker
) -> None:
    [task] = schedule(db, 1)
    worker = start_worker()
    eventually(lambda: statuses(db) == {"DISPATCHED": 1})

    def refuse(push: Push) -> bool:
        push.answer(422)
        return True

    receiver.holds = refuse
    db.execute("select pgsched.cancel_task(%s)", [task])

    eventually(lambda: f"status push given up task_id={task}" in worker.log)
    assert 'status=CANCELLED external_system=default answer="HTTP 422"' in worker.log
    query = "select given_up_at is not null, last_error from pgsched.status_pushes"
    eventually(lambda: db.execute(query).fetchone() == (True, "HTTP 422"))
    assert news(receiver, task) == ["CANCELLED"]


def test_where_batches_are_taken_it_comes_in_batches(
    db: Connection, start_worker: StartWorker
) -> None:
    with FakeExternalSystem() as fake:
        db.execute(
            "select pgsched.define_external_system('default', %s, p_batch_size => 20)", [fake.url]
        )
        tasks = schedule(db, 30)
        start_worker()
        eventually(lambda: statuses(db) == {"DISPATCHED": 30})

        with db.transaction():
            for task in tasks:
                db.execute("select pgsched.cancel_task(%s)", [task])

        fake.wait_until(lambda: len(fake.news) >= 30)
        told = fake.news
        eventually(lambda: all_told(db))
        assert {push.task_id for push in told} == set(tasks)
        assert all(push.path.endswith("/batch") for push in told)
        assert len({push.raw for push in told}) == 2
