"""The API against its own OpenAPI document: whatever is sent, it answers as the document says."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import psycopg
import pytest
from pydantic import SecretStr
from schemathesis.core.failures import FailureGroup
from schemathesis.python.asgi import ASGIClient, get_client, shutdown_lifespans

from pgsched import api
from pgsched.api import services
from pgsched.settings import Settings
from tests.executing import dispatched_task
from tests.restoring import SharedDatabase
from tests.roles import as_role
from tests.security.fuzzing import Values, checks_without, explained, fuzz, load, put_known

KEY = "the-key-of-this-test"
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}
DOCUMENT = api.create_app(Settings(database_url="host=none", api_key=SecretStr(KEY))).openapi()
OPERATIONS = [
    f"{method.upper()} {path}" for path, item in DOCUMENT["paths"].items() for method in item
]
# Of the paths, those that go without a key.
OPEN = {"/health/live", "/health/ready"}
# What an operation need not do, and why.
EXCUSED = {
    # One wrong report is refused in its place, and is no harm to the others.
    "POST /api/tasks/status": ["negative_data_rejection"],
} | {
    # By another method this is a schedule whose name ends so.
    operation: ["unsupported_method"]
    for operation in OPERATIONS
    if "/api/schedules/{schedule}/" in operation
}


@pytest.fixture(scope="module")
def client(shared: SharedDatabase) -> Iterator[ASGIClient]:
    app: Any = api.create_app(
        Settings(database_url=as_role(shared.dsn, "operator"), api_key=SecretStr(KEY))
    )
    with patch.object(services, "CONNECTION_WAIT", 60.0), get_client(app) as client:
        yield client
    shutdown_lifespans()


@pytest.fixture
def known(dsn: str) -> Values:
    """One of each kind of thing, by the names that parameters and fields have."""
    dispatched = dispatched_task(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:

        def make(call: str) -> str:
            row = conn.execute(f"select pgsched.{call}".encode()).fetchone()
            assert row is not None
            return str(row[0])

        failed = make("schedule_immediate('job')")
        make(f"cancel_task('{failed}')")
        tasks = [
            dispatched,
            failed,
            make("schedule_immediate('job')"),
            make("schedule_loop('job')"),
        ]
        schedules = [make("schedule_cron('job', '0 3 * * *', p_name => 'nightly')"), "nightly"]
        conn.execute("select pgsched.define_queue('mail', p_rate_per_second => 5)")
        conn.execute("select pgsched.define_external_system('mailer', 'http://mailer')")
    return {
        "task_id": tasks,
        "definition": ["job"],
        "name_or_id": ["job"],
        "schedule": schedules,
        "queue": ["default", "mail"],
        "name": ["default", "mailer"],
        "external_system": ["default"],
    }


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_answer_is_as_documented(
    client: ASGIClient, dsn: str, known: Values, operation: str
) -> None:
    found = load(DOCUMENT, client.app).find_operation_by_label(operation)
    checks = checks_without(*EXCUSED.get(operation, ()))

    def check(case: Any) -> None:
        put_known(case, known)
        response = case.call(session=client, headers=AUTHORIZED)
        try:
            case.validate_response(response, checks=checks)
        except FailureGroup as group:
            raise explained(group, case, response) from None

    fuzz(found, check)


# The key

PATHS = {
    "task_id": "01980000-0000-7000-8000-000000000000",
    "name_or_id": "job",
    "schedule": "nightly",
    "queue": "default",
    "name": "default",
}
WRONG_KEYS = ["", "Bearer", "Bearer ", f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", f"Basic {KEY}", KEY]


def send(client: ASGIClient, operation: str, **headers: str) -> Any:
    method, _, path = operation.partition(" ")
    return client.request(method, path.format(**PATHS), headers=headers, json={})


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_wants_the_key_and_says_so(
    client: ASGIClient, dsn: str, operation: str
) -> None:
    method, _, path = operation.partition(" ")
    documented = DOCUMENT["paths"][path][method.lower()]
    if path in OPEN:
        assert "security" not in documented
        assert send(client, operation).status_code == 200
        return
    assert documented["security"] == [{"key": []}]
    assert "401" in documented["responses"]
    for headers in ({}, *({"Authorization": given} for given in WRONG_KEYS)):
        refused = send(client, operation, **headers)
        assert (refused.status_code, refused.json()["code"]) == (401, "UNAUTHORIZED"), headers
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert KEY not in refused.text
    assert send(client, operation, **AUTHORIZED).status_code != 401


def test_keys_are_compared_in_constant_time(client: ASGIClient, dsn: str) -> None:
    with patch("hmac.compare_digest", wraps=hmac.compare_digest) as compare:
        send(client, "GET /api/queues", Authorization="Bearer wrong")
        send(client, "GET /api/queues", **AUTHORIZED)

    assert [call.args for call in compare.call_args_list] == [
        (b"wrong", KEY.encode()),
        (KEY.encode(), KEY.encode()),
    ]


def test_without_a_key_the_document_asks_for_none() -> None:
    document = api.create_app(Settings(database_url="host=none")).openapi()

    assert "securitySchemes" not in document["components"]
    assert not any(
        "security" in one for item in document["paths"].values() for one in item.values()
    )
