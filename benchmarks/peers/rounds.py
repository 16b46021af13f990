"""All measurements of all peers, round by round, so that noise meets them alike."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psycopg

from benchmarks import bench
from benchmarks.peers import measure
from benchmarks.peers.peer import PGSCHED, Peer
from pgsched.devdb import DevServer

# case -> peer -> a figure for each round
Results = dict[str, dict[str, list[float]]]

DRAIN = 50_000
POSTS = 20_000
FUTURE = 1_000_000
PILOT = 3_000
# Who is slow drains fewer jobs: as many as it does in so many seconds.
SECONDS = 6.0
ENQUEUE_SECONDS = 3.0
BATCH = 50
IN_BATCHES = f"pgsched, batches of {BATCH}"


class Scale(NamedTuple):
    """How much of it all."""

    rounds: int = 3
    share: float = 1.0  # of the numbers above

    def of(self, number: float) -> int:
        return max(int(number * self.share), 500)


class Rounds:
    """Runs them, and keeps what was found in a file as it goes."""

    def __init__(self, own: DevServer, peers: Sequence[Peer], scale: Scale, file: Path) -> None:
        self._own = own
        self._peers = list(peers)
        self._scale = scale
        self._file = file
        self._pilots: dict[str, float] = {}
        self.results: Results = defaultdict(lambda: defaultdict(list))

    def run(self, cases: Sequence[str]) -> None:
        with contextlib.ExitStack() as stack, bench.receiver("--status", "200") as url:
            for peer in self._peers:
                self._prepare(peer, cases, stack)
            for number in range(self._scale.rounds):
                for case in cases:
                    for peer in self._in_turn(number):
                        self._measure(case, peer, url, f"round {number + 1}")

    def _in_turn(self, number: int) -> list[Peer]:
        at = number % len(self._peers)
        return self._peers[at:] + self._peers[:at]

    def _prepare(self, peer: Peer, cases: Sequence[str], stack: contextlib.ExitStack) -> None:
        """Its databases, and how fast it is at about."""
        self._say(peer, "prepare")
        self._database(peer, "plain")
        self._pilots[peer.name] = measure.drain(peer, self._dsn(peer, "plain"), PILOT).per_second
        if "future" in cases:
            self._database(peer, "future")
            peer.run("bulk", self._dsn(peer, "future"), count=self._scale.of(FUTURE), delay=86400)
        if "held" in cases:
            self._database(peer, "held")
            stack.enter_context(self._snapshot(self._dsn(peer, "held")))
            measure.drain(peer, self._dsn(peer, "held"), self._count(peer))

    @contextlib.contextmanager
    def _snapshot(self, dsn: str) -> Iterator[None]:
        """A transaction that saw nothing of it yet, and stays open."""
        with psycopg.connect(dsn) as stranger:
            stranger.execute("set transaction isolation level repeatable read")
            stranger.execute("select count(*) from pg_class")
            yield

    def _database(self, peer: Peer, purpose: str) -> None:
        peer.run("install", bench.empty_database(self._own, _name(peer, purpose)))

    def _dsn(self, peer: Peer, purpose: str) -> str:
        return self._own.dsn(_name(peer, purpose))

    def _count(self, peer: Peer, most: int = DRAIN) -> int:
        return min(self._scale.of(most), int(self._pilots[peer.name] * SECONDS))

    def _measure(self, case: str, peer: Peer, url: str, when: str) -> None:
        self._say(peer, f"{when}: {case}")
        try:
            for name, figure in CASES[case](self, peer, url).items():
                self.results[name.split("|")[0]][name.partition("|")[2] or peer.name].append(figure)
        except Exception as exc:  # one peer that cannot must not end it for all
            print(f"  {peer.name} failed at {case}: {exc!r}", file=sys.stderr, flush=True)
        self._file.write_text(json.dumps(self.results, indent=1) + "\n")

    @staticmethod
    def _say(peer: Peer, what: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {what}: {peer.name}", file=sys.stderr, flush=True)

    # The cases: what is measured by name, or by name|another than the peer's own

    def noop(self, peer: Peer, url: str) -> dict[str, float]:
        dsn = self._dsn(peer, "plain")
        done = measure.drain(peer, dsn, self._count(peer))
        return {
            "drain": done.per_second,
            "bulk": done.enqueued_per_second,
            "wal": done.wal_bytes,
            "commits": done.commits,
            "dead": done.dead_rows,
        }

    def post(self, peer: Peer, url: str) -> dict[str, float]:
        dsn, count = self._dsn(peer, "plain"), self._count(peer, POSTS)
        found = {"post": measure.drain(peer, dsn, count, kind="post", url=url).per_second}
        if peer is PGSCHED:
            batches = measure.drain(peer, dsn, count, kind="post", url=url, batch=BATCH)
            found[f"post|{IN_BATCHES}"] = batches.per_second
        return found

    def held(self, peer: Peer, url: str) -> dict[str, float]:
        return {"held": self._drain(peer, "held")}

    def future(self, peer: Peer, url: str) -> dict[str, float]:
        return {"future": self._drain(peer, "future")}

    def workers(self, peer: Peer, url: str) -> dict[str, float]:
        return {f"workers {n}": self._drain(peer, "plain", workers=n) for n in (2, 4)}

    def _drain(self, peer: Peer, purpose: str, workers: int = 1) -> float:
        dsn = self._dsn(peer, purpose)
        return measure.drain(peer, dsn, self._count(peer), workers=workers).per_second

    def enqueue(self, peer: Peer, url: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for clients in (1, 16, 64):
            self._database(peer, "enqueue")
            rate = measure.enqueue(peer, self._dsn(peer, "enqueue"), clients, ENQUEUE_SECONDS)
            found[f"enqueue {clients}"] = rate
        return found

    def latency(self, peer: Peer, url: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, rate, seconds in (("idle", 20, 6), ("busy", 500, 5)):
            self._database(peer, "latency")
            waited = measure.latency(peer, self._dsn(peer, "latency"), rate, seconds)
            found |= {f"{name} p50": waited.median, f"{name} p99": waited.p99}
        return found


def _name(peer: Peer, purpose: str) -> str:
    return f"{peer.name}_{purpose}"


CASES: dict[str, Callable[[Rounds, Peer, str], dict[str, float]]] = {
    "drain": Rounds.noop,
    "post": Rounds.post,
    "enqueue": Rounds.enqueue,
    "latency": Rounds.latency,
    "held": Rounds.held,
    "future": Rounds.future,
    "workers": Rounds.workers,
}
