"""What must be so before a migration changes anything: rights, the owner, and the five roles."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from pgsched.errors import MigrationError

# As in 001_foundation.
ROLES = (
    "pgsched_client",
    "pgsched_executor",
    "pgsched_worker",
    "pgsched_operator",
    "pgsched_reader",
)
OLDEST = 15

Say = Callable[[str], None]


class _Login(NamedTuple):
    name: str
    database: str
    is_read_only: bool
    may_make_schemas: bool
    may_make_roles: bool
    owner: str | None
    may_be_owner: bool
    missing: list[str]


# From 16 on membership alone does not let a role be set.
_QUERY = """
    select
      current_user::text as name,
      current_database()::text as database,
      current_setting('transaction_read_only') = 'on' as is_read_only,
      has_database_privilege(current_database(), 'create') as may_make_schemas,
      (
        select r.rolsuper or r.rolcreaterole
        from pg_catalog.pg_roles as r
        where r.rolname = current_user
      ) as may_make_roles,
      pg_get_userbyid(n.nspowner)::text as owner,
      coalesce(pg_has_role(n.nspowner, %(set)s), false) as may_be_owner,
      array(
        select m.name
        from unnest(%(roles)s::text[]) with ordinality as m (name, place)
        where not exists (select from pg_catalog.pg_roles as r where r.rolname = m.name)
        order by m.place
      ) as missing
    from (values (true)) as one
    left join pg_catalog.pg_namespace as n on n.nspname = 'pgsched'
"""


def prepare(connection: psycopg.Connection, say: Say) -> None:
    """
    Make sure that the files can be applied, and become the owner of the schema.

    Missing roles are made if that is allowed, or left to 001_foundation.

    Raises:
        MigrationError: Something is missing that an administrator must see to.
    """
    if connection.info.server_version < OLDEST * 10000:
        found = connection.info.server_version // 10000
        raise MigrationError(f"pgsched needs PostgreSQL {OLDEST} or newer, and this is {found}")
    login = _look(connection)
    if login.is_read_only:
        raise MigrationError("the database is read-only: connect to the primary")
    _check_roles(login)
    if login.owner is None:
        _check_create(login)
        return
    for role in login.missing:
        _make_role(connection, role)
        say(f"warning: the role {role} was missing and is made anew, without the rights it had")
    _become_owner(connection, login, say)


def _look(connection: psycopg.Connection) -> _Login:
    word = "set" if connection.info.server_version >= 160000 else "member"
    with connection.cursor(row_factory=class_row(_Login)) as cursor:
        cursor.execute(_QUERY, {"set": word, "roles": list(ROLES)})
        return cursor.fetchall()[0]


def _check_roles(login: _Login) -> None:
    if not login.missing or login.may_make_roles:
        return
    lines = "\n".join(f"create role {name} nologin;" for name in login.missing)
    raise MigrationError(
        f"{login.name} may not create the roles that pgsched grants rights to. Nothing was"
        f" changed. Let an administrator run this, then try again:\n{lines}"
    )


def _check_create(login: _Login) -> None:
    if not login.may_make_schemas:
        grant = f'grant create on database "{login.database}" to "{login.name}";'
        raise MigrationError(
            f"{login.name} may not create a schema in the database {login.database}. Nothing was"
            f" changed. Let its owner run this, then try again:\n{grant}"
        )


def _make_role(connection: psycopg.Connection, name: str) -> None:
    with suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
        connection.execute(sql.SQL("create role {} nologin").format(sql.Identifier(name)))


def _become_owner(connection: psycopg.Connection, login: _Login, say: Say) -> None:
    if login.owner is None or login.owner == login.name:
        return
    if not login.may_be_owner:
        raise MigrationError(
            f"the schema pgsched belongs to {login.owner}, and {login.name} may not act for that"
            f" role. Nothing was changed. Log in as {login.owner}, or let an administrator run"
            f' this, then try again:\ngrant "{login.owner}" to "{login.name}";'
        )
    connection.execute(sql.SQL("set role {}").format(sql.Identifier(login.owner)))
    say(f"the schema belongs to {login.owner}: {login.name} acts as that role")
