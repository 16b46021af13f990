"""sql/samples: each recipe runs in psql as it stands, under the role that docs/psql.md names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

from tests.programs import run_program
from tests.restoring import SharedDatabase
from tests.roles import as_role
from tests.sql.ledger import cron
from tests.sql.sched import MINUTE, SECOND, Sched

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "sql/samples").glob("*.sql"))
PAGE = (ROOT / "docs/psql.md").read_text(encoding="utf-8")


class Recipe(NamedTuple):
    """What of the scene a sample is given, and what it must say of it."""

    says: list[str]
    given: Mapping[str, str] = MappingProxyType({})
    is_act: bool = False


FAILED, WAITING, LOOP, TRACE = "{failed}", "{waiting}", "{loop}", "{trace}"
RECIPES = {
    "is_all_well": Recipe(["paused queues | warning | mail (1 due)"]),
    "what_is_going_on": Recipe(["mail | t | closed | 1 |"]),
    "why_a_queue_stands_still": Recipe(["is paused (no paper)"], {"queue": "mail"}),
    "why_a_task_does_not_run": Recipe(["is paused (no paper)"], {"task": WAITING}),
    "what_is_stuck": Recipe(["Queue 'mail' is paused (no paper).", "| mail | 1 |", WAITING]),
    "what_fails": Recipe(["2 | 0 | once | no template #"]),
    "what_happened_to_a_task": Recipe(
        ["FAILED | 1 | 0 |", "no template 17", "REPORT_REFUSED"], {"task": FAILED}
    ),
    "find_a_task_by_its_input": Recipe(
        [FAILED, "(1 row)"], {"definition": "once", "input": '{"order": 17}'}
    ),
    "the_tasks_of_a_trace": Recipe([FAILED], {"trace": TRACE}),
    "what_comes_next": Recipe(["schedule | hourly | default | 0"]),
    "who_works": Recipe(["ALIVE | host | 1 | test |"]),
    "how_much_is_done": Recipe(["| 0 | 2 | 0"]),
    "how_long_tasks_take": Recipe(["once | 2 | {00:00:00,00:00:00} | {00:00:00,00:00:00}"]),
    "who_schedules_what": Recipe(["once | 2 | 2026-03-02 12:"]),
    "pause_a_queue": Recipe(["(1 row)"], {"queue": "mail", "note": "it's late"}, is_act=True),
    "resume_a_queue": Recipe(["(1 row)"], {"queue": "mail"}, is_act=True),
    "limit_a_queue": Recipe(["(1 row)"], {"queue": "mail"}, is_act=True),
    "retry_what_failed": Recipe(
        ["2 | 0 | 0", "2 | 2 | 0"], {"definition": "once", "error": "%template%"}, is_act=True
    ),
    "cancel_what_is_not_wanted": Recipe(
        ["1 | 0 | 0", "1 | 1 | 0"], {"definition": "job"}, is_act=True
    ),
    "stop_a_loop": Recipe([LOOP], {"task": LOOP}, is_act=True),
    "which_schedules_do_not_fire": Recipe(["wrong | BROKEN |"]),
    "why_a_schedule_does_not_fire": Recipe(["It fires next at"], {"schedule": "hourly"}),
    "what_became_of_a_schedule": Recipe(["| RUN |"], {"schedule": "hourly"}),
    "run_a_schedule_now": Recipe(["(1 row)"], {"schedule": "hourly"}, is_act=True),
    "what_is_not_told": Recipe(["default | FAILED | f | 2 |"]),
    "how_large_is_the_record": Recipe(["task_instances | 30 days | 0 |"]),
    "keep_the_record_for_a_week": Recipe(["(1 row)"], is_act=True),
    "who_holds_things_up": Recipe(["blocks | query"]),
}


@pytest.fixture
def scene(sched: Sched) -> dict[str, str]:
    """Failures, a paused queue, a loop, a schedule that fired and a broken one."""
    sched.define("once", max_retries=0)
    sched.define("loops")
    sched.define("job")
    sched.call("define_queue", "mail")
    trace = "01980000-0000-7000-8000-00000000000a"
    failed = sched.schedule("once", input_params={"order": 17}, trace_id=trace)
    sched.run(failed, "FAILED", error_msg="no template 17")
    sched.report_many({"task_id": failed, "status": "SUCCESS", "attempt": 1})
    sched.run(sched.schedule("once"), "FAILED", error_msg="no template 18")

    cron(sched, "3 * * * *", name="hourly")
    sched.call("schedule_cron", "job", "0 25 * * *", name="wrong")
    sched.tick_all()
    sched.clock(3 * MINUTE)
    sched.tick_all()
    loop = sched.loop("loops")
    sched.claim()
    waiting = sched.schedule("loops", queue="mail")
    sched.call("pause_queue", "mail", "no paper")
    sched.clock(6 * MINUTE)
    sched.call("heartbeat", sched.worker)
    return {"failed": failed, "waiting": waiting, "loop": loop, "trace": trace}


def title(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("-- ")


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_answers_its_question(
    path: Path, scene: dict[str, str], clocked: SharedDatabase, connect: Callable[[], Sched]
) -> None:
    recipe = RECIPES[path.stem]
    if path.stem == "cancel_what_is_not_wanted":
        connect().schedule("job", delay=SECOND)
    given = [f"{name}={fill(value, scene)}" for name, value in recipe.given.items()]
    variables = [word for text in given for word in ("-v", text)]
    dsn = as_role(clocked.dsn, "operator" if recipe.is_act else "reader")

    done = run_program(
        "psql", dsn, "-X", "-P", "format=unaligned", "-P", "fieldsep= | ", "-v", "ON_ERROR_STOP=1",
        *variables, "-f", str(path),
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    for words in recipe.says:
        assert fill(words, scene) in done.stdout


def fill(text: str, scene: dict[str, str]) -> str:
    """*text* with the ids of the scene in place of their names."""
    return re.sub(r"\{([a-z]+)\}", lambda name: scene[name[1]], text)


def test_every_sample_is_a_recipe_and_every_recipe_on_the_page() -> None:
    assert sorted(RECIPES) == [path.stem for path in SAMPLES]
    assert re.findall(r"^## (.+)$", PAGE, re.MULTILINE) == [
        title(ROOT / "sql/samples" / f"{name}.sql") for name in RECIPES
    ]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_page_has_the_sample_as_it_stands(path: Path) -> None:
    section = PAGE.partition(f"\n## {title(path)}\n")[2].partition("\n## ")[0]
    words = [f"-v {name}=" for name in RECIPES[path.stem].given]

    assert re.search(rf"^`psql .*-f sql/samples/{path.name}`$", section, re.MULTILINE)
    assert all(word in section for word in words)
    (code,) = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    assert path.read_text(encoding="utf-8") == f"-- {title(path)}\n\n{code}"
