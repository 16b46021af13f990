"""What is said of metrics is true: by the docs, by the dashboard, by the alerts."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from pgsched.api.metrics import ApiMetrics
from pgsched.configuration import load_settings
from pgsched.families import registry_of, render
from pgsched.metrics import Parts, WorkerCollector
from pgsched.tallies import WorkerTally
from pgsched.worker import Worker
from tests.scraping import OPENMETRICS, Scrape

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/observability.md").read_text(encoding="utf-8")
DASHBOARD = json.loads((ROOT / "dashboards/pgsched.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load((ROOT / "dashboards/alerts.yml").read_text(encoding="utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
TITLES = [panel["title"] for panel in PANELS]


def worker_registry() -> CollectorRegistry:
    settings = load_settings(database_url="postgresql://nobody@nowhere/none")
    worker = Worker(settings)
    parts = Parts(worker._dispatcher, worker._targets, worker.lease, worker._listener, 1)
    return registry_of(WorkerCollector(WorkerTally(), parts), "1")


@pytest.fixture
async def kinds() -> dict[str, str]:
    """The type of each metric there is, by its name; also where nothing has happened yet."""
    api = ApiMetrics(lambda: pytest.fail("asked for a connection"))._registry
    texts = [render(registry, "")[0].decode() for registry in (worker_registry(), api)]
    return Scrape(texts[0]).kinds | Scrape(texts[1]).kinds


def test_every_metric_is_documented_with_its_type(kinds: dict[str, str]) -> None:
    rows = re.findall(r"^\| `(pgsched_\w+)` \| (\w+) \|", PAGE, re.MULTILINE)

    assert dict(rows) == kinds
    assert len(rows) == len(kinds)


def test_names_follow_the_conventions(kinds: dict[str, str]) -> None:
    for name, kind in kinds.items():
        assert re.fullmatch(r"pgsched_[a-z]+(_[a-z]+)*", name), name
        assert name.endswith("_total") == (kind == "counter"), name
        if kind == "histogram":
            assert name.endswith(("_seconds", "_tasks")), name


async def test_openmetrics_takes_the_same() -> None:
    body, content_type = render(worker_registry(), OPENMETRICS)

    assert content_type.startswith("application/openmetrics-text")
    assert Scrape(body.decode(), is_openmetrics=True).value("pgsched_worker_lease_live") == 0


def series(expression: str) -> set[str]:
    """The metrics that an expression names."""
    names = re.findall(r"\bpgsched_\w+", expression)
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}


@pytest.mark.parametrize("panel", PANELS, ids=TITLES)
def test_the_dashboard_shows_what_there_is(panel: dict[str, Any], kinds: dict[str, str]) -> None:
    expressions = [target["expr"] for target in panel["targets"]]

    assert expressions
    assert all(map(series, expressions))
    assert set().union(*map(series, expressions)) - kinds.keys() == set()


def test_the_variables_of_the_dashboard_show_what_there_is(kinds: dict[str, str]) -> None:
    source, queue = DASHBOARD["templating"]["list"]

    assert (source["name"], source["type"]) == ("datasource", "datasource")
    assert series(queue["query"]["query"]) <= kinds.keys()
    uids = {panel["datasource"]["uid"] for panel in PANELS}
    assert uids == {"${datasource}"}


def test_rates_are_of_counters_and_quantiles_of_histograms(kinds: dict[str, str]) -> None:
    expressions = [target["expr"] for panel in PANELS for target in panel["targets"]]
    for expression in [*expressions, *(rule["expr"] for rule in ALERTS)]:
        for name in re.findall(r"(?:rate|increase)\((pgsched_\w+)", expression):
            kind = "histogram" if name.endswith("_bucket") else "counter"
            assert kinds[name.removesuffix("_bucket")] == kind, expression


def test_panels_lie_side_by_side_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert len(set(TITLES)) == len(PANELS)
    for panel in PANELS:
        at = panel["gridPos"]
        assert at["x"] >= 0
        assert at["x"] + at["w"] <= 24
    for one, other in combinations((panel["gridPos"] for panel in PANELS), 2):
        is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        is_below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert is_beside or is_below, (one, other)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_is_about_what_there_is(rule: dict[str, Any], kinds: dict[str, str]) -> None:
    assert re.fullmatch(r"Pgsched[A-Za-z]+", rule["alert"])
    assert series(rule["expr"])
    assert series(rule["expr"]) <= kinds.keys()
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"]["summary"]
    assert re.fullmatch(r"\d+[mh]", rule.get("for", "0m"))
    assert rule["expr"].count("(") == rule["expr"].count(")")
