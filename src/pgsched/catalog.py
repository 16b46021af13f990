"""
The definitions in the catalog of a database, as facts that can be compared.

The facts are the same on every major version of Postgres.  Short ones stand as
they are, long ones as a hash.  Queries are written anew from their parse trees
by the server, which qualifies columns in some versions and not in others: they
are compared without qualifiers, parentheses and blanks.

Reading the catalog needs no right on anything in the schema.
"""

from __future__ import annotations

import hashlib
import re

import psycopg

# By the kind and name of an object, what there is to say of it.
Facts = dict[str, dict[str, str]]

# Longer ones are hashed.
LONGEST = 100
_HASH = "sha256:"
# What the server writes from a parse tree, and what is always hashed.
_QUERIES_WRITTEN = {"query", "expression"}
_ALWAYS_HASHED = {"query", "source"}

# How constants are written depends on these.
_SETTINGS = """
    set local search_path = pg_catalog;
    set local datestyle = 'ISO, YMD';
    set local intervalstyle = 'postgres';
    set local timezone = 'UTC';
    set local quote_all_identifiers = off;
    set local lock_timeout = '2s'
"""

# Partitions are made at run time, but for the default ones.
_QUERIES = (
    """
    select
      case c.relkind
        when 'v' then 'view'
        when 'm' then 'materialized view'
        when 'S' then 'sequence'
        when 'c' then 'type'
        when 'f' then 'foreign table'
        else case when c.relispartition then 'partition' else 'table' end
      end,
      c.relname::text,
      jsonb_strip_nulls(jsonb_build_object(
        'persistence', case c.relpersistence when 'u' then 'unlogged' end,
        'owner', case when c.relowner <> n.nspowner then 'not that of the schema' end,
        'partitioned', pg_get_partkeydef(c.oid),
        'partition of', (
          select i.inhparent::regclass::text
          from pg_inherits as i
          where i.inhrelid = c.oid
        ),
        'row security', case when c.relrowsecurity then 'on' end,
        'options', case when c.relkind = 'v' then array_to_string(c.reloptions, ', ') end,
        'query', case when c.relkind in ('v', 'm') then pg_get_viewdef(c.oid) end
      ))
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = 'pgsched'
      and c.relkind in ('r', 'p', 'f', 'v', 'm', 'S', 'c')
      and (not c.relispartition or pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT')
    """,
    """
    select
      'column',
      c.relname || '.' || a.attname,
      jsonb_strip_nulls(jsonb_build_object(
        'type', format_type(a.atttypid, a.atttypmod),
        'not null', case when a.attnotnull then 'yes' end,
        'default', pg_get_expr(d.adbin, d.adrelid),
        'generated', nullif(a.attgenerated::text, ''),
        'identity', nullif(a.attidentity::text, '')
      ))
    from pg_attribute as a
    join pg_class as c on c.oid = a.attrelid
    left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where c.relnamespace = (select n.oid from pg_namespace as n where n.nspname = 'pgsched')
      and c.relkind in ('r', 'p', 'f', 'c')
      and not c.relispartition
      and a.attnum > 0
      and not a.attisdropped
    """,
    """
    select
      'constraint',
      coalesce(c.relname, t.typname) || '.' || k.conname,
      jsonb_strip_nulls(jsonb_build_object(
        'definition', pg_get_constraintdef(k.oid),
        'state', case when not k.convalidated then 'not validated' end
      ))
    from pg_constraint as k
    left join pg_class as c on c.oid = k.conrelid
    left join pg_type as t on t.oid = k.contypid
    where k.connamespace = (select n.oid from pg_namespace as n where n.nspname = 'pgsched')
      and k.contype in ('c', 'f', 'p', 'u', 'x')
      and c.relispartition is not true
    """,
    """
    select
      'index',
      i.relname::text,
      jsonb_strip_nulls(jsonb_build_object(
        'definition', pg_get_indexdef(i.oid),
        'state', case when not (x.indisvalid and x.indisready and x.indislive) then 'invalid' end
      ))
    from pg_index as x
    join pg_class as i on i.oid = x.indexrelid
    join pg_class as c on c.oid = x.indrelid
    where i.relnamespace = (select n.oid from pg_namespace as n where n.nspname = 'pgsched')
      and not c.relispartition
    """,
    """
    select
      'trigger',
      c.relname || '.' || t.tgname,
      jsonb_strip_nulls(jsonb_build_object(
        'definition', pg_get_triggerdef(t.oid),
        'state', case t.tgenabled
          when 'D' then 'disabled'
          when 'R' then 'enabled for replicas only'
          when 'A' then 'enabled always'
        end
      ))
    from pg_trigger as t
    join pg_class as c on c.oid = t.tgrelid
    where c.relnamespace = (select n.oid from pg_namespace as n where n.nspname = 'pgsched')
      and not t.tgisinternal
      and not c.relispartition
    union all
    select
      'rule',
      c.relname || '.' || r.rulename,
      jsonb_build_object('definition', pg_get_ruledef(r.oid))
    from pg_rewrite as r
    join pg_class as c on c.oid = r.ev_class
    where c.relnamespace = (select n.oid from pg_namespace as n where n.nspname = 'pgsched')
      and r.rulename <> '_RETURN'
    """,
    """
    select
      'function',
      p.proname || '(' || (
        select coalesce(string_agg(format_type(a.type, null), ', ' order by a.ordinality), '')
        from unnest(p.proargtypes) with ordinality as a (type, ordinality)
      ) || ')',
      jsonb_strip_nulls(jsonb_build_object(
        'kind', case p.prokind
          when 'p' then 'procedure'
          when 'a' then 'aggregate'
          when 'w' then 'window function'
        end,
        'language', l.lanname,
        'owner', case when p.proowner <> n.nspowner then 'not that of the schema' end,
        'arguments', case when p.prokind <> 'a' then pg_get_function_arguments(p.oid) end,
        'result', pg_get_function_result(p.oid),
        'volatility', case p.provolatile
          when 'i' then 'immutable'
          when 's' then 'stable'
          else 'volatile'
        end,
        'security', case when p.prosecdef then 'definer' else 'invoker' end,
        'strict', case when p.proisstrict then 'yes' end,
        'parallel', case p.proparallel when 's' then 'safe' when 'r' then 'restricted' end,
        'settings', (select string_agg(s, '; ' order by s) from unnest(p.proconfig) as s),
        'source', case when p.prosqlbody is null then p.prosrc end,
        'expression', pg_get_function_sqlbody(p.oid)
      ))
    from pg_proc as p
    join pg_namespace as n on n.oid = p.pronamespace
    join pg_language as l on l.oid = p.prolang
    where n.nspname = 'pgsched'
    """,
    """
    select
      'domain',
      t.typname::text,
      jsonb_strip_nulls(jsonb_build_object(
        'type', format_type(t.typbasetype, t.typtypmod),
        'not null', case when t.typnotnull then 'yes' end,
        'default', t.typdefault
      ))
    from pg_type as t
    where t.typnamespace = (select n.oid from pg_namespace as n where n.nspname = 'pgsched')
      and t.typtype = 'd'
    """,
)


def read(connection: psycopg.Connection) -> Facts:
    """What the catalog says of all that is in the schema, in a read-only transaction."""
    facts: Facts = {}
    with connection.transaction():
        connection.execute("set transaction read only")
        connection.execute(_SETTINGS)
        for query in _QUERIES:
            for kind, name, said in connection.execute(query.encode()).fetchall():
                facts[f"{kind} {name}"] = {key: _short(key, said[key]) for key in sorted(said)}
    return dict(sorted(facts.items()))


def is_hash(fact: str | None) -> bool:
    """Whether it stands for something longer."""
    return fact is not None and fact.startswith(_HASH)


def _short(key: str, text: str) -> str:
    if key in _QUERIES_WRITTEN:
        text = _bare(text)
    if key in _ALWAYS_HASHED or len(text) > LONGEST:
        return _HASH + hashlib.sha256(text.encode()).hexdigest()[:12]
    return text


def _bare(query: str) -> str:
    """*query* without the qualifiers, parentheses and blanks that depend on the version."""
    return re.sub(r"[\s()]+", " ", re.sub(r"\b(?!pgsched\.)[a-z_]\w*\.", "", query)).strip()
