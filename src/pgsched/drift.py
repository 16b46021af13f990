"""How the definitions in a catalog differ from those this version expects."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psycopg

from pgsched import ledger
from pgsched.catalog import Facts, is_hash
from pgsched.catalog import read as read_catalog
from pgsched.ledger import State
from pgsched.migrations import folder, migrations

NAME = "catalog.json"


def expected() -> Facts:
    """The facts in `sql/catalog.json`."""
    facts: Facts = json.loads((folder() / NAME).read_text(encoding="utf-8"))
    return facts


def written(facts: Facts) -> str:
    """The text of that file: a line for each object."""
    lines = [f"{json.dumps(name)}: {json.dumps(said)}" for name, said in facts.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def differences(ours: Facts, found: Facts) -> Iterator[str]:
    """What *found* has not, has otherwise, or has besides; a line for each object."""
    for name in sorted(ours.keys() | found.keys()):
        if name not in found:
            yield f"{name} is missing"
        elif name not in ours:
            yield f"{name} is not ours"
        elif ours[name] != found[name]:
            yield f"{name} has changed: {'; '.join(_changes(ours[name], found[name]))}"


def _changes(ours: dict[str, str], found: dict[str, str]) -> Iterator[str]:
    for key in sorted(ours.keys() | found.keys()):
        mine, theirs = ours.get(key), found.get(key)
        if mine == theirs:
            continue
        if is_hash(mine) or is_hash(theirs):
            yield f"another {key}"
        elif theirs is None:
            yield f"without {key} {mine}"
        else:
            yield f"{key} {theirs}" + ("" if mine is None else f" in place of {mine}")


def inspect(connection: psycopg.Connection) -> tuple[list[str], list[str]]:
    """
    Compare a database with what this version expects of it, and change nothing.

    Returns:
        The faults, and what could not be compared and why, each a line.
    """
    try:
        rows = ledger.read(connection)
    except psycopg.errors.InsufficientPrivilege:
        unread = "the ledger was not compared: this role may not read it"
        return list(differences(expected(), read_catalog(connection))), [unread]
    entries = ledger.entries(rows, migrations())
    faults = list(ledger.faults(entries))
    states = {entry.state for entry in entries}
    if not rows:
        return ["the database has no schema pgsched: run `pgsched migrate`"], []
    if State.PENDING in states:
        return faults, ["the definitions were not compared, since migrations are pending"]
    if State.NEWER in states:
        return faults, ["the definitions were not compared, since the schema is newer"]
    return [*faults, *differences(expected(), read_catalog(connection))], []
