"""
    python plots.py FOLDER

Draws FOLDER/peers.svg and FOLDER/growth.svg from the figures there.  Run by
`benchmarks.page` in an environment of its own, the one thing in which is matplotlib.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.ticker import EngFormatter

mpl.rcParams.update(
    {
        "svg.hashsalt": "pgsched",
        "font.size": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.facecolor": "white",
    }
)
OURS, THEIRS = "#3465a4", "#b0b0b0"
PANELS = {
    "drain": "no-op drain, jobs/s",
    "post": "POST each, jobs/s",
    "enqueue 16": "enqueue, 16 clients, jobs/s",
    "held": "drain, a snapshot held open, jobs/s",
    "future": "drain, 1,000,000 future jobs, jobs/s",
    "idle p50": "enqueue to start, idle, p50, ms",
}
GROWTH = {
    "backlog": "future tasks beside those due",
    "record": "finished tasks in the record",
    "queues": "queues with tasks, one worker",
    "workers": "worker processes",
}


def peers(results: dict[str, dict[str, list[float]]], file: Path) -> None:
    """A bar for the median of each, a line from the lowest to the highest."""
    figure, axes = plt.subplots(2, 3, figsize=(11, 5.2), layout="constrained")
    for (key, title), axis in zip(PANELS.items(), axes.flat, strict=True):
        found = results.get(key, {})
        ranked = sorted(found, key=lambda name: statistics.median(found[name]))
        if "p50" in key:
            ranked.reverse()
        middles = [statistics.median(found[name]) for name in ranked]
        below = [m - min(found[name]) for m, name in zip(middles, ranked, strict=True)]
        above = [max(found[name]) - m for m, name in zip(middles, ranked, strict=True)]
        colors = [OURS if name.startswith("pgsched") else THEIRS for name in ranked]
        axis.barh(ranked, middles, xerr=[below, above], color=colors, ecolor="#555555", height=0.7)
        axis.set_title(title, loc="left", fontsize=8, fontweight="bold")
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.xaxis.set_major_locator(plt.MaxNLocator(4, integer=True))
    save(figure, file)


def growth(found: dict[str, list[tuple[float, float]]], file: Path) -> None:
    kinds = [kind for kind in GROWTH if kind in found]
    size = (2.75 * len(kinds), 2.6)
    figure, axes = plt.subplots(1, len(kinds), figsize=size, layout="constrained", squeeze=False)
    for kind, axis in zip(kinds, axes.flat, strict=True):
        points, title = found[kind], GROWTH[kind]
        sizes = [max(size, 1) for size, _ in points]
        axis.plot(sizes, [cost for _, cost in points], marker="o", color=OURS)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.set_ylim(0, 1.1 * max(cost for _, cost in points))
        axis.set_title(title, loc="left", fontsize=8, fontweight="bold")
        axis.set_ylabel("microseconds a task")
    save(figure, file)


def save(figure: plt.Figure, file: Path) -> None:
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    folder = Path(sys.argv[1])
    peers(json.loads((folder / "peers.json").read_text()), folder / "peers.svg")
    growth(json.loads((folder / "growth.json").read_text()), folder / "growth.svg")


main()
