"""The metrics of a worker: what real workers say of real pushes."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from typing import Any

import httpx
import psycopg
import pytest

from pgsched.configuration import load_settings
from pgsched.endpoint import MOST_BYTES, Endpoint
from pgsched.errors import ConfigError
from pgsched.observation import Observation
from pgsched.observer import ObservedDatabase
from pgsched.settler import Settler
from pgsched.tallies import Distribution
from pgsched.targets import Targets
from pgsched.testing import FakeExternalSystem
from tests.scraping import OPENMETRICS, Scrape, measured_worker, scrape
from tests.sessions import cut_sessions
from tests.waiting import until


def execute(dsn: str, *queries: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        for query in queries:
            conn.execute(query.encode())


async def scrape_until(url: str, name: str, *labels: str, least: float) -> Scrape:
    """The first scrape in which that value is at least so high."""
    async with asyncio.timeout(30):
        while True:
            found = await scrape(f"{url}/metrics")
            if found.values(name).get(labels, -1) >= least:
                return found
            await asyncio.sleep(0.02)


def outcomes(found: Scrape) -> dict[tuple[str, ...], float]:
    return found.values("pgsched_worker_pushes_total")


async def test_pushes_are_counted_by_system_and_outcome(dsn: str) -> None:
    execute(dsn, "select pgsched.define_task('job', p_max_retries => 0, p_retry_delay => '0')")
    with FakeExternalSystem() as system:
        success, failed = (200, {"status": "SUCCESS"}), (200, {"status": "FAILED"})
        system.answer(202, success, failed, 400, 500, (503, None, {"Retry-After": "60"}))
        async with measured_worker(dsn, external_system_url=system.url, push_slots=1) as url:
            execute(dsn, "select pgsched.schedule_immediate('job') from generate_series(1, 6)")
            await until(lambda: len(system.executions) >= 6)
            found = await scrape_until(
                url, "pgsched_worker_pushes_total", "default", "deferred", least=1
            )

    assert outcomes(found) == {
        ("default", "accepted"): 1,
        ("default", "success"): 1,
        ("default", "failed"): 1,
        ("default", "refused"): 1,
        ("default", "retry"): 1,
        ("default", "deferred"): 1,
    }
    assert found.value("pgsched_worker_tasks_claimed_total", "default") == 6
    assert found.value("pgsched_worker_push_duration_seconds_count", "default") == 6
    assert 0 < found.value("pgsched_worker_push_duration_seconds_sum", "default") < 60
    assert found.value("pgsched_worker_task_lag_seconds_count", "default") == 6
    assert 0 < found.value("pgsched_worker_task_lag_seconds_sum", "default") < 60
    assert found.value("pgsched_worker_slots", "default") == 1


async def test_results_in_answers_are_counted_as_reports(dsn: str) -> None:
    execute(dsn, "select pgsched.define_task('job')")
    with FakeExternalSystem() as system:
        system.answer((200, {"status": "SUCCESS"}))
        async with measured_worker(dsn, external_system_url=system.url) as url:
            execute(dsn, "select pgsched.schedule_immediate('job')")
            found = await scrape_until(
                url, "pgsched_worker_reports_total", "ok", "SUCCESS", least=1
            )

    assert found.value("pgsched_worker_settle_duration_seconds_count") >= 1
    assert found.value("pgsched_worker_settle_size_tasks_sum") == 1
    assert found.value("pgsched_worker_claim_size_tasks_sum") == 1
    assert found.value("pgsched_worker_claim_duration_seconds_count") >= 1


async def test_what_is_under_way_is_shown(dsn: str) -> None:
    execute(
        dsn,
        "select pgsched.define_task('job')",
        "select pgsched.define_external_system('default', p_max_in_flight => 2)",
        "select pgsched.schedule_immediate('job') from generate_series(1, 3)",
    )
    with FakeExternalSystem() as system:
        system.answer(202, delay=1)
        async with measured_worker(dsn, external_system_url=system.url) as url:
            found = await scrape_until(url, "pgsched_worker_tasks_in_flight", "default", least=2)

    assert found.value("pgsched_worker_tasks_buffered", "default") == 1
    assert found.value("pgsched_worker_slots", "default") == 2
    assert found.value("pgsched_worker_lease_live") == 1
    assert found.value("pgsched_worker_leases_lost_total") == 0


async def test_batches_have_a_size_and_each_task_an_outcome(dsn: str) -> None:
    execute(
        dsn,
        "select pgsched.define_task('job')",
        "select pgsched.define_external_system('default', p_batch_size => 10)",
        "select pgsched.schedule_immediate('job') from generate_series(1, 20)",
    )
    with FakeExternalSystem() as system:
        async with measured_worker(dsn, external_system_url=system.url, push_slots=1) as url:
            found = await scrape_until(
                url, "pgsched_worker_pushes_total", "default", "accepted", least=20
            )

    name = "pgsched_worker_push_batch_size_tasks"
    assert found.value(f"{name}_sum", "default") == 20
    assert found.values(f"{name}_bucket")["default", "1.0"] == 0
    assert found.values(f"{name}_bucket")["default", "10.0"] == found.value(
        f"{name}_count", "default"
    )


async def test_an_open_breaker_shows(dsn: str) -> None:
    execute(
        dsn,
        "select pgsched.define_task('job')",
        "select pgsched.schedule_immediate('job') from generate_series(1, 40)",
    )
    with FakeExternalSystem() as system:
        system.answer(*[500] * 100)
        async with measured_worker(dsn, external_system_url=system.url, push_slots=10) as url:
            found = await scrape_until(url, "pgsched_worker_breaker_state", "default", least=1)

    assert outcomes(found)["default", "retry"] >= 10


async def test_wake_ups_and_the_connection_of_listen_are_counted(dsn: str) -> None:
    with FakeExternalSystem() as system:
        async with measured_worker(dsn, external_system_url=system.url) as url:
            await scrape_until(url, "pgsched_worker_listen_connected", least=1)
            execute(dsn, "select pg_notify('pgsched', '')")
            found = await scrape_until(url, "pgsched_worker_wakeups_total", least=2)

    assert found.value("pgsched_worker_listen_connected") == 1


async def test_status_pushes_are_counted(dsn: str) -> None:
    execute(dsn, "select pgsched.define_task('job', p_max_retries => 0)")
    with FakeExternalSystem() as system:
        system.answer(400)
        async with measured_worker(dsn, external_system_url=system.url) as url:
            execute(dsn, "select pgsched.schedule_immediate('job')")
            await scrape_until(url, "pgsched_worker_status_pushes_total", "acknowledged", least=1)


async def test_fires_of_schedules_are_counted(dsn: str) -> None:
    with FakeExternalSystem() as system:
        async with measured_worker(dsn, external_system_url=system.url) as url:
            execute(
                dsn,
                "select pgsched.define_task('job')",
                "select pgsched.schedule_every('job', '1 second')",
            )
            await scrape_until(url, "pgsched_worker_schedule_fires_total", least=1)


async def test_errors_of_the_database_are_counted_by_kind(dsn: str) -> None:
    with FakeExternalSystem() as system:
        async with measured_worker(dsn, external_system_url=system.url) as url:
            await scrape_until(url, "pgsched_worker_listen_connected", least=1)
            with psycopg.connect(dsn, autocommit=True) as conn:
                cut_sessions(conn, "pgsched")
            await scrape_until(url, "pgsched_worker_database_errors_total", "Unavailable", least=1)


async def test_openmetrics_is_spoken_where_it_is_asked_for(dsn: str) -> None:
    with FakeExternalSystem() as system:
        async with measured_worker(dsn, external_system_url=system.url) as url:
            plain, modern = (
                await scrape(f"{url}/metrics"),
                await scrape(f"{url}/metrics", OPENMETRICS),
            )

    assert modern.kinds == plain.kinds
    [(labels, value)] = modern.values("pgsched_build_info").items()
    assert value == 1
    assert len(labels) == 2


def request(port: int, raw: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(raw)
        answer = b""
        while more := connection.recv(65536):
            answer += more
    return answer


@pytest.fixture
async def endpoint() -> Any:
    endpoint = Endpoint("127.0.0.1", 0, lambda accept: (f"for {accept}".encode(), "text/x"))
    await endpoint.start()
    yield endpoint
    endpoint.stop()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /health/live HTTP/1.1\r\n\r\n", b"200 OK"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200 OK"),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", b"200 OK"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405 Method Not Allowed"),
        (b"\xff\r\n\r\n", b"405 Method Not Allowed"),
    ],
)
async def test_the_endpoint_knows_two_paths(endpoint: Endpoint, raw: bytes, status: bytes) -> None:
    answer = await asyncio.to_thread(request, endpoint.port, raw)

    assert answer.startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert answer.endswith(b"\r\n\r\n") == raw.startswith(b"HEAD")


async def test_the_endpoint_passes_on_what_is_accepted(endpoint: Endpoint) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.get(
            f"http://127.0.0.1:{endpoint.port}/metrics", headers={"Accept": "a/b"}
        )

    assert (answer.text, answer.headers["content-type"]) == ("for a/b", "text/x")


@pytest.mark.parametrize("raw", [b"GET /metrics", b"x" * (MOST_BYTES + 1), b""])
async def test_the_endpoint_leaves_who_says_nothing_or_too_much(
    endpoint: Endpoint, raw: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgsched.endpoint.PATIENCE", 0.1)

    def ask() -> bytes:
        try:
            return request(endpoint.port, raw)
        except ConnectionResetError:
            return b""

    assert await asyncio.to_thread(ask) == b""


async def test_an_address_that_is_taken_names_the_settings(endpoint: Endpoint) -> None:
    other = Endpoint("127.0.0.1", endpoint.port, lambda accept: (b"", ""))

    with pytest.raises(ConfigError, match="PGSCHED_METRICS_HOST and PGSCHED_METRICS_PORT"):
        await other.start()


async def test_without_a_port_only_the_log_looks_on() -> None:
    settings = load_settings(database_url="postgresql://nobody@nowhere/none")
    observation = Observation(settings)
    database = observation.database(settings.database_url)
    client = object()

    assert isinstance(database, ObservedDatabase)
    summary, setter = database.observers
    assert summary is observation.summary
    assert type(setter).__name__ == "_Setter"  # of the clock
    assert type(observation.settler(database, Targets(database, settings))) is Settler
    assert observation.client(client) is client  # type: ignore[arg-type]
    await observation.start("1", None, None, None, None)  # type: ignore[arg-type]
    assert observation.port is None


def test_a_worker_without_metrics_does_not_import_the_library() -> None:
    code = (
        "import sys, pgsched.worker;"
        "sys.exit(any(m in sys.modules for m in ('prometheus_client', 'opentelemetry')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_distribution_counts_up_to_its_bounds_and_beyond() -> None:
    found = Distribution((1.0, 2.5))
    for value in (0, 1, 1.5, 2.5, 99):
        found.observe(value)

    assert dict(found.buckets()) == {"1.0": 2, "2.5": 4, "+Inf": 5}
    assert found.total == 104
