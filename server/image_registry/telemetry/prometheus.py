"""The admin endpoint: this process's metrics for Prometheus, served by a thread of its own.

Each process has its own registry and its own port; Prometheus adds them up. The client's multi-process mode shares
files between processes instead: it knows no gauges that are looked at when asked, and keeps those of dead processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import prometheus_client as prometheus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from image_registry.host import StartError
from image_registry.host.addresses import Address
from image_registry.telemetry.catalogue import CATALOGUE
from image_registry.telemetry.metrics import Counter, Histogram, Labels, Metric, Part, Sampled, Sink


@contextmanager
def admin_endpoint(address: Address, part: Part) -> Iterator[None]:
    """Serve the metrics of `part` on `address` until the block ends. Raises StartError."""
    registry = prometheus.CollectorRegistry()
    prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
    for collector in (prometheus.ProcessCollector, prometheus.PlatformCollector, prometheus.GCCollector):
        collector(registry=registry)
    shown = [metric for metric in CATALOGUE if metric.part in {part, Part.BOTH}]
    registry.register(_Sampled([metric for metric in shown if isinstance(metric, Sampled)]))
    for metric in shown:
        if not isinstance(metric, Sampled):
            metric.attach(_sink(metric, registry))
    try:
        server, thread = prometheus.start_http_server(address.port, address.host, registry)
    except OSError as error:
        remedy = "choose another IMAGE_REGISTRY_ADMIN_ADDRESS"
        raise StartError(f"the admin address {address} can't be listened on ({error.strerror}): {remedy}") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _sink(metric: Metric, registry: prometheus.CollectorRegistry) -> Sink:
    """Where a pushed metric goes; the children are kept, since looking one up costs more than counting."""
    children: dict[Labels, prometheus.Counter | prometheus.Histogram] = {}
    if isinstance(metric, Histogram):
        histogram = prometheus.Histogram(
            metric.name, metric.help, metric.labels, registry=registry, buckets=metric.buckets
        )

        def observe(labels: Labels, seconds: float) -> None:
            child = children.get(labels)
            if child is None:
                child = children[labels] = histogram.labels(*labels) if labels else histogram
            child.observe(seconds)  # type: ignore[union-attr]

        return observe
    assert isinstance(metric, Counter)  # noqa: S101
    counter = prometheus.Counter(metric.name, metric.help, metric.labels, registry=registry)

    def add(labels: Labels, amount: float) -> None:
        child = children.get(labels)
        if child is None:
            child = children[labels] = counter.labels(*labels) if labels else counter
        child.inc(amount)  # type: ignore[union-attr]

    return add


class _Sampled(Collector):
    """Reads what is looked at when asked."""

    def __init__(self, metrics: list[Sampled]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """A family for each metric; one that can't be read now has no samples."""
        for metric in self._metrics:
            kind = CounterMetricFamily if metric.total else GaugeMetricFamily
            family = kind(metric.name, metric.help, labels=metric.labels)
            for labels, value in metric.read().items():
                family.add_metric(labels, value)
            yield family
