"""
How fast this machine is right now, by things that are not pgsched's.

The other figures mean little without these: a shared machine can be three
times slower from one hour to the next.
"""

from __future__ import annotations

import aiohttp
import psycopg
import uvloop

from benchmarks import bench
from benchmarks.http_transports import IN_FLIGHT, measure, through_aiohttp
from pgsched.devdb import DevServer

TABLE = "create table yardstick (id bigint primary key, a text, b timestamptz)"
FILL = "insert into yardstick select n, 'x', now() from generate_series(1, 100000) as n"
UPDATE = "update yardstick set a = a || 'y', b = now() where id = any(%s)"


def run(own: DevServer) -> None:
    with bench.receiver() as url:
        rate = uvloop.run(_post(url))
    bench.row("yardstick: POSTs by bare aiohttp, 50 in flight", f"{rate:,.0f} per s")
    rate = _update(own)
    bench.row("yardstick: updates by primary key, 100 rows a call", f"{rate:,.0f} rows/s")


async def _post(url: str) -> float:
    connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
    async with aiohttp.ClientSession(connector=connector) as session:
        push = through_aiohttp(session, f"{url}/api/tasks/status")
        turns = [(await measure(push)).per_second for _ in range(3)]
        return max(turns)


def _update(own: DevServer) -> float:
    dsn = bench.new_database(own, "yardstick")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(TABLE)
        connection.execute(FILL)

        def portion(n: int) -> None:
            ids = list(range(1 + n * 100, 101 + n * 100))
            connection.execute(UPDATE, [ids])

        return 100 * bench.rate(portion, range(1000))
