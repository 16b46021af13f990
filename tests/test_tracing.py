"""Traces of OpenTelemetry: from the enqueue through a real worker and receiver to the report."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from opentelemetry.trace import SpanKind, StatusCode

from pgsched import SchedulerService, api
from pgsched.configuration import load_settings
from pgsched.settings import Settings
from pgsched.testing import FakeExternalSystem, Push
from pgsched.worker import Worker
from tests.apps import client_of
from tests.executing import task_row
from tests.roles import as_role
from tests.scraping import measured_worker
from tests.waiting import until

scheduler = SchedulerService()


class Traces:
    """What was exported."""

    def __init__(self, sampler: Sampler) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=ParentBased(sampler))
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("test")

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    async def wait_for(self, name: str, count: int = 1) -> list[ReadableSpan]:
        await until(lambda: len(self.named(name)) >= count)
        return self.named(name)


@pytest.fixture
def traces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Traces:
    found = Traces(getattr(request, "param", ALWAYS_ON))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", found.provider)
    return found


unsampled = pytest.mark.parametrize("traces", [ALWAYS_OFF], indirect=True, ids=["unsampled"])


async def enqueue(dsn: str, **options: Any) -> str:
    """A task, in a transaction of its own."""
    async with await psycopg.AsyncConnection.connect(dsn) as session:
        await scheduler.define_task(session, "job", retry_delay=None)
        return await scheduler.schedule_immediate(session, "job", **options)


def trace_id(span: ReadableSpan | trace.Span) -> str:
    context = span.get_span_context()
    assert context is not None
    return str(UUID(int=context.trace_id))


def span_id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return int(context.span_id)


def parent_id(span: ReadableSpan) -> int | None:
    return span.parent and span.parent.span_id


def traceparent(push: Push) -> tuple[str, int, str]:
    """The trace, the parent and whether it is sampled, as they came with a push."""
    _, trace, parent, flags = push.headers["traceparent"].split("-")
    return str(UUID(trace)), int(parent, 16), "01" if int(flags, 16) & 1 else "00"


async def pushed(system: FakeExternalSystem, count: int = 1) -> list[Push]:
    await until(lambda: len(system.pushes) >= count)
    return list(system.pushes)


async def test_one_trace_leads_from_the_enqueue_to_the_report(dsn: str, traces: Traces) -> None:
    app = api.create_app(Settings(database_url=as_role(dsn, "operator")))
    with FakeExternalSystem() as system:
        async with (
            measured_worker(dsn, external_system_url=system.url),
            client_of(app) as client,
        ):
            with traces.tracer.start_as_current_span("order") as order:
                task = await enqueue(dsn)
            [push] = await pushed(system)
            await until(lambda: task_row(dsn, task)["status"] == "DISPATCHED")
            answer = await client.post(
                f"/api/tasks/{task}/status",
                json={"status": "SUCCESS"},
                headers={"traceparent": push.headers["traceparent"]},
            )
            assert answer.status_code == 200, answer.text
            [sent] = await traces.wait_for("POST /api/tasks/status")

    [enqueued] = traces.named("pgsched schedule_immediate")
    [served] = traces.named("POST /api/tasks/{task_id}/status")
    assert {trace_id(span) for span in (order, enqueued, sent, served)} == {trace_id(order)}
    assert str(task_row(dsn, task)["trace_id"]) == trace_id(order)
    assert parent_id(enqueued) == order.get_span_context().span_id
    assert parent_id(sent) == span_id(enqueued)
    assert parent_id(served) == span_id(sent)
    assert traceparent(push) == (trace_id(order), span_id(sent), "01")
    assert [span.kind for span in (enqueued, sent, served)] == [
        SpanKind.PRODUCER,
        SpanKind.CLIENT,
        SpanKind.SERVER,
    ]


async def test_a_push_is_described_as_http_has_it(dsn: str, traces: Traces) -> None:
    with FakeExternalSystem() as system:
        system.answer(500, 202)
        async with measured_worker(dsn, external_system_url=system.url):
            task = await enqueue(dsn)
            [span] = await traces.wait_for("POST /api/tasks/status")

    port = int(system.url.rpartition(":")[2])
    assert dict(span.attributes or {}) == {
        "http.request.method": "POST",
        "url.full": f"{system.url}/api/tasks/status",
        "server.address": "127.0.0.1",
        "server.port": port,
        "http.response.status_code": 500,
        "error.type": "500",
        "pgsched.task_id": task,
        "pgsched.attempt": 1,
        "pgsched.definition": "job",
        "pgsched.queue": "default",
        "pgsched.external_system": "default",
    }
    assert span.status.status_code is StatusCode.ERROR


async def test_claims_and_settles_that_had_tasks_are_spans(dsn: str, traces: Traces) -> None:
    with FakeExternalSystem() as system:
        async with measured_worker(dsn, external_system_url=system.url):
            await enqueue(dsn)
            [settled] = await traces.wait_for("pgsched settle")

    [claimed] = traces.named("pgsched claim")
    assert dict(claimed.attributes or {}) == {"pgsched.tasks": 1}
    assert dict(settled.attributes or {}) == {"pgsched.tasks": 1, "pgsched.refused": 0}
    assert claimed.parent is None
    assert (claimed.end_time or 0) > (claimed.start_time or 0)


@unsampled
async def test_what_is_not_sampled_stays_so(dsn: str, traces: Traces) -> None:
    with FakeExternalSystem() as system:
        async with measured_worker(dsn, external_system_url=system.url):
            with traces.tracer.start_as_current_span("order") as order:
                await enqueue(dsn)
            [push] = await pushed(system)

    trace, _, flags = traceparent(push)
    assert (trace, flags) == (trace_id(order), "00")
    assert traces.spans == ()


@pytest.mark.parametrize(
    ("traces", "flags"), [(ALWAYS_ON, "01"), (ALWAYS_OFF, "00")], indirect=["traces"]
)
async def test_a_task_of_sql_keeps_its_trace_and_the_sampler_decides(
    dsn: str, traces: Traces, flags: str
) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("select pgsched.define_task('job')")
        conn.execute("select pgsched.schedule_immediate('job')")
        row = conn.execute("select trace_id::text from pgsched.tasks").fetchone()
    with FakeExternalSystem() as system:
        async with measured_worker(dsn, external_system_url=system.url):
            [push] = await pushed(system)

    assert row is not None
    assert traceparent(push)[::2] == (row[0], flags)
    assert len(traces.named("POST /api/tasks/status")) == (flags == "01")


async def test_rounds_of_a_loop_have_one_trace_and_one_parent(dsn: str, traces: Traces) -> None:
    with FakeExternalSystem() as system:
        system.answer((200, {"status": "SUCCESS"}))
        async with (
            measured_worker(dsn, external_system_url=system.url),
            await psycopg.AsyncConnection.connect(dsn, autocommit=True) as session,
        ):
            await scheduler.define_task(session, "job")
            await scheduler.schedule_loop(session, "job", max_rounds=3)
            sent = await traces.wait_for("POST /api/tasks/status", 3)

    [enqueued] = traces.named("pgsched schedule_loop")
    assert {(trace_id(span), parent_id(span)) for span in sent} == {
        (trace_id(enqueued), span_id(enqueued))
    }


async def test_a_trace_that_was_given_is_kept(dsn: str, traces: Traces) -> None:
    given = uuid4()
    task = await enqueue(dsn, trace_id=given)
    row = task_row(dsn, task)

    assert row["trace_id"] == given
    assert row["schedule_config"] == {}
    assert len(traces.named("pgsched schedule_immediate")) == 1


async def test_the_parent_stands_beside_what_the_caller_says(dsn: str, traces: Traces) -> None:
    task = await enqueue(dsn, schedule_config={"mine": 1})
    [span] = traces.named("pgsched schedule_immediate")

    config = task_row(dsn, task)["schedule_config"]
    assert config.keys() == {"mine", "traceparent"}
    assert config["traceparent"].startswith(
        f"00-{trace_id(span).replace('-', '')}-{span_id(span):016x}-0"
    )


async def test_a_list_of_tasks_has_one_span(dsn: str, traces: Traces) -> None:
    other = uuid4()
    async with await psycopg.AsyncConnection.connect(dsn) as session:
        await scheduler.define_task(session, "job")
        tasks = await scheduler.schedule_many(
            session,
            [
                {"definition": "job"},
                {"definition": "job"},
                {"definition": "job", "trace_id": other},
            ],
        )

    [span] = traces.named("pgsched schedule_many")
    assert dict(span.attributes or {}) == {"pgsched.tasks": 3}
    found = [str(task_row(dsn, task)["trace_id"]) for task in tasks]
    assert found == [trace_id(span), trace_id(span), str(other)]


async def test_schedules_do_not_inherit_the_trace_of_who_made_them(
    dsn: str, traces: Traces
) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as session:
        await scheduler.define_task(session, "job")
        with traces.tracer.start_as_current_span("deploy"):
            await scheduler.schedule_every(session, "job", every=timedelta(hours=1))
        cursor = await session.execute("select trace_id, schedule_config from pgsched.schedules")
        assert await cursor.fetchone() == (None, {})


async def test_a_batch_is_a_span_with_a_link_to_each_task(dsn: str, traces: Traces) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("select pgsched.define_external_system('default', p_batch_size => 10)")
        conn.execute("select pgsched.define_task('job')")
    async with await psycopg.AsyncConnection.connect(dsn) as session:
        await scheduler.schedule_many(session, [{"definition": "job"}] * 3)
    with FakeExternalSystem() as system:
        async with measured_worker(dsn, external_system_url=system.url):
            [sent] = await traces.wait_for("POST /api/tasks/status/batch")

    [enqueued] = traces.named("pgsched schedule_many")
    assert sent.parent is None
    assert [link.context.span_id for link in sent.links] == [span_id(enqueued)] * 3
    assert {traceparent(push) for push in system.pushes} == {(trace_id(sent), span_id(sent), "01")}


async def test_spans_of_a_handler_are_below_that_of_the_task(dsn: str, traces: Traces) -> None:
    async def handler(push: dict[str, Any]) -> None:
        with traces.tracer.start_as_current_span("work"):
            raise RuntimeError(push["status"])

    task = await enqueue(dsn)
    stop = asyncio.Event()
    settings = load_settings(database_url=as_role(dsn, "worker"))
    worker = asyncio.create_task(Worker(settings, handler).run(stop))
    [span, *_] = await traces.wait_for("pgsched handler")
    stop.set()
    await worker

    [work] = traces.named("work")
    assert parent_id(work) == span_id(span)
    assert str(task_row(dsn, task)["trace_id"]) == trace_id(work)
    assert span.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("config", ['{"traceparent": "00-x-y-z"}', '{"a": ["traceparent"]}'])
async def test_a_parent_that_is_none_is_passed_over(dsn: str, traces: Traces, config: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("select pgsched.define_task('job')")
        query = "select pgsched.schedule_immediate('job', p_schedule_config => %s)"
        conn.execute(query, [config])
        row = conn.execute("select trace_id::text from pgsched.tasks").fetchone()
    with FakeExternalSystem() as system:
        async with measured_worker(dsn, external_system_url=system.url):
            [push] = await pushed(system)

    assert row is not None
    assert traceparent(push)[0] == row[0]


async def test_requests_of_the_api_are_spans_and_what_they_enqueue_is_below(
    dsn: str, traces: Traces
) -> None:
    app = api.create_app(Settings(database_url=as_role(dsn, "operator")))
    async with client_of(app) as client:
        await client.post("/api/definitions", json={"name": "job"})
        await client.post("/api/tasks", json={"definition": "job"})
        await client.get("/health/live")

    served = {span.name: span for span in traces.spans if span.kind is SpanKind.SERVER}
    assert served.keys() == {"POST /api/definitions", "POST /api/tasks"}
    [enqueued] = traces.named("pgsched schedule_immediate")
    assert parent_id(enqueued) == span_id(served["POST /api/tasks"])


async def test_without_a_provider_nothing_is_carried(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    row = task_row(dsn, await enqueue(dsn))

    assert row["schedule_config"] == {}
    with FakeExternalSystem() as system:
        async with measured_worker(dsn, external_system_url=system.url):
            [push] = await pushed(system)
    assert traceparent(push)[::2] == (str(row["trace_id"]), "01")


ABSENT = """
import asyncio, sys

class Nobody:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Nobody())

import psycopg
from pgsched import SchedulerService, tracing
from pgsched.testing import FakeExternalSystem
from tests.scraping import measured_worker
from tests.waiting import until

async def main(dsn):
    scheduler = SchedulerService()
    async with await psycopg.AsyncConnection.connect(dsn) as session:
        await scheduler.define_task(session, "job")
        await scheduler.schedule_immediate(session, "job")
        await scheduler.schedule_many(session, [{"definition": "job"}])
    with FakeExternalSystem() as system:
        async with measured_worker(dsn, external_system_url=system.url):
            await until(lambda: len(system.pushes) == 2)
    for push in system.pushes:
        version, trace, parent, flags = push.headers["traceparent"].split("-")
        assert trace == push.body["metadata"]["trace_id"].replace("-", ""), push.headers
    assert tracing.tracer() is None and not tracing.is_loaded()
    assert "opentelemetry" not in sys.modules

asyncio.run(main(sys.argv[1]))
"""


def test_without_the_package_all_works(dsn: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ABSENT, dsn], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
