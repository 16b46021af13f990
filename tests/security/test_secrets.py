"""Secrets are where they are needed and nowhere else; no name begins a line of a log."""

from __future__ import annotations

import logging
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb

from pgsched.logs import Formatter
from pgsched.settings import Settings, secret_values
from tests.commanding import Command
from tests.receiver import Push, Receiver
from tests.restoring import TABLES
from tests.roles import as_role
from tests.security.names import NAMES
from tests.test_logs_processes import API_KEY, PASSWORD, SECRETS, webhook_secret
from tests.waiting import eventually
from tests.working import Connection, Process, StartWorker

# Of an external system, which names the variables; no setting of pgsched holds these.
OF_SYSTEM = {
    "MAILER_KEY": "canary-of-a-mailer",
    "MAILER_SIGNING": webhook_secret("signing-of-a-mailer"),
}
ALL = [secret.removeprefix("whsec_") for secret in (*SECRETS.values(), *OF_SYSTEM.values())]
ALL.append(PASSWORD)
BAD = NAMES["a new line"] + NAMES["a terminal"]
LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) +"
    r"(pgsched\.\w+|uvicorn\.\w+|psycopg[\w.]*|asyncio)"
)
ENVIRONMENT = {
    **SECRETS,
    **OF_SYSTEM,
    "PGSCHED_LOG_LEVEL": "DEBUG",
    "PGSCHED_PUBLIC_URL": "http://127.0.0.1:1",
    "PYTHONUNBUFFERED": "1",
}


def told(text: str) -> list[str]:
    return [secret for secret in ALL if secret in text]


@pytest.fixture
def serving(dsn: str, tmp_path: Path) -> Iterator[Process]:
    database = make_conninfo(as_role(dsn, "operator"), password=PASSWORD)
    environment = {**ENVIRONMENT, "PGSCHED_DATABASE_URL": database, "PGSCHED_API_PORT": "0"}
    process = Process(tmp_path / "api.log", environment, "pgsched", "serve")
    yield process
    process.kill()


def refuse(push: Push) -> bool:
    push.answer(422, error=BAD)
    return True


def make_work(db: Connection, receiver: Receiver) -> None:
    """Tasks with such a name, pushed with keys, that all fail."""
    receiver.holds = refuse
    db.execute(
        "select pgsched.define_external_system('mailer', %s, p_api_key_env => 'MAILER_KEY',"
        " p_signing_secret_env => 'MAILER_SIGNING')",
        [receiver.url],
    )
    db.execute("select pgsched.define_queue('mail', 'mailer')")
    db.execute(
        "select pgsched.define_task(%s, p_queue => 'mail', p_max_retries => 0)"
        " from (values (1)) as v (n)",
        [BAD],
    )
    db.execute("select pgsched.schedule_immediate(%s, %s)", [BAD, Jsonb({BAD: BAD})])
    db.execute("select pgsched.define_queue('astray', %s)", [_system(db)])
    db.execute("select pgsched.schedule_immediate('job', p_queue => 'astray')")


def _system(db: Connection) -> str:
    """An external system with a bad name, whose secret is in no environment."""
    db.execute(
        "select pgsched.define_external_system(%s, 'http://127.0.0.1:1',"
        " p_signing_secret_env => 'NOT_THERE')",
        [BAD],
    )
    return BAD


def where_told(db: Connection) -> list[tuple[str, str]]:
    """In which tables, and in which sessions of the server."""
    places = [
        (name, f"select to_jsonb(t)::text from pgsched.{name} as t")
        for (name,) in db.execute(TABLES).fetchall()
    ]
    places += [
        (
            "pg_stat_activity",
            """select concat_ws(' ', query, application_name) from pg_stat_activity
            where datname = current_database()""",
        ),
        ("pg_settings", "select concat_ws(' ', name, setting) from pg_settings"),
        ("pg_prepared_statements", "select statement from pg_prepared_statements"),
    ]
    return [
        (name, secret)
        for name, query in places
        for (text,) in db.execute(query.encode()).fetchall()
        for secret in told(str(text))
    ]


def test_no_secret_is_told_and_no_line_is_forged(
    db: Connection, dsn: str, receiver: Receiver, start_worker: StartWorker, serving: Process
) -> None:
    database = make_conninfo(as_role(dsn, "worker"), password=PASSWORD)
    make_work(db, receiver)
    worker = start_worker(PGSCHED_DATABASE_URL=database, PGSCHED_METRICS_PORT="0", **ENVIRONMENT)
    (push, *_) = receiver.wait_for(1)
    eventually(lambda: "task failed" in worker.log and "queue is not served" in worker.log)
    metrics_url = eventually(lambda: re.search(r"metrics listening url=(\S+)", worker.log))
    api_url = eventually(lambda: re.search(r"API listening url=(\S+)", serving.log))
    assert metrics_url
    assert api_url
    with httpx.Client(headers={"Authorization": f"Bearer {API_KEY}"}, trust_env=False) as client:
        eventually(lambda: client.get(f"{api_url[1]}/health/ready").is_success)
        shown = [
            client.get(f"{metrics_url[1].removesuffix('/metrics')}/metrics").text,
            client.get(f"{api_url[1]}/metrics").text,
            client.get(f"{api_url[1]}/api/external-systems").text,
            client.get(f"{api_url[1]}/openapi.json").text,
            client.get(f"{api_url[1]}/api/queues/{'x' * 2000}%0aforged").text,
        ]
        assert "pgsched_" in shown[0]
    assert where_told(db) == []
    for process in (worker, serving):
        process.signal(signal.SIGTERM)
        assert process.process.wait(30) == 0

    # They are where they belong.
    headers = {name.lower(): value for name, value in push.headers.items()}
    assert headers["authorization"] == f"Bearer {OF_SYSTEM['MAILER_KEY']}"
    assert headers["webhook-signature"]
    assert [told(text) for text in (*shown, worker.log, serving.log)] == [[]] * 7
    for log in (worker.log, serving.log):
        assert "Bearer" not in log
        assert [line for line in log.splitlines() if not LINE.match(line)] == []
        assert [char for char in log if char != "\n" and not char.isprintable()] == []


@pytest.mark.parametrize("argument", ["p_api_key_env", "p_signing_secret_env"])
@pytest.mark.parametrize("name", ["PGSCHED_DATABASE_URL", "pgsched_api_key"])
def test_no_setting_is_sent_away_as_a_key(
    db: Connection, receiver: Receiver, start_worker: StartWorker, argument: str, name: str
) -> None:
    """Who may define external systems has no right to what is in the worker's environment."""
    db.execute(
        f"select pgsched.define_external_system('thief', %s, {argument} => %s)".encode(),
        [receiver.url, name],
    )
    db.execute("select pgsched.define_queue('stolen', 'thief')")
    db.execute("select pgsched.schedule_immediate('job', p_queue => 'stolen')")

    worker = start_worker(**{name: API_KEY} if name.islower() else {})

    eventually(lambda: f"names {name}, which is a setting" in worker.log)
    assert receiver.pushes == []


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_config_hides_them(
    pgsched: Command, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    for url in (
        f"postgresql://app:{PASSWORD}@127.0.0.1:1/app?sslpassword={PASSWORD}",
        f"host=127.0.0.1 port=1 password='{PASSWORD}' sslpassword={PASSWORD}",
    ):
        answer = pgsched("config", *more, "--database-url", url, columns=400)

        assert told(answer.out + answer.err) == []
        assert "***" in answer.out


WRONG_URLS = (
    f"postgresql://app:{PASSWORD}@127.0.0.1:1/app",
    f"postgresql://app:{PASSWORD}@no host/app",
    f"postgresql://app:{PASSWORD}@127.0.0.1:port/app",
    f"postgresql://app:{PASSWORD}%zz@127.0.0.1/app",
    f"postgresql://app:x@{PASSWORD}@127.0.0.1/app",
    f"postgresql://app:{PASSWORD}@127.0.0.1/app?nonsense=1",
    f"host=127.0.0.1 port=1 password={PASSWORD} nonsense",
    f"host=127.0.0.1 port=1 password='{PASSWORD}",
    f"host=127.0.0.1 port=1 password={PASSWORD} sslmode=nonsense",
    PASSWORD,
)


@pytest.mark.parametrize("url", WRONG_URLS)
@pytest.mark.parametrize("command", ["queues list", "doctor", "migrate --check", "serve"])
def test_a_wrong_dsn_is_told_without_its_password(
    pgsched: Command, monkeypatch: pytest.MonkeyPatch, url: str, command: str
) -> None:
    if command == "serve":  # with a setting that stops it
        monkeypatch.setenv("PGSCHED_API_HOST", "0.0.0.0")
        monkeypatch.delenv("PGSCHED_API_KEY", raising=False)

    answer = pgsched(*command.split(), "--database-url", url)

    assert answer.code == 1
    assert told(answer.out + answer.err) == []
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_a_wrong_secret_is_not_quoted(
    pgsched: Command, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("PGSCHED_DATABASE_URL", "host=127.0.0.1 port=1")
    monkeypatch.setenv(name, "canary \N{SNOWMAN} \n of-a-secret")

    for command in (["config"], ["queues", "list"]):
        answer = pgsched(*command)

        assert "canary" not in answer.out + answer.err
        assert "of-a-secret" not in answer.out + answer.err


def test_no_log_shows_them_and_no_repr() -> None:
    values: dict[str, Any] = {
        name.removeprefix("PGSCHED_").lower(): value for name, value in SECRETS.items()
    }
    settings = Settings(database_url="host=h password=of-login sslpassword=of-key-file", **values)
    line = Formatter(secret_values(settings)).format(
        logging.makeLogRecord({"msg": f"{' '.join(SECRETS.values())} of-login of-key-file"})
    )

    assert told(repr(settings)) == told(line) == []
    assert line.endswith(": " + " ".join(["***"] * (len(SECRETS) + 2)))
