"""
    python -m benchmarks.peers [--rounds 3] [--share 1.0] [--only NAME,...] [CASE ...]

Measures pgsched and its peers on one Postgres, on this machine, now: about an
hour for all of it.  Each peer comes from its public package, and is installed
at the first run.  What was found goes to docs/benchmarks/peers.json, from which
`python -m benchmarks.page` makes docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import bench
from benchmarks.peers.peer import PEERS
from benchmarks.peers.rounds import CASES, Rounds, Scale

FILE = Path(__file__).parents[2] / "docs" / "benchmarks" / "peers.json"


def main() -> None:
    parser = argparse.ArgumentParser(description="pgsched side by side with its peers.")
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; all, if none is named")
    parser.add_argument("--rounds", type=int, default=Scale().rounds)
    parser.add_argument("--share", type=float, default=1.0, help="of the jobs of a full run")
    parser.add_argument("--only", default="", help="peers, with commas between")
    parser.add_argument("--file", type=Path, default=FILE, help="where the figures go")
    args = parser.parse_args()

    if unknown := set(args.cases) - set(CASES):
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    only = set(filter(None, args.only.split(",")))
    if unknown := only - {peer.name for peer in PEERS}:
        parser.error(f"no such peer: {', '.join(unknown)}")
    peers = [peer for peer in PEERS if not only or peer.name in only]
    args.file.parent.mkdir(parents=True, exist_ok=True)
    for peer in peers:
        peer.command()  # installs it
    with bench.server() as own:
        Rounds(own, peers, Scale(args.rounds, args.share), args.file).run(args.cases or list(CASES))


main()
