"""The arguments and flags that several commands take."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer

from pgsched.cli import completion
from pgsched.cli.values import duration_of, object_of, time_of

DatabaseUrl = Annotated[
    str | None,
    typer.Option("--database-url", help="Connection string; default: PGSCHED_DATABASE_URL."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="Name or id of the schedule.",
        autocompletion=completion.schedules,
    ),
]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="As many, the newest first.")]

# When a schedule runs

Cron = Annotated[str | None, typer.Option("--cron", help="Cron expression.")]
Zone = Annotated[str | None, typer.Option("--tz", help="IANA name of the zone it is read in.")]
Every = Annotated[
    timedelta | None,
    typer.Option(
        "--every",
        parser=duration_of,
        metavar="DURATION",
        help="Elapsed time from run to run, as 90s, 5m, 2h, 1d.",
    ),
]

# How it fires


class OverlapPolicy(StrEnum):
    """While the latest run is unfinished."""

    SKIP = "skip"
    QUEUE_ONE = "queue_one"
    ALLOW = "allow"


class MisfirePolicy(StrEnum):
    """What runs of the instants that an outage made late."""

    LATEST = "latest"
    ALL = "all"
    NONE = "none"


Overlap = Annotated[
    OverlapPolicy | None,
    typer.Option("--overlap", help="While the latest run is unfinished; default: skip."),
]
Misfire = Annotated[
    MisfirePolicy | None,
    typer.Option("--misfire", help="Of what an outage made late, run so much; default: latest."),
]
Grace = Annotated[
    timedelta | None,
    typer.Option(
        "--grace",
        parser=duration_of,
        metavar="DURATION",
        help="Up to so late is not late; default: 60s.",
    ),
]
Jitter = Annotated[
    timedelta | None,
    typer.Option(
        "--jitter",
        parser=duration_of,
        metavar="DURATION",
        help="Fire up to so long after each instant; default: 0.",
    ),
]
StartsAt = Annotated[
    datetime | None,
    typer.Option("--starts-at", parser=time_of, metavar="TIME", help="No instant before this."),
]
EndsAt = Annotated[
    datetime | None,
    typer.Option("--ends-at", parser=time_of, metavar="TIME", help="No instant after this."),
]
MaxRuns = Annotated[int | None, typer.Option(min=1, help="End after so many runs.")]

# What it runs

Queue = Annotated[
    str | None,
    typer.Option(help="Default: the definition's.", autocompletion=completion.queues),
]
Priority = Annotated[int | None, typer.Option(min=-9, max=9, help="Default: the definition's.")]
Input = Annotated[
    dict[str, Any] | None,
    typer.Option(
        "--input",
        parser=object_of,
        metavar="JSON",
        help="An object, laid over the input, key by key.",
    ),
]
