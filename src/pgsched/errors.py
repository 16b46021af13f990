"""
What can go wrong, as one small tree.

    PgschedError
    ├── NotFound             PS404   no such definition, task, queue, schedule
    ├── Conflict             PS409   not possible in the state it is in
    ├── Invalid              PS422   the input is wrong; the message names the field
    ├── Unavailable                  the database cannot be reached just now
    ├── ConfigError                  a setting is missing or wrong
    └── MigrationError               the schema is not what this version needs

The first three are raised by the SQL functions with these SQLSTATEs, and are
the HTTP statuses of the API as well.
"""

from __future__ import annotations


class PgschedError(Exception):
    """Anything pgsched raises on purpose."""

    code: str | None = None


class NotFound(PgschedError):
    """What was named does not exist."""

    code = "PS404"


class Conflict(PgschedError):
    """What was asked is not possible in the state things are in."""

    code = "PS409"


class Invalid(PgschedError):
    """The input is wrong; the message names the field and what to do."""

    code = "PS422"


class Unavailable(PgschedError):
    """The database cannot be reached just now; the same call may work later."""


class ConfigError(PgschedError):
    """A setting is missing or wrong."""


class MigrationError(PgschedError):
    """The schema is not what this version of pgsched needs."""


BY_SQLSTATE: dict[str, type[PgschedError]] = {
    "PS404": NotFound,
    "PS409": Conflict,
    "PS422": Invalid,
}
