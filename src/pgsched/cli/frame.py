"""How `pgsched top` looks: one frame, that fits a terminal of 80 by 24, or is as long as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Literal, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pgsched.cli.printing import ago, clean, coloured, span
from pgsched.cli.queues import MOST, late, limit_of, state_of
from pgsched.cli.snapshot import Line, Snapshot
from pgsched.cli.workers import held, queues_of
from pgsched.doctor import plural
from pgsched.queues import QueueStatus
from pgsched.rows import FailureKind, WorkerStatus

# Lines that are no rows: two at the top, a blank and a head for each table, two at the bottom.
FIXED = 10
Cells = Sequence[str | Text]
Justify = Literal["left", "right"]


def _lateness(line: Line) -> float:
    since = line.queue.oldest_due_since
    return float("-inf") if since is None else -since.timestamp()


# By what queues may be sorted; the greatest comes first.
SORTS: dict[str, Callable[[Line], float]] = {
    "late": _lateness,
    "due": lambda line: line.queue.due_count,
    "in flight": lambda line: line.queue.in_flight_count,
    "done": lambda line: line.done_rate,
    "failed": lambda line: line.failed_rate,
    "name": lambda _: 0,
}


class View(NamedTuple):
    """What the frame says beside the numbers; *height* None: as long as it is."""

    sort: str = "late"
    height: int | None = None
    every: timedelta = timedelta(seconds=2)
    is_paused: bool = False
    trouble: str = ""


def frame(snapshot: Snapshot, view: View) -> RenderableType:
    """All of it; what finds no room is counted."""
    lines = sorted(snapshot.lines, key=lambda line: line.queue.queue)
    lines.sort(key=SORTS[view.sort], reverse=True)
    lists = [
        [_queue(line, snapshot) for line in lines],
        [_worker(worker, snapshot) for worker in snapshot.workers],
        [_failure(failure, snapshot) for failure in snapshot.failures],
    ]
    room = None if view.height is None else max(view.height - FIXED - bool(view.trouble), 3)
    tables = (_queues(), _workers(), _failures())
    for table, rows, most in zip(tables, lists, share(room, list(map(len, lists))), strict=True):
        _fill(table, rows, most)
        if view.height is None:
            for column in table.columns:
                column.no_wrap, column.overflow = False, "fold"
    parts: list[RenderableType] = [_title(snapshot, view), _totals(snapshot)]
    for table in tables:
        if table.row_count:
            parts += ["", table]
    if view.height is not None:
        parts += ["", _keys(view)]
    return Group(*parts)


def share(room: int | None, wanted: list[int]) -> list[int]:
    """How many lines each list gets of *room*, in turn, the first one first."""
    if room is None:
        return wanted
    given = [0] * len(wanted)
    while room > 0 and given != wanted:
        for n, most in enumerate(wanted):
            if given[n] < most and room > 0:
                given[n] += 1
                room -= 1
    return given


def _fill(table: Table, rows: list[Cells], most: int) -> None:
    shown = rows if len(rows) <= most else rows[: max(most - 1, 0)]
    for row in shown:
        table.add_row(*row)
    if len(shown) < len(rows) and most:
        table.add_row(Text(f"… {len(rows) - len(shown)} more", style="dim"))


# The top and the bottom


def _title(snapshot: Snapshot, view: View) -> Text:
    title = Text("pgsched top", style="bold", no_wrap=True, overflow="ellipsis")
    title.append(f"  {snapshot.at:%Y-%m-%d %H:%M:%S} UTC", style="not bold")
    if view.height is not None:
        title.append(f"  every {span_of(view.every)}, by {view.sort}", style="not bold dim")
    if view.is_paused:
        title.append("  PAUSED", style="yellow")
    if view.trouble:
        title.append(f"\n{clean(view.trouble)}", style="bold red")
    return title


def span_of(every: timedelta) -> str:
    """As 2s or 0.5s."""
    return f"{every.total_seconds():g}s"


def _totals(snapshot: Snapshot) -> Text:
    lines = snapshot.lines
    alive = sum(worker.is_alive for worker in snapshot.workers)
    totals = Text(no_wrap=True, overflow="ellipsis")
    totals.append(plural(alive, "worker"), style="" if alive else "bold red")
    totals.append(f", {_number(sum(line.queue.due_count for line in lines))} due")
    totals.append(f", {_number(sum(line.queue.in_flight_count for line in lines))} in flight")
    totals.append(f", {rate(sum(line.done_rate for line in lines))} done/s")
    failed = sum(line.failed_rate for line in lines)
    totals.append(", ")
    totals.append(f"{rate(failed)} failed/s", style="red" if failed else "")
    latency = snapshot.latency
    if latency.p50_seconds is not None and latency.p99_seconds is not None:
        totals.append(f", start {_short(latency.p50_seconds)} p99 {_short(latency.p99_seconds)}")
    return totals


def _keys(view: View) -> Text:
    pause = "go on" if view.is_paused else "pause"
    return Text(f"q quit   p {pause}   s sort", style="reverse", no_wrap=True)


# The tables


def _queues() -> Table:
    return _table(
        ("Queue", "left"),
        *((word, "right") for word in ("Due", "Late", "Later", "Wait", "Flight", "Limit")),
        *((word, "right") for word in ("Done/s", "Fail/s")),
        ("State", "left"),
    )


def _queue(line: Line, snapshot: Snapshot) -> Cells:
    queue = line.queue
    state = state_of(queue)
    lateness = late(queue, snapshot.at)
    return (
        clean(queue.queue),
        _number(queue.due_count),
        Text("" if lateness == "0s" else lateness, style="yellow"),
        _number(queue.later_count),
        _number(queue.waiting_count),
        Text(_number(queue.in_flight_count), style="yellow" if _is_full(queue) else ""),
        limit_of(queue).replace(", ", " "),
        rate(line.done_rate),
        Text(rate(line.failed_rate), style="red" if line.failed_rate else ""),
        coloured(state),
    )


def _is_full(queue: QueueStatus) -> bool:
    return queue.max_in_flight is not None and queue.in_flight_count >= queue.max_in_flight


def _workers() -> Table:
    return _table(
        ("Worker", "left"),
        ("State", "left"),
        ("Lease", "right"),
        ("Holds", "right"),
        ("Up", "right"),
        ("Queues", "left"),
    )


def _worker(worker: WorkerStatus, snapshot: Snapshot) -> Cells:
    left = worker.lease_expires_at - snapshot.at
    return (
        clean(f"{worker.hostname}:{worker.pid}"),
        coloured(worker.state.lower()),
        span(left) if worker.is_alive else f"-{span(left)}",
        held(worker),
        span(snapshot.at - worker.started_at),
        clean(queues_of(worker)),
    )


def _failures() -> Table:
    return _table(
        ("Failed", "right"), ("Latest", "right"), ("Definition", "left"), ("Error", "left")
    )


def _failure(failure: FailureKind, snapshot: Snapshot) -> Cells:
    return (
        f"{failure.failed_count:,}",
        ago(failure.latest_at, snapshot.at),
        clean(failure.definition_name or "-"),
        clean(failure.error or "no error given"),
    )


def _table(*columns: tuple[str, Justify]) -> Table:
    """A row is a line: what does not fit its cell ends in an ellipsis."""
    made = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for name, justify in columns:
        made.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis")
    return made


# Numbers


def _number(number: int) -> str:
    return f"{number // 1000}k+" if number >= MOST else f"{number:,}"


def rate(per_second: float) -> str:
    """As 0, 0.3 or 1,234."""
    if per_second == 0:
        return "0"
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.1f}"


def _short(seconds: float) -> str:
    return f"{seconds * 1000:.0f}ms" if seconds < 1 else span(timedelta(seconds=seconds))
