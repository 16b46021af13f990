"""
    python -m benchmarks.page

Makes the tables and plots of docs/benchmarks.md from the figures that
`benchmarks.peers` and `benchmarks.growth` have left in docs/benchmarks/.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.peers import environments
from benchmarks.peers.peer import PEERS
from benchmarks.peers.rounds import IN_BATCHES

DOCS = Path(__file__).parents[1] / "docs"
FIGURES = DOCS / "benchmarks"
PLOTS = Path(__file__).with_name("plots.py")

Results = dict[str, dict[str, list[float]]]


class Column(NamedTuple):
    """One measurement: its key in the figures, its heading, and whether less is better."""

    key: str
    heading: str
    less: bool = False
    digits: int = 0


TABLES = {
    "throughput": [
        Column("drain", "no-op, 1 worker"),
        Column("workers 2", "2 workers"),
        Column("workers 4", "4 workers"),
        Column("post", "POST each"),
        Column("held", "a snapshot held"),
        Column("future", "1,000,000 future jobs"),
    ],
    "enqueue": [
        Column("enqueue 1", "1 client"),
        Column("enqueue 16", "16 clients"),
        Column("enqueue 64", "64 clients"),
        Column("bulk", "bulk"),
    ],
    "latency": [
        Column("idle p50", "idle p50", less=True, digits=1),
        Column("idle p99", "idle p99", less=True, digits=1),
        Column("busy p50", "500/s p50", less=True, digits=1),
        Column("busy p99", "500/s p99", less=True, digits=1),
    ],
    "cost": [
        Column("wal", "WAL bytes", less=True),
        Column("commits", "commits", less=True, digits=3),
        Column("dead", "dead row versions", less=True, digits=2),
    ],
}


def table(results: Results, columns: Sequence[Column]) -> Iterator[str]:
    """The median of each, its lowest and highest below, and the best of a column in bold."""
    names = [peer.name for peer in PEERS]
    if "post" in [column.key for column in columns]:
        names.insert(1, IN_BATCHES)
    yield "| | " + " | ".join(column.heading for column in columns) + " |"
    yield "|---|" + "---:|" * len(columns)
    for name in names:
        cells = [cell(results.get(column.key, {}), name, column) for column in columns]
        yield f"| {name} | " + " | ".join(cells) + " |"


def cell(found: dict[str, list[float]], name: str, column: Column) -> str:
    if not (figures := found.get(name)):
        return ""
    others = [statistics.median(f) for other, f in found.items() if other != IN_BATCHES and f]
    best = min(others) if column.less else max(others)
    middle, *ends = (
        f"{value:,.{column.digits}f}"
        for value in (statistics.median(figures), min(figures), max(figures))
    )
    is_best = statistics.median(figures) == best
    bold = "**" if is_best else ""
    return f"{bold}{middle}{bold} <sub>{ends[0]}-{ends[1]}</sub>"


def setups() -> Iterator[str]:
    yield "| | version | how it is set up |"
    yield "|---|---|---|"
    for peer in PEERS:
        yield f"| {peer.name} | {peer.version} | {peer.setup} |"


def growth(found: dict[str, list[tuple[int, float]]]) -> Iterator[str]:
    for kind, points in found.items():
        told = ", ".join(f"{cost:.0f} at {size:,}" for size, cost in points)
        yield f"- **{kind}**: {told}"


def fill(page: str, blocks: dict[str, Iterator[str]]) -> str:
    """Put each block between its two markers."""
    for name, lines in blocks.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, found, rest = page.partition(begin)
        _, found_end, after = rest.partition(end)
        if not (found and found_end):
            raise LookupError(f"docs/benchmarks.md has no block {name}")
        page = "\n".join((before + begin, *lines, end + after))
    return page


def main() -> None:
    peers: Results = json.loads((FIGURES / "peers.json").read_text())
    grown = json.loads((FIGURES / "growth.json").read_text())
    blocks = {name: table(peers, columns) for name, columns in TABLES.items()}
    blocks |= {"setups": setups(), "growth": growth(grown)}
    page = DOCS / "benchmarks.md"
    page.write_text(fill(page.read_text(), blocks))
    python = environments.packages_of("plots", "matplotlib==3.10.*")
    subprocess.run([python, str(PLOTS), str(FIGURES)], check=True)


if __name__ == "__main__":
    main()
