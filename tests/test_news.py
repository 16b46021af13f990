"""Status pushes on their way: what is sent, what an answer means, and who waits for whom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import httpx
import orjson
import pytest
from standardwebhooks import Webhook

from pgsched.answers import Answer, Reply
from pgsched.errors import Unavailable
from pgsched.external import ExternalSystemClient
from pgsched.models import Completion, ExternalSystem, Json, Target
from pgsched.news import StatusPush, batch_of, message_of, outcome_of, result_of
from pgsched.settings import Settings
from pgsched.targets import Targets
from pgsched.teller import SLOTS_PER_SYSTEM, StatusPusher

NOW = datetime(2026, 11, 23, 18, 5, tzinfo=UTC)
PUSH = StatusPush(
    sequence=8,
    push_count=1,
    external_system="crm",
    queue="crm",
    hold_seconds=60,
    task_id="01980000-0000-7000-8000-000000000001",
    status="CANCELLED",
    attempt=3,
    error_msg="order was withdrawn",
    created_at=NOW,
    scheduled_time=NOW - timedelta(hours=1),
    definition_id="01980000-0000-7000-8000-000000000002",
    definition_name="send_invoice",
    trace_id="01980000-0000-7000-8000-00000000000a",
)
SYSTEM = ExternalSystem(
    "crm", "https://crm.example.org/", "s3cret", Completion.CALLBACK, timedelta(seconds=5)
)


SEQUENCE = count()


def pushes(number: int, name: str = "crm") -> list[StatusPush]:
    return [
        PUSH._replace(
            sequence=next(SEQUENCE), task_id=f"{name}-{n}", external_system=name, queue=name
        )
        for n in range(number)
    ]


# What is sent


def test_a_message_has_the_shape_of_a_push_and_a_key_of_its_own() -> None:
    message = message_of(PUSH)

    key = "01980000-0000-7000-8000-000000000001:status:8"
    assert (message.id, message.idempotency_key, message.trace_id) == (key, key, PUSH.trace_id)
    assert orjson.loads(message.body) == {
        "task_id": "01980000-0000-7000-8000-000000000001",
        "status": "CANCELLED",
        "timestamp": "2026-11-23T18:05:00Z",
        "scheduled_time": "2026-11-23T17:05:00Z",
        "attempt": 3,
        "sequence": 8,
        "idempotency_key": key,
        "error_msg": "order was withdrawn",
        "metadata": {
            "definition_id": "01980000-0000-7000-8000-000000000002",
            "definition_name": "send_invoice",
            "trace_id": "01980000-0000-7000-8000-00000000000a",
            "queue": "crm",
        },
        "callback_url": None,
        "callback_token": None,
    }


def test_a_batch_is_cut_at_a_mebibyte() -> None:
    large = [push._replace(error_msg="x" * 400_000) for push in pushes(4)]

    message, carried = batch_of(large)

    assert carried == 2
    assert [body["task_id"] for body in orjson.loads(message.body)] == ["crm-0", "crm-1"]


# What comes back

ANSWERS = [
    *((code, "ACKNOWLEDGED") for code in (200, 202, 204, 299, 409)),
    *((code, "GIVEN_UP") for code in (400, 401, 403, 404, 405, 407, 410, 413, 422, 499)),
    *((code, "DEFERRED") for code in (408, 425, 429, 301, 500, 501, 502, 503, 504, 599, 700)),
]


@pytest.mark.parametrize(("code", "outcome"), ANSWERS)
def test_what_a_status_means(code: int, outcome: str) -> None:
    assert outcome_of(Answer(Reply.ANSWERED, code)) == outcome


@pytest.mark.parametrize("reply", [Reply.UNREACHABLE, Reply.TIMED_OUT, Reply.CUT])
@pytest.mark.parametrize("code", [None, 200])
def test_what_was_not_heard_to_its_end_is_sent_again(reply: Reply, code: int | None) -> None:
    assert outcome_of(Answer(reply, code)) == "DEFERRED"


def seconds(result: dict[str, Json]) -> float:
    number, unit = result["delay"].split()
    assert unit == "seconds"
    return float(number)


def test_it_waits_longer_each_time_but_never_more_than_five_minutes() -> None:
    answer = Answer(Reply.ANSWERED, 503)

    for push_count, bound in ((1, 1), (2, 2), (4, 8), (9, 256), (10, 300), (5000, 300)):
        push = PUSH._replace(push_count=push_count)
        waits = [seconds(result_of(push, answer)) for _ in range(200)]
        assert bound / 2 < max(waits) <= bound


@pytest.mark.parametrize(("asked", "waits"), [(0, 1), (90, 90), (7200, 3600)])
def test_it_waits_as_asked_from_a_second_to_an_hour(asked: int, waits: int) -> None:
    answer = Answer(Reply.ANSWERED, 429, retry_after=timedelta(seconds=asked))

    assert seconds(result_of(PUSH, answer)) == waits


# The loop, over a stand-in for the database and one for the network


class Outbox:
    """In place of the database: gives what the test put in, and keeps what was settled."""

    def __init__(self, targets: list[Target]) -> None:
        self.rows: list[StatusPush] = []
        self.targets = targets
        self.settled: dict[str, str] = {}
        self.asked: list[list[str]] = []
        self.names: dict[int, str] = {}
        self.is_away = False

    async def dispatch_targets(self) -> list[Target]:
        return self.targets

    async def claim_news(self, worker_id: str, limit: int, queues: list[str]) -> list[StatusPush]:
        self.asked.append(queues)
        found = [row for name in queues for row in self.rows if row.queue == name][:limit]
        self.rows = [row for row in self.rows if row not in found]
        self.names |= {row.sequence: row.task_id for row in found}
        return found

    async def settle_news(self, results: list[dict[str, Json]]) -> int:
        if self.is_away:
            raise Unavailable("away")
        for result in results:
            self.settled[self.names[result["sequence"]]] = result["outcome"]
        return len(results)


class Network(httpx.AsyncBaseTransport):
    """Answers as the test says, and keeps what was sent: the path, and the task ids."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, list[str]]] = []
        self.requests: list[httpx.Request] = []
        self.answer: Callable[[str, list[str]], httpx.Response] = lambda *_: httpx.Response(202)
        self.hangs: set[str] = set()
        self.may_answer = asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = orjson.loads(await request.aread())
        ids = [one["task_id"] for one in (body if isinstance(body, list) else [body])]
        self.requests.append(request)
        self.sent.append((request.url.path.removeprefix("/api/tasks/status"), ids))
        if request.url.host in self.hangs:
            await self.may_answer.wait()
        return self.answer(*self.sent[-1])


def target(name: str, **more: Any) -> Target:
    given = {
        "queue": name,
        "external_system": name,
        "base_url": f"http://{name}",
        "api_key_env": None,
        "signing_secret_env": None,
        "completion": "callback",
        "request_timeout": timedelta(seconds=5),
        "batch_size": 1,
        "max_in_flight": None,
        "is_open": False,
        "is_limited": False,
        "is_paused": False,
    }
    return Target(**{**given, **more})


class Lease:
    worker_id = "w"


class Rig:
    """A pusher, its outbox and its network."""

    def __init__(self, *targets: Target) -> None:
        self.outbox = Outbox(list(targets))
        self.network = Network()
        outbox: Any = self.outbox
        lease: Any = Lease()
        self.targets = Targets(outbox, Settings(database_url="postgresql://"))
        client = ExternalSystemClient(self.network, None)
        self.pusher = StatusPusher(outbox, client, self.targets, lease, asyncio.Event())

    async def run(self, *rows: StatusPush) -> dict[str, str]:
        """Step until all that there is has been claimed and settled."""
        self.outbox.rows += rows
        while self.outbox.rows:
            await self.step()
        await self.pusher.drain(5)
        return self.outbox.settled

    async def step(self) -> None:
        step = asyncio.create_task(self.pusher.step())
        await asyncio.wait({step}, timeout=0.3)
        step.cancel()
        await asyncio.wait({step})


async def test_each_message_is_sent_and_settled() -> None:
    rig = Rig(target("crm"))
    rig.network.answer = lambda path, ids: httpx.Response(400 if ids == ["crm-1"] else 202)

    settled = await rig.run(*pushes(3))

    assert settled == {"crm-0": "ACKNOWLEDGED", "crm-1": "GIVEN_UP", "crm-2": "ACKNOWLEDGED"}
    assert rig.network.sent == [("", ["crm-0"]), ("", ["crm-1"]), ("", ["crm-2"])]


async def test_it_is_signed_and_traced_as_a_push_is(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    monkeypatch.setenv("CRM_SECRETS", secret)
    rig = Rig(target("crm", signing_secret_env="CRM_SECRETS"))

    await rig.run(PUSH)

    (request,) = rig.network.requests
    key = "01980000-0000-7000-8000-000000000001:status:8"
    assert request.headers["Idempotency-Key"] == request.headers["webhook-id"] == key
    assert request.headers["traceparent"].split("-")[1] == PUSH.trace_id.replace("-", "")
    Webhook(secret).verify(await request.aread(), dict(request.headers))


async def test_after_an_outage_the_rest_is_deferred_and_not_tried() -> None:
    rig = Rig(target("crm"))
    rig.network.answer = lambda path, ids: httpx.Response(202 if ids == ["crm-0"] else 503)

    settled = await rig.run(*pushes(4))

    assert settled == {"crm-0": "ACKNOWLEDGED"} | {f"crm-{n}": "DEFERRED" for n in (1, 2, 3)}
    assert len(rig.network.sent) == 2


async def test_a_message_that_breaks_the_system_defers_itself_alone() -> None:
    rig = Rig(target("crm"))
    rig.network.answer = lambda path, ids: httpx.Response(500 if ids == ["crm-0"] else 202)

    assert await rig.run(*pushes(2)) == {"crm-0": "DEFERRED", "crm-1": "ACKNOWLEDGED"}


async def test_several_go_in_one_request_where_that_is_wanted() -> None:
    rig = Rig(target("crm", batch_size=3))

    settled = await rig.run(*pushes(4))

    assert set(settled.values()) == {"ACKNOWLEDGED"}
    assert rig.network.sent == [("/batch", ["crm-0", "crm-1", "crm-2"]), ("", ["crm-3"])]


async def test_the_answer_to_a_batch_may_be_about_each_of_it() -> None:
    rig = Rig(target("crm", batch_size=10))
    results = [
        {"task_id": "crm-0", "code": 409},
        {"task_id": "crm-1", "code": 422},
        {"task_id": "crm-2", "code": 503},
    ]
    rig.network.answer = lambda path, ids: (
        httpx.Response(200, json=results) if path else httpx.Response(202)
    )

    settled = await rig.run(*pushes(4))

    assert list(settled.values()) == ["ACKNOWLEDGED", "GIVEN_UP", "DEFERRED", "ACKNOWLEDGED"]
    assert rig.network.sent[1:] == [("", ["crm-3"])]


@pytest.mark.parametrize("code", [400, 413, 500])
async def test_a_batch_that_is_refused_is_sent_one_by_one(code: int) -> None:
    rig = Rig(target("crm", batch_size=2))
    rig.network.answer = lambda path, ids: httpx.Response(code if path else 202)

    settled = await rig.run(*pushes(4))

    assert set(settled.values()) == {"ACKNOWLEDGED"}
    assert [len(ids) for _, ids in rig.network.sent] == [2, 1, 1, 2, 1, 1]


@pytest.mark.parametrize("code", [404, 405, 415])
async def test_who_knows_no_batches_gets_no_more_of_them(code: int) -> None:
    rig = Rig(target("crm", batch_size=2))
    rig.network.answer = lambda path, ids: httpx.Response(code if path else 202)
    await rig.run(*pushes(2))

    await rig.run(*pushes(4))

    assert [len(ids) for _, ids in rig.network.sent] == [2, 1, 1, 1, 1, 1, 1]


async def test_a_system_that_hangs_has_its_slots_and_no_more() -> None:
    rig = Rig(target("crm"), target("mail"))
    rig.network.hangs = {"crm"}
    for _ in range(SLOTS_PER_SYSTEM):
        rig.outbox.rows += pushes(1)
        await rig.step()

    rig.outbox.rows += pushes(3, "mail")
    await rig.step()
    await rig.step()

    assert rig.outbox.asked[-1] == ["mail"]
    assert rig.outbox.settled == {f"mail-{n}": "ACKNOWLEDGED" for n in range(3)}
    assert [ids for _, ids in rig.network.sent if ids[0].startswith("crm")] == [["crm-0"]] * 2
    rig.network.may_answer.set()
    await rig.pusher.drain(5)


async def test_when_it_is_closed_the_rest_is_given_back() -> None:
    rig = Rig(target("crm"))
    rig.network.hangs = {"crm"}
    rig.outbox.rows = pushes(3)
    await rig.step()

    rig.pusher.close()
    rig.network.may_answer.set()
    await rig.pusher.drain(5)

    assert list(rig.outbox.settled.values()) == ["ACKNOWLEDGED", "RELEASED", "RELEASED"]
    rig.outbox.rows = pushes(1)
    await rig.step()
    assert len(rig.network.sent) == 1


async def test_what_cannot_be_answered_in_time_is_given_back() -> None:
    rig = Rig(target("crm"))

    settled = await rig.run(*(push._replace(hold_seconds=9) for push in pushes(2)))

    assert settled == {"crm-0": "RELEASED", "crm-1": "RELEASED"}
    assert rig.network.sent == []


async def test_what_could_not_be_settled_is_left_to_its_lease(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig(target("crm"))
    rig.outbox.is_away = True

    assert await rig.run(*pushes(1)) == {}

    await asyncio.sleep(0)
    assert "will be sent again" in caplog.text
    rig.outbox.is_away = False
    assert await rig.run(*pushes(1)) == {"crm-0": "ACKNOWLEDGED"}


async def test_a_paused_queue_is_told_of_and_not_claimed_from() -> None:
    rig = Rig(target("crm", is_paused=True), target("mail"))

    await rig.targets.refresh()

    assert rig.targets.queues == ["mail"]
    assert rig.targets.system_of("crm") is None
    assert await rig.run(*pushes(1)) == {"crm-0": "ACKNOWLEDGED"}
