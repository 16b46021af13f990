"""Worker processes and the systems they push to: batches, breakers, and changes while they run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgsched.testing import Answer, FakeExternalSystem, Push
from tests.receiver import Receiver
from tests.waiting import eventually
from tests.working import Connection, StartWorker, schedule, statuses


@pytest.fixture
def fake() -> Iterator[FakeExternalSystem]:
    with FakeExternalSystem() as it:
        yield it


def define(db: Connection, name: str, url: str, **given: object) -> None:
    """An external system, and the queue of its name."""
    named = "".join(f", p_{key} => %s" for key in given)
    query = f"select pgsched.define_external_system(%s, %s{named})"
    db.execute(query.encode(), [name, url, *given.values()])
    db.execute("select pgsched.define_queue(%s, %s)", [name, name])


def is_batched(push: Push) -> bool:
    return push.path.endswith("/batch")


def breaker(db: Connection, name: str) -> tuple[bool, int, str | None]:
    query = "select open_until is not null, open_count, open_reason from pgsched.external_systems"
    row = db.execute(f"{query} where name = %s".encode(), [name]).fetchone()
    assert row is not None
    return row[0], row[1], row[2]


def test_tasks_go_in_batches_each_with_an_answer_of_its_own(
    db: Connection, fake: FakeExternalSystem, start_worker: StartWorker
) -> None:
    define(db, "default", fake.url, batch_size=20)
    tasks = schedule(db, 200)
    done, refused, left = tasks[0], tasks[1], tasks[2]

    def answer(push: Push) -> Answer:
        said: dict[str, Answer] = {
            done: (200, {"status": "SUCCESS", "output_ref": "s3://done"}),
            refused: (422, {"error_msg": "no such customer"}),
        }
        return said.get(push.task_id, 202)

    fake.answer(answer)
    start_worker()

    eventually(lambda: statuses(db) == {"SUCCESS": 1, "FAILED": 1, "DISPATCHED": 198})
    assert len({push.delivery for push in fake.pushes}) < 100
    assert set(fake.executions) == {f"{task}:1" for task in tasks}
    query = "select output_ref, error_msg from pgsched.tasks where id = %s"
    assert db.execute(query, [done]).fetchone() == ("s3://done", None)
    assert db.execute(query, [refused]).fetchone() == (None, "HTTP 422: no such customer")
    assert [is_batched(push) for push in fake.of(left)] == [True]
    event = db.execute(
        "select message, response_time > '0' from pgsched.task_events where task_id = %s"
        " and event = 'REFUSED'",
        [refused],
    ).fetchone()
    assert event == ("HTTP 422: no such customer", True)


def test_a_receiver_that_takes_no_batches_gets_single_pushes(
    db: Connection, start_worker: StartWorker
) -> None:
    with FakeExternalSystem(batches=False) as fake:
        define(db, "default", fake.url, batch_size=20)
        tasks = schedule(db, 100)
        worker = start_worker()
        eventually(lambda: statuses(db) == {"DISPATCHED": 100})

        assert {push.task_id for push in fake.pushes} == set(tasks)
        assert not any(is_batched(push) for push in fake.pushes)
        assert "takes single tasks only" in worker.log
        query = "select sum(retry_count), max(delivery_count) from pgsched.tasks"
        assert db.execute(query).fetchone() == (0, 1)


def test_a_change_of_the_system_takes_effect_without_a_restart(
    db: Connection, fake: FakeExternalSystem, start_worker: StartWorker
) -> None:
    with FakeExternalSystem() as other:
        other.answer(200)
        define(db, "default", fake.url)
        start_worker()
        schedule(db, 1)
        fake.wait_for(1)

        define(db, "default", other.url, batch_size=10, completion="response")

        def arrives_there() -> bool:
            schedule(db, 30)
            return any(is_batched(push) for push in other.pushes)

        eventually(arrives_there)
        eventually(lambda: not statuses(db).keys() & {"PENDING", "SCHEDULED"})
        assert statuses(db)["SUCCESS"] >= 1


def test_a_dead_system_is_taken_out_and_comes_back_and_spends_nothing(
    db: Connection, fake: FakeExternalSystem, start_worker: StartWorker
) -> None:
    define(db, "crm", "http://127.0.0.1:1")  # where nobody listens
    define(db, "default", fake.url)
    db.execute(
        "select pgsched.schedule_immediate('job', p_queue => 'crm') from generate_series(1, 50)"
    )
    workers = [start_worker(), start_worker()]
    eventually(lambda: breaker(db, "crm")[0])

    healthy = schedule(db, 20)
    eventually(lambda: {push.task_id for push in fake.pushes} == set(healthy))
    claims = "select sum(delivery_count) from pgsched.tasks where queue = 'crm'"
    before = db.execute(claims).fetchone()
    eventually(lambda: breaker(db, "crm")[1] >= 2)  # a probe has failed
    spent = "select max(retry_count), max(attempt) from pgsched.tasks where queue = 'crm'"
    assert db.execute(spent).fetchone() == (0, 1)
    after = db.execute(claims).fetchone()
    assert before
    assert after
    assert after[0] <= before[0] + 2  # probes, and nothing else
    assert "could not be reached" in str(breaker(db, "crm")[2])

    define(db, "crm", fake.url)
    eventually(lambda: not breaker(db, "crm")[0])
    eventually(lambda: statuses(db) == {"DISPATCHED": 70}, timeout=60)
    assert len(fake.executions) == 70
    assert sum("breaker open" in worker.log for worker in workers) >= 1


def test_a_system_that_answers_nothing_holds_up_no_other(
    db: Connection, receiver: Receiver, fake: FakeExternalSystem, start_worker: StartWorker
) -> None:
    receiver.holds = lambda push: True
    define(db, "hole", receiver.url)
    define(db, "default", fake.url)
    db.execute(
        "select pgsched.schedule_immediate('job', p_queue => 'hole') from generate_series(1, 500)"
    )
    start_worker(PGSCHED_PUSH_SLOTS="8")
    receiver.wait_for(8)

    healthy = schedule(db, 100)

    assert {push.task_id for push in fake.wait_for(100)} == set(healthy)
    assert len(receiver.pushes) == 8
