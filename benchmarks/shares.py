"""
    python -m benchmarks.shares [PEER ...]

Where the time of a job goes: CPU of the worker process and of the sessions of
Postgres, with a job that does nothing and with one that is a POST, for pgsched
and for the two peers that are fastest beside it.  What a POST costs the worker
more than nothing is the share of HTTP.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any, NamedTuple

import psycopg

from benchmarks import bench
from benchmarks.peers import measure
from benchmarks.peers.peer import PEERS, Peer
from pgsched.devdb import DevServer

COUNT = 40_000
ROUNDS = 3
NAMES = ["pgsched", "graphile_worker", "pg_boss"]


class Share(NamedTuple):
    """Microseconds a job."""

    wall: float
    worker: float
    postgres: float


def run(own: DevServer, peers: list[Peer]) -> None:
    with bench.receiver("--status", "200") as url:
        for kind, to in (("noop", None), ("post", url)):
            found: dict[str, list[Share]] = {peer.name: [] for peer in peers}
            for _ in range(ROUNDS):
                for peer in peers:
                    found[peer.name].append(_share(own, peer, kind, to))
            for name, shares in found.items():
                wall, worker, postgres = map(statistics.median, zip(*shares, strict=True))
                bench.row(
                    f"{name}, {kind}: CPU of the worker / of Postgres, of {wall:.1f} us a job",
                    f"{worker:.1f} / {postgres:.1f} us",
                )


def _share(own: DevServer, peer: Peer, kind: str, url: str | None) -> Share:
    dsn = bench.empty_database(own, "shares")
    peer.run("install", dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        peer.run("bulk", dsn, count=COUNT)
        measure.analyze(connection)
        tally, before = measure.Tally(url), Cpu(0, 0)
        with peer.workers(dsn, 1, kind=kind, url=url) as crew:

            def start() -> None:
                nonlocal before
                before = _cpu(connection, crew[0].pid)

            left, seconds = measure.finish(peer, connection, COUNT, crew, tally, start)
            after = _cpu(connection, crew[0].pid)
    spent = seconds, after.worker - before.worker, after.postgres - before.postgres
    return Share(*(1e6 * each / left for each in spent))


class Cpu(NamedTuple):
    """Seconds."""

    worker: float
    postgres: float


def _cpu(connection: psycopg.Connection[Any], worker: int) -> Cpu:
    return Cpu(bench.cpu_of([worker]), bench.cpu_of(bench.sessions(connection)))


def main() -> None:
    names = sys.argv[1:] or NAMES
    known = {peer.name: peer for peer in PEERS}
    if unknown := set(names) - set(known):
        sys.exit(f"no such peer: {', '.join(unknown)}; there are {', '.join(known)}")
    with bench.server() as own:
        run(own, [known[name] for name in names])


if __name__ == "__main__":
    main()
