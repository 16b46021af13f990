"""House rules that a machine can check: as queries over the schema, and over the sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src/pgsched"
SQL_FILES = sorted((ROOT / "sql").glob("*.sql"))

Connection = psycopg.Connection[Any]


def rows(conn: Connection, query: str) -> list[Any]:
    return [row[0] if len(row) == 1 else row for row in conn.execute(query.encode()).fetchall()]


# Comments

UNCOMMENTED = {
    "relation": """
        select c.oid::regclass::text
        from pg_class as c
        where c.relnamespace = 'pgsched'::regnamespace
          and c.relkind in ('r', 'p', 'v', 'S')
          and obj_description(c.oid, 'pg_class') is null
    """,
    "column": """
        select c.oid::regclass || '.' || a.attname
        from pg_class as c
        join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relnamespace = 'pgsched'::regnamespace
          and c.relkind in ('r', 'p', 'v')
          and not c.relispartition
          and col_description(c.oid, a.attnum) is null
    """,
    "function": """
        select p.oid::regprocedure::text
        from pg_proc as p
        where p.pronamespace = 'pgsched'::regnamespace
          and obj_description(p.oid, 'pg_proc') is null
    """,
    "type": """
        select t.typname::text
        from pg_type as t
        left join pg_class as c on c.oid = t.typrelid
        where t.typnamespace = 'pgsched'::regnamespace
          and (t.typtype in ('d', 'e') or c.relkind = 'c')
          and obj_description(t.oid, 'pg_type') is null
    """,
    "schema": """
        select n.nspname::text
        from pg_namespace as n
        where n.nspname = 'pgsched'
          and obj_description(n.oid, 'pg_namespace') is null
    """,
}


@pytest.mark.parametrize("kind", UNCOMMENTED)
def test_everything_in_the_schema_has_a_comment(postgresql: Connection, kind: str) -> None:
    assert rows(postgresql, UNCOMMENTED[kind]) == []


# Names

NAMES = """
    select c.conrelid::regclass::text, c.conname::text, c.contype::text
    from pg_constraint as c
    join pg_class as r on r.oid = c.conrelid
    where c.connamespace = 'pgsched'::regnamespace
      and c.contype <> 'n'
      and not r.relispartition
"""
INDEXES = """
    select i.indrelid::regclass::text, i.indexrelid::regclass::text
    from pg_index as i
    join pg_class as r on r.oid = i.indrelid
    where r.relnamespace = 'pgsched'::regnamespace
      and not r.relispartition
      and not exists (select from pg_constraint as c where c.conindid = i.indexrelid)
"""
TRIGGERS = """
    select t.tgrelid::regclass::text, t.tgname::text
    from pg_trigger as t
    join pg_class as r on r.oid = t.tgrelid
    where r.relnamespace = 'pgsched'::regnamespace
      and not t.tgisinternal
"""
# Primary, foreign and unique keys; a check says what is true.
SUFFIXES = {"p": "pkey", "f": r"\w+_fkey", "u": r"\w+_key", "x": r"\w+_excl", "c": r"\w{5,}"}


def test_constraints_are_named_for_their_table_and_what_is_true(postgresql: Connection) -> None:
    odd = [
        name
        for table, name, kind in rows(postgresql, NAMES)
        if not re.fullmatch(rf"{table.partition('.')[2]}_{SUFFIXES[kind]}", name)
        or (kind == "c" and re.search(r"_(check|pkey|fkey|key)\d*$", name))
    ]
    assert odd == []


def test_indexes_are_named_for_their_table_and_use(postgresql: Connection) -> None:
    names = [(t.partition(".")[2], i.partition(".")[2]) for t, i in rows(postgresql, INDEXES)]

    assert [i for t, i in names if not re.fullmatch(rf"{t}_\w+_(idx|key)", i)] == []


def test_triggers_are_named_for_when_they_fire_and_what_they_do(postgresql: Connection) -> None:
    names = [(t.partition(".")[2], name) for t, name in rows(postgresql, TRIGGERS)]
    event = r"(before|after)_(insert|update|delete|truncate)\w*"

    assert [name for t, name in names if not re.fullmatch(rf"{t}_{event}_\w+", name)] == []


ARGUMENTS = """
    select p.oid::regprocedure::text, a.name
    from pg_proc as p
    cross join unnest(
      p.proargnames, coalesce(p.proargmodes, array_fill('i'::"char", array[p.pronargs]))
    ) as a (name, mode)
    where p.pronamespace = 'pgsched'::regnamespace
      and a.mode in ('i', 'b', 'v')
      and a.name !~ '^p_[a-z]'
"""


def test_arguments_begin_with_p(postgresql: Connection) -> None:
    assert rows(postgresql, ARGUMENTS) == []


# Bodies

FUNCTIONS = """
    select p.proname::text, pg_get_functiondef(p.oid), coalesce(p.proconfig, '{}'), l.lanname::text
    from pg_proc as p
    join pg_language as l on l.oid = p.prolang
    where p.pronamespace = 'pgsched'::regnamespace
"""
OTHER_BODIES = """
    select v.viewname::text, v.definition from pg_views as v where v.schemaname = 'pgsched'
    union all
    select d.adrelid::regclass::text, pg_get_expr(d.adbin, d.adrelid)
    from pg_attrdef as d
    join pg_class as c on c.oid = d.adrelid
    where c.relnamespace = 'pgsched'::regnamespace
"""
CLOCK = re.compile(
    r"(?<!pgsched\.)\bnow\(|\b(clock|statement|transaction)_timestamp\b"
    r"|\bcurrent_(timestamp|time|date)\b|\blocaltime(stamp)?\b",
    re.IGNORECASE,
)
# The clock itself, and the mark of the last notification, which measures the server.
MAY_READ_THE_CLOCK = {"now", "wake", "was_woken"}


def without_comments(body: str) -> str:
    return re.sub(r"--[^\n]*", "", body)


def test_only_now_and_wake_read_the_clock_of_the_server(postgresql: Connection) -> None:
    bodies = [(name, body) for name, body, *_ in rows(postgresql, FUNCTIONS)]
    bodies = [b for b in bodies if b[0] not in MAY_READ_THE_CLOCK]
    bodies += rows(postgresql, OTHER_BODIES)

    assert [name for name, body in bodies if CLOCK.search(without_comments(body))] == []


HOT = re.compile(
    r"\b(from|join|using|update)\s+\(*(only\s+)?(pgsched\.)?(scheduled_tasks|task_instances)\b",
    re.IGNORECASE,
)
# A plan made on a near-empty table must not be kept for the session, nor its cost start the JIT.
SETTINGS = {
    "enable_seqscan=off",
    "enable_bitmapscan=off",
    "jit=off",
    "plan_cache_mode=force_generic_plan",
}
# Asked by people, seldom: the deletion of a definition or a queue.
MAY_SCAN = {"guard_definition", "guard_queue"}


def test_functions_on_the_hot_tables_keep_no_plan_of_an_empty_table(postgresql: Connection) -> None:
    lacking = {
        name: sorted(SETTINGS - set(settings))
        for name, body, settings, _ in rows(postgresql, FUNCTIONS)
        if HOT.search(without_comments(body)) and name not in MAY_SCAN
    }
    assert {name: lacks for name, lacks in lacking.items() if lacks} == {}


def test_no_function_is_a_security_definer_without_a_search_path(postgresql: Connection) -> None:
    query = """
        select p.oid::regprocedure::text
        from pg_proc as p
        where p.pronamespace = 'pgsched'::regnamespace
          and p.prosecdef
          and coalesce(array_to_string(p.proconfig, ','), '') !~ 'search_path='
    """
    assert rows(postgresql, query) == []


def test_no_foreign_key_touches_a_hot_table(postgresql: Connection) -> None:
    query = """
        select c.conname::text
        from pg_constraint as c
        where c.contype = 'f'
          and array[c.conrelid, c.confrelid] && array[
            'pgsched.scheduled_tasks', 'pgsched.task_instances', 'pgsched.task_events'
          ]::regclass[]::oid[]
    """
    assert rows(postgresql, query) == []


# The files of sql/


def test_the_files_are_numbered_without_gaps() -> None:
    assert [int(path.name[:3]) for path in SQL_FILES] == list(range(1, len(SQL_FILES) + 1))


BEGUN = re.compile(r"^call pgsched\.begin_migration\((\d+), '(\w+)'.*\);$", re.MULTILINE)


@pytest.mark.parametrize("path", SQL_FILES, ids=lambda path: path.stem)
def test_a_file_its_header_and_its_migration_have_one_name(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    number, _, noun = path.stem.partition("_")
    (begun,) = BEGUN.findall(text)

    assert text.startswith(f"-- {number} {noun}\n--\n")
    assert begun == (str(int(number)), noun)


@pytest.mark.parametrize("path", SQL_FILES, ids=lambda path: path.stem)
def test_a_file_is_one_transaction_and_tells_the_dba_what_it_does(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    for heading in ("Adds", "Locks", "Undo"):
        assert re.search(rf"^-- {heading}\s", text, re.MULTILINE), heading
    assert re.findall(r"^(begin|commit);$", text, re.MULTILINE) == ["begin", "commit"]
    assert text.endswith("commit;\n")


@pytest.mark.parametrize("path", SQL_FILES, ids=lambda path: path.stem)
def test_a_file_waits_for_no_lock_for_long(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert re.search(
        r"^begin;\n\nset local lock_timeout = '2s';\nset local statement_timeout = '\d+min';\n",
        text,
        re.MULTILINE,
    )


@pytest.mark.parametrize("path", SQL_FILES, ids=lambda path: path.stem)
def test_a_file_takes_its_functions_from_the_public_before_anybody_sees_them(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    revoked = "\nrevoke execute on all routines in schema pgsched from public;\n\ncommit;\n"

    made = re.search(r"^create (or replace )?(function|procedure)\b", text, re.MULTILINE)
    assert not made or text.endswith(revoked)


# The layers of src/: a module imports only from the layers above its own.

LAYERS = [
    {
        "build",
        "clock",
        "due",
        "errors",
        "http1",
        "leash",
        "names",
        "pace",
        "plain",
        "ports",
        "queues",
        "storing",
        "tallies",
    },
    {"endpoint", "families", "signing", "tracing"},
    {
        "blockers",
        "catalog",
        "devbin",
        "failures",
        "fields",
        "loops",
        "migrations",
        "models",
        "preflight",
        "settings",
        "zones",
    },
    {"configuration", "expression", "ledger", "logs"},
    {"cron", "drift", "effective"},
    {
        "decoding",
        "schedules",
        "cursors",
        "devdb",
        "instants",
        "messages",
        "slots",
        "spans",
        "rows",
        "transport",
    },
    {"answers", "arguments", "options"},
    {
        "batches",
        "choices",
        "db",
        "firing",
        "migrator",
        "news",
        "posting",
        "preview",
        "reports",
        "words",
    },
    {"pooler"},
    {
        "bulk",
        "census",
        "clients",
        "complaints",
        "database",
        "devcatalog",
        "diagnosis",
        "external",
        "operating",
        "operating_reading",
        "reading",
        "task_reading",
        "visit",
        "watching",
    },
    {"observer"},
    {"control", "lease", "listener", "targets", "settler", "ticker", "backfiller", "scheduler"},
    {"failed_tasks", "measuring", "summary", "traced"},
    {"breaker", "duties", "scanner", "doctor", "teller", "ways"},
    {"lanes", "lifecycle"},
    {"dispatcher", "testing"},
    {"metrics"},
    {"observation"},
    {"worker", "api"},
    {"dev"},
    {"cli"},
    {"demo", "__main__"},
]
RANKS = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}
MODULES = sorted(SOURCES.rglob("*.py"))


def module_of(path: Path) -> str:
    """The name of a module, or of the package below pgsched that it belongs to."""
    return path.relative_to(SOURCES).with_suffix("").parts[0]


def name_of(path: Path) -> str:
    return str(path.relative_to(SOURCES))


def imported(tree: ast.AST) -> Iterator[str]:
    """What a module imports from pgsched, wherever the import stands."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module="pgsched", names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module)) if module.startswith("pgsched."):
                yield module.split(".")[1]
            case ast.Import(names=names):
                yield from (a.name.split(".")[1] for a in names if a.name.startswith("pgsched."))


def test_every_module_has_its_layer() -> None:
    assert {module_of(path) for path in MODULES} - {"__init__"} - RANKS.keys() == set()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_from_the_layers_above_its_own(path: Path) -> None:
    own = module_of(path)
    if own == "__init__":
        return
    names = {name for name in imported(ast.parse(path.read_bytes())) if name in RANKS} - {own}

    assert {name for name in names if RANKS[name] >= RANKS[own]} == set()


# The demo looks on as an operator in psql would.
SPEAKS_SQL = {
    "db.py",
    "database.py",
    "reading.py",
    "census.py",
    "names.py",
    "operating_reading.py",
    "task_reading.py",
    "watching.py",
    "diagnosis/__init__.py",
    "diagnosis/sessions.py",
    "diagnosis/storage.py",
    "diagnosis/work.py",
    "blockers.py",
    "catalog.py",
    "devcatalog.py",
    "ledger.py",
    "migrator.py",
    "pooler.py",
    "preflight.py",
    "listener.py",
    "demo/__main__.py",
    "dev/database.py",
}
SPOKEN = re.compile(
    r"\bselect\b.+?\b(from|pgsched\.)|\binsert into\b|\bupdate \S+ set\b|\bdelete from\b"
    r"|^\s*(listen|notify|begin|commit|create|drop|alter|truncate|call) ",
    re.DOTALL,
)


def strings(tree: ast.AST) -> Iterator[str]:
    """The string constants of a module but for its docstrings."""
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in docstrings:
                yield text


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_database_layer_contains_sql(path: Path) -> None:
    if name_of(path) in SPEAKS_SQL:
        return
    assert [text for text in strings(ast.parse(path.read_bytes())) if SPOKEN.search(text)] == []


@pytest.mark.parametrize("path", [p for p in MODULES if p.read_bytes()], ids=name_of)
def test_a_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_bytes()))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_and_its_functions_are_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    long = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for node in ast.walk(ast.parse(source))
        if isinstance(node, functions)
    }
    assert {name: lines for name, lines in long.items() if lines > 40} == {}
    assert len(source.splitlines()) <= 250


# The project speaks of itself alone

FOLDERS = ("sql", "src", "tests", "docs", "dashboards", "examples", "benchmarks", ".ci")
ELSEWHERE = re.compile(rb"(?<![\w.])/wor" + rb"k(/|\b(?![\w-]))|\.\./sha" + rb"red\b")


def project_files() -> Iterator[Path]:
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.name != ".git")
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and not {"node_modules", "__pycache__"} & set(path.parts):
                yield path


def test_no_file_names_the_place_where_it_was_written() -> None:
    named = [str(p.relative_to(ROOT)) for p in project_files() if ELSEWHERE.search(p.read_bytes())]

    assert named == []
