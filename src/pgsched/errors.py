"""
What can go wrong, as one small tree.

    PgschedError
    ├── NotFound             PS404   no such definition, task, queue, schedule
    ├── Conflict             PS409   not possible in the state it is in
    ├── Invalid              PS422   the input is wrong; the message names the field
    ├── Forbidden            42501   not yours, or the role lacks the right
    ├── Unavailable                  the database cannot be reached just now
    │   └── ReadOnly     25006       it takes no writes: a primary that is one no more
    ├── ConfigError                  a setting is missing or wrong
    └── MigrationError               the schema is not what this version needs

The first four are raised by the SQL functions with these SQLSTATEs, and are
HTTP statuses of the API as well.
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


class Forbidden(PgschedError):
    """It belongs to another role, or the role of the connection lacks the right."""

    code = "42501"


class Unavailable(PgschedError):
    """The database cannot be reached just now; the same call may work later."""


class ReadOnly(Unavailable):
    """The database takes no writes; another one may be the primary now."""


class ConfigError(PgschedError):
    """A setting is missing or wrong."""


class MigrationError(PgschedError):
    """The schema is not what this version of pgsched needs."""


BY_SQLSTATE: dict[str, type[PgschedError]] = {
    "PS404": NotFound,
    "PS409": Conflict,
    "PS422": Invalid,
    "42501": Forbidden,
}
