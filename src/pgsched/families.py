"""Metrics for Prometheus: families of values, and a registry for each who shows some."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from pgsched.tallies import Distribution

Label = str | tuple[str, ...]


def registry_of(collector: Collector, version: str) -> CollectorRegistry:
    """A registry of what *collector* tells, of the build, and of the process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    registry.register(_Build(version))
    for kind in (ProcessCollector, PlatformCollector, GCCollector):
        kind(registry=registry)
    return registry


def render(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """All metrics in the format that *accept* asks for; with its content type."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Build(Collector):
    def __init__(self, version: str) -> None:
        self._values = platform.python_version(), version

    def collect(self) -> Iterator[Metric]:
        names = ("python", "version")
        yield gauge("pgsched_build_info", "What runs here.", names, [(self._values, 1)])


def counter(
    name: str, about: str, label: Label, values: Iterable[tuple[Label, float]]
) -> CounterMetricFamily:
    """A counter with a value for each of some labels."""
    family = CounterMetricFamily(name, about, labels=_tuple(label))
    for labels, value in values:
        family.add_metric(_tuple(labels), value)
    return family


def gauge(
    name: str, about: str, label: Label, values: Iterable[tuple[Label, float]]
) -> GaugeMetricFamily:
    """The same of what goes up and down."""
    family = GaugeMetricFamily(name, about, labels=_tuple(label))
    for labels, value in values:
        family.add_metric(_tuple(labels), value)
    return family


def histogram(
    name: str, about: str, label: Label, values: Iterable[tuple[Label, Distribution]]
) -> HistogramMetricFamily:
    """The same of a distribution."""
    family = HistogramMetricFamily(name, about, labels=_tuple(label))
    for labels, value in values:
        family.add_metric(_tuple(labels), list(value.buckets()), value.total)
    return family


def _tuple(label: Label) -> tuple[str, ...]:
    return (label,) if isinstance(label, str) else label
