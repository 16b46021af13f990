"""Requests made from the OpenAPI document of the API, and what must hold for each answer."""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Callable
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.failures import FailureGroup
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation.case import Case
from schemathesis.generation.hypothesis.builder import (
    HypothesisTestConfig,
    HypothesisTestMode,
    create_test,
)

from tests.asked import asked

# Random requests to each operation, beside those that try each field at its limits.
EXAMPLES = asked("PGSCHED_TEST_FUZZ_EXAMPLES")
load_all_checks()
ALL = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
)
Values = dict[str, list[Any]]


def checks_without(*names: str) -> list[Any]:
    """The checks of an operation that is excused from some."""
    assert set(names) <= set(ALL)
    return [CHECKS.get_one(name) for name in ALL if name not in names]


def fuzz(operation: Any, check: Callable[[Any], None]) -> None:
    """Make *check* look at each request that is tried; the same ones each time."""
    chosen = settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    modes = [HypothesisTestMode.COVERAGE, HypothesisTestMode.FUZZING]
    config = HypothesisTestConfig(project=operation.schema.config, modes=modes, settings=chosen)

    def attempt(case: Case[Any]) -> None:
        check(case)

    create_test(operation=operation, test_func=attempt, config=config)()


def put_known(case: Any, known: Values) -> None:
    """Have half of the requests be about what there is: of unknown things little can go wrong."""
    digest = zlib.crc32(json.dumps([case.path_parameters, str(case.body)], default=str).encode())
    if digest % 2:
        return
    wrong = {place for place, made in case.meta.components.items() if made.mode.is_negative}
    places = {
        ParameterLocation.PATH: case.path_parameters,
        ParameterLocation.QUERY: case.query,
        ParameterLocation.BODY: case.body,
    }
    for location, place in places.items():
        if isinstance(place, dict) and location not in wrong:
            for name in place.keys() & known.keys():
                if isinstance(place[name], str):
                    place[name] = known[name][digest // 2 % len(known[name])]


def explained(group: FailureGroup, case: Any, response: Any) -> AssertionError:
    """What failed, the request and its answer, in few lines."""
    lines = [f"{type(failure).__name__}: {failure}" for failure in group.exceptions]
    lines += [f"request: {case.as_curl_command()}", f"answer: {response.text[:500]}"]
    return AssertionError("\n".join(lines))


def load(document: dict[str, Any], app: Any) -> Any:
    """The operations of a document, to be sent to *app*; the key is left to who sends them."""
    document = copy.deepcopy(document)
    for item in document["paths"].values():
        for operation in item.values():
            operation.pop("security", None)
    schema = schemathesis.openapi.from_dict(document)
    schema.app = app
    return schema
