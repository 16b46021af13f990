"""A task and the caller's own rows exist together, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL, create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from pgsched.errors import Invalid, NotFound
from pgsched.lifecycle import LifecycleService
from pgsched.scheduler import SchedulerService
from tests.executing import count_tasks
from tests.roles import as_role

scheduler = SchedulerService()
lifecycle = LifecycleService()

# They make a table of the caller's.
pytestmark = pytest.mark.own_database


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture(autouse=True)
def _orders(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create table public.orders (id integer primary key)")
        conn.execute("grant all on public.orders to public")
        conn.execute("select pgsched.define_task('ship')")


def url_of(dsn: str, driver: str = "psycopg") -> URL:
    info: dict[str, Any] = conninfo_to_dict(dsn)
    return URL.create(
        f"postgresql+{driver}",
        username=info["user"],
        database=info["dbname"],
        query={"host": info["host"], "port": str(info["port"])},
    )


@pytest.fixture
async def engine(dsn: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url_of(as_role(dsn, "client")))
    yield engine
    await engine.dispose()


def what_exists(dsn: str) -> tuple[int, int]:
    """How many orders, and how many tasks."""
    with psycopg.connect(dsn) as conn:
        row = conn.execute("select count(*) from public.orders").fetchone()
    assert row is not None
    return row[0], count_tasks(dsn)


# psycopg


async def test_psycopg_nothing_is_there_before_the_commit_and_both_after(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(as_role(dsn, "client")) as conn:
        await conn.execute("insert into public.orders values (1)")
        await scheduler.schedule_immediate(conn, "ship")
        assert what_exists(dsn) == (0, 0)

        await conn.commit()

        assert what_exists(dsn) == (1, 1)


async def test_psycopg_both_are_rolled_back(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(as_role(dsn, "client")) as conn:
        await scheduler.schedule_immediate(conn, "ship")
        await conn.execute("insert into public.orders values (1)")

        await conn.rollback()

        assert what_exists(dsn) == (0, 0)


async def test_psycopg_a_refused_task_takes_the_row_with_it(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(
        as_role(dsn, "client"), autocommit=True
    ) as conn:

        async def order_and_sink() -> None:
            async with conn.transaction():
                await conn.execute("insert into public.orders values (1)")
                await scheduler.schedule_immediate(conn, "sink")

        with pytest.raises(NotFound):
            await order_and_sink()

        assert what_exists(dsn) == (0, 0)


async def test_psycopg_a_savepoint_takes_back_the_task_alone(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(as_role(dsn, "client")) as conn:
        await conn.execute("insert into public.orders values (1)")

        async def ship_and_sink() -> None:
            async with conn.transaction():
                await scheduler.schedule_immediate(conn, "ship")
                await scheduler.schedule_immediate(conn, "sink")

        with pytest.raises(NotFound):
            await ship_and_sink()
        await conn.commit()

        assert what_exists(dsn) == (1, 0)


async def test_psycopg_every_service_leaves_the_commit_to_the_caller(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(as_role(dsn, "operator")) as conn:
        await scheduler.define_task(conn, "other")
        await scheduler.schedule_cron(conn, "ship", "0 3 * * *")
        await lifecycle.submit_ad_hoc_task(conn, "once")
        task_id = await scheduler.schedule_loop(conn, "other")
        await scheduler.stop_loop(conn, task_id)
        await scheduler.retry_task(conn, task_id)
        await scheduler.cancel_task(conn, task_id)

        await conn.rollback()

    assert what_exists(dsn) == (0, 0)
    with psycopg.connect(dsn) as check:
        assert check.execute("select name from pgsched.task_definitions").fetchall() == [("ship",)]
        assert check.execute("select * from pgsched.schedules").fetchall() == []


# SQLAlchemy


async def test_sqlalchemy_nothing_is_there_before_the_commit_and_both_after(
    dsn: str, engine: AsyncEngine
) -> None:
    async with AsyncSession(engine) as session:
        session.add(Order(id=1))
        await scheduler.schedule_immediate(session, "ship")
        await session.flush()
        assert what_exists(dsn) == (0, 0)

        await session.commit()

        assert what_exists(dsn) == (1, 1)


async def test_sqlalchemy_a_task_alone_is_committed_too(dsn: str, engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session, session.begin():
        await scheduler.schedule_immediate(session, "ship")

    assert what_exists(dsn) == (0, 1)


async def test_sqlalchemy_both_are_rolled_back(dsn: str, engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        await session.execute(text("insert into public.orders values (1)"))
        await scheduler.schedule_immediate(session, "ship")

        await session.rollback()

    assert what_exists(dsn) == (0, 0)


async def test_sqlalchemy_an_error_of_the_caller_takes_the_task_with_it(
    dsn: str, engine: AsyncEngine
) -> None:
    async def fail_after_scheduling() -> None:
        async with AsyncSession(engine) as session, session.begin():
            session.add(Order(id=1))
            await scheduler.schedule_immediate(session, "ship")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_after_scheduling()

    assert what_exists(dsn) == (0, 0)


async def test_sqlalchemy_a_session_is_good_for_more_than_one_transaction(
    dsn: str, engine: AsyncEngine
) -> None:
    async with AsyncSession(engine) as session:
        with pytest.raises(NotFound):
            await scheduler.schedule_immediate(session, "sink")
        await session.rollback()

        session.add(Order(id=1))
        await scheduler.schedule_immediate(session, "ship")
        await session.commit()

    assert what_exists(dsn) == (1, 1)


async def test_sqlalchemy_core_connections_are_taken_as_well(dsn: str, engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("insert into public.orders values (1)"))
        await scheduler.schedule_immediate(connection, "ship")

    assert what_exists(dsn) == (1, 1)


def test_sqlalchemy_a_sync_session_is_refused_by_name(dsn: str) -> None:

    engine = create_engine(url_of(as_role(dsn, "client")))
    with Session(engine) as session, pytest.raises(Invalid, match="session must be"):
        asyncio.run(scheduler.schedule_immediate(session, "ship"))
    engine.dispose()
