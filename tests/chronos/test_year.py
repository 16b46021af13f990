"""
A year of everything that can go wrong, and then each instant is in the ledger once.

It is simulated from seeds; PGSCHED_TEST_CHRONOS_SEEDS says how many of them,
by default one.  A failure names its seed, and is the same each time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest

from tests.asked import asked
from tests.chronos.checker import complaints, predict
from tests.chronos.oracle import HOUR, YEAR, instants
from tests.chronos.world import World
from tests.sql.sched import Sched

SEEDS = asked("PGSCHED_TEST_CHRONOS_SEEDS")
DAY = timedelta(days=1)

Expected = dict[str, dict[datetime, str]]


# What is often folded.
BACKFILLED = [spec for spec in YEAR if spec.name in ("quarters", "thirds", "burst")]


def expected_of(world: World) -> tuple[Expected, list[str]]:
    """What must have become of each instant of each schedule, and what was wrong on the way."""
    expected, told = {}, list(world.records.complaints)
    for spec in YEAR:
        walk = predict(
            spec, world.delay(spec.name), instants(spec), world.records.history[spec.name]
        )
        expected[spec.name] = walk.expected
        told += [f"{spec.name}: {complaint}" for complaint in walk.complaints]
    return expected, told


def report(world: World, expected: Expected) -> Iterator[str]:
    """The first complaints about each schedule, and what happened there."""
    for spec in YEAR:
        ledger, tasks = world.ledger(spec.name), world.tasks(spec.name)
        found = list(complaints(spec, expected[spec.name], ledger, tasks))
        yield from (f"{spec.name}: {complaint}" for complaint in found[:5])
        if found:
            yield f"{spec.name}: {len(found)} complaints; around the first:"
            yield from world.records.story(spec.name, found[0].instant)


def backfill_some(world: World, expected: Expected, rng: random.Random) -> None:
    """Have some ranges run after all."""
    for spec in BACKFILLED * 2:
        first = rng.choice(instants(spec)[:-2000]) - rng.choice((0, 1)) * HOUR
        last = first + rng.uniform(0, 1.5) * DAY
        world.tickers.backfill(spec.name, first, last)
        within = [instant for instant in instants(spec) if first <= instant <= last]
        expected[spec.name] |= dict.fromkeys(within, "RUN")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_instant_of_a_year_is_in_the_ledger_once(
    sched: Sched, connect: Callable[[], Sched], seed: int
) -> None:
    world = World(sched, connect(), f"year {seed}")
    world.run()
    expected, told = expected_of(world)
    told += report(world, expected)
    fail_if(told, seed)

    backfill_some(world, expected, random.Random(seed))
    fail_if(list(report(world, expected)), seed)


def fail_if(told: list[str], seed: int) -> None:
    if told:
        pytest.fail("\n".join([f"seed {seed}", *told]), pytrace=False)
