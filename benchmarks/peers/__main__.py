"""
    python -m benchmarks.peers [--rounds 3] [--share 1.0] [--only NAME,...] [--file FILE] [CASE ...]

Measures pgsched and its peers on one Postgres, on this machine, now: three
quarters of an hour for all of it.  Each peer comes from its public package, and
is installed at the first run.  What was found goes to docs/benchmarks/peers.json,
from which `python -m benchmarks.page` makes docs/benchmarks.md; or to another
file, if not all was measured.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import bench
from benchmarks.peers.peer import PEERS
from benchmarks.peers.rounds import CASES, Rounds, Scale
from pgsched.devdb import state_dir

WHOLE = Path(__file__).parents[2] / "docs" / "benchmarks" / "peers.json"
PART = state_dir() / "peers.json"
NAMES = [peer.name for peer in PEERS]


def main() -> None:
    parser = argparse.ArgumentParser(description="pgsched side by side with its peers.")
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; all, if none is named")
    parser.add_argument("--rounds", type=_count, default=Scale().rounds)
    parser.add_argument("--share", type=float, default=1.0, help="of the jobs of a full run")
    parser.add_argument("--only", default=NAMES, type=_names, help="peers, with commas between")
    parser.add_argument("--file", type=Path, help=f"where the figures go; {WHOLE} or {PART}")
    args = parser.parse_args()
    if unknown := set(args.cases) - set(CASES):
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")

    is_whole = (
        not args.cases and args.only == NAMES and args.share == 1 and args.rounds >= Scale().rounds
    )
    file: Path = args.file or (WHOLE if is_whole else PART)
    file.parent.mkdir(parents=True, exist_ok=True)
    peers = [peer for peer in PEERS if peer.name in args.only]
    for peer in peers:
        try:
            peer.command()  # installs it
        except OSError as exc:
            sys.exit(f"{peer.name} cannot be installed, and --only can leave it out: {exc}")
    with bench.server() as own:
        Rounds(own, peers, Scale(args.rounds, args.share), file).run(args.cases or list(CASES))
    print(f"the figures are in {file}", file=sys.stderr)


def _count(given: str) -> int:
    if not given.isdecimal() or int(given) < 1:
        raise argparse.ArgumentTypeError(f"{given} is no number of rounds, from 1")
    return int(given)


def _names(given: str) -> list[str]:
    names = given.split(",")
    if unknown := set(names) - set(NAMES):
        told = f"no such peer: {', '.join(unknown)}; there are {', '.join(NAMES)}"
        raise argparse.ArgumentTypeError(told)
    return names


main()
