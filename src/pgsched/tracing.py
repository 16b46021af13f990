"""
Whether anybody traces; where nobody does, that costs a look into a dict.

Whoever has set up OpenTelemetry, or has an active span, has imported it.  So
it is not imported here before, and need not be installed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

# What carries the span of a push under way, as headers; none: nobody traces it.
HEADERS: ContextVar[Sequence[tuple[bytes, bytes]]] = ContextVar("pgsched_headers", default=())


def is_loaded() -> bool:
    """Whether there may be a span; `pgsched.spans` must not be imported otherwise."""
    return "opentelemetry.trace" in sys.modules


def tracer() -> Tracer | None:
    """What makes spans; None unless the program has set up a provider by now."""
    if not is_loaded():
        return None
    from opentelemetry import trace

    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    return provider.get_tracer("pgsched")
