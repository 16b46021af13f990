"""Random cron expressions of all we read, each with what it is called in cronsim."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

BOUNDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
DAY, MONTH, WEEKDAY = 3, 4, 5
# How often a field is a plain star: of days and months most are, else little ever runs.
STARS = (0.3, 0.2, 0.35, 0.6, 0.7, 0.6)
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


class Some(NamedTuple):
    """An expression, or a part of one, and the same for cronsim."""

    ours: str
    theirs: str


def same(text: str) -> Some:
    return Some(text, text)


def some_expression(rng: random.Random) -> Some:
    """May be one that is refused: never happens, or has a range of one."""
    if rng.random() < 0.01:
        return Some(*rng.choice(list(ALIASES.items())))
    return joined(" ", [some_field(rng, i) for i in range(rng.randint(0, 1), 6)])


def some_field(rng: random.Random, i: int) -> Some:
    if rng.random() < STARS[i]:
        return Some("?", "*") if i in (DAY, WEEKDAY) and rng.random() < 0.2 else same("*")
    if i == DAY and rng.random() < 0.15:
        return rng.choice([same("L"), Some("l,15", "L,15"), same("1,L"), same("31,L")])
    shapes = NTH if i == WEEKDAY and rng.random() < 0.2 else TERMS
    return joined(",", [rng.choice(shapes)(rng, i) for _ in range(rng.choice((1, 1, 1, 2, 3)))])


def joined(separator: str, parts: list[Some]) -> Some:
    return Some(*map(separator.join, zip(*parts, strict=True)))


def name(rng: random.Random, i: int, number: int) -> str:
    """The number, or its name if it has one, in any case."""
    if i < MONTH or rng.random() < 0.6:
        return str(number)
    names = (*MONTHS[-1:], *MONTHS) if i == MONTH else (*WEEKDAYS, "sun")
    return rng.choice((str.lower, str.upper, str.title))(names[number])


def two(rng: random.Random, i: int) -> tuple[int, int]:
    low, high = BOUNDS[i]
    a, b = sorted(rng.sample(range(low, high + 1), 2))
    return a, b


def number(rng: random.Random, i: int) -> Some:
    a = rng.randint(*BOUNDS[i])
    return Some(name(rng, i, a), str(a))


def span(rng: random.Random, i: int) -> Some:
    a, b = two(rng, i)
    return Some(f"{name(rng, i, a)}-{name(rng, i, b)}", f"{a}-{b}")


def stepped_span(rng: random.Random, i: int) -> Some:
    a, b = two(rng, i)
    step = rng.randint(1, b - a)
    return Some(f"{name(rng, i, a)}-{name(rng, i, b)}/{step}", f"{a}-{b}/{step}")


def span_past_the_end(rng: random.Random, i: int) -> Some:
    """As fri-mon, which cronsim has no word for."""
    a, b = two(rng, i)
    low, high = BOUNDS[i]
    listed = (*range(b, high + 1), *range(low, a + 1))
    return Some(f"{name(rng, i, b)}-{name(rng, i, a)}", ",".join(map(str, listed)))


def stepped_star(rng: random.Random, i: int) -> Some:
    return same(f"*/{rng.randint(1, BOUNDS[i][1] // 2)}")


def stepped_number(rng: random.Random, i: int) -> Some:
    if i == WEEKDAY:  # refused: crons differ in where it ends
        return stepped_star(rng, i)
    return same(f"{rng.randint(*BOUNDS[i])}/{rng.randint(1, BOUNDS[i][1] // 2)}")


def star(rng: random.Random, i: int) -> Some:
    return same("*")


def nth(rng: random.Random, i: int) -> Some:
    day, n = rng.randint(0, 7), rng.randint(1, 5)
    return Some(f"{name(rng, i, day)}#{n}", f"{day}#{n}")


def last(rng: random.Random, i: int) -> Some:
    day = rng.randint(0, 7)
    return Some(f"L{day}", f"{day}L")


Shape = Callable[[random.Random, int], Some]
TERMS: list[Shape] = [
    *[number] * 7,
    *[span] * 4,
    *[stepped_span] * 3,
    *[stepped_star] * 4,
    stepped_number,
    span_past_the_end,
    star,
]
NTH: list[Shape] = [nth, nth, last]
