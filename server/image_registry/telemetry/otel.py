"""OpenTelemetry: traces and metrics to a collector, by OTLP over HTTP (protobuf). Needs the extra `otel`.

What is not said here, the SDK takes from OpenTelemetry's own variables: OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES,
OTEL_EXPORTER_OTLP_HEADERS and their like.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import requests
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from image_registry.telemetry import tracing
from image_registry.telemetry.catalogue import CATALOGUE
from image_registry.telemetry.metrics import Histogram, Labels, Metric, Part, Sampled, Sink
from image_registry.telemetry.tracing import Attribute, Kind, Span

SCOPE = "image_registry"
EXPORT_SECONDS = 5.0  # longest time of one export
FLUSH_SECONDS = 1.5  # at the end; what a collector doesn't take by then is lost
_KINDS = {
    Kind.INTERNAL: trace.SpanKind.INTERNAL,
    Kind.SERVER: trace.SpanKind.SERVER,
    Kind.CLIENT: trace.SpanKind.CLIENT,
    Kind.CONSUMER: trace.SpanKind.CONSUMER,
}
_W3C = TraceContextTextMapPropagator()


@contextmanager
def exporting(endpoint: str, ca: Path | None, part: Part) -> Iterator[None]:
    """Record spans and send them, and the metrics, to the collector at `endpoint` until the block ends.

    `ca`: the authority of its certificate.
    """
    base = endpoint.rstrip("/")
    attributes = {"service.name": f"image-registry-{part.value}", "service.version": version("image-registry")}
    resource = Resource.create(attributes)
    spans = TracerProvider(resource=resource, shutdown_on_exit=False)
    spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{base}/v1/traces", **_transport(ca))))
    exporter = OTLPMetricExporter(f"{base}/v1/metrics", **_transport(ca))
    numbers = MeterProvider([PeriodicExportingMetricReader(exporter)], resource, shutdown_on_exit=False)
    _send_metrics(numbers.get_meter(SCOPE), part)
    tracing.install(_Tracer(spans.get_tracer(SCOPE)))
    try:
        yield
    finally:
        tracing.install(None)
        _within(FLUSH_SECONDS, spans.shutdown, numbers.shutdown)


def _transport(ca: Path | None) -> dict[str, Any]:
    """How an exporter reaches its collector."""
    if ca is None:
        return {"timeout": EXPORT_SECONDS}
    session = requests.Session()
    session.trust_env = False  # REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE would count more than `ca`
    return {"timeout": EXPORT_SECONDS, "certificate_file": str(ca), "session": session}


def _within(seconds: float, *calls: Callable[[], object]) -> None:
    """Make calls that may hang, and leave those behind that do: a collector that is away must not delay the end."""
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


def _send_metrics(meter: Meter, part: Part) -> None:
    for metric in CATALOGUE:
        if metric.part in {part, Part.BOTH}:
            if isinstance(metric, Sampled):
                _observe(meter, metric)
            else:
                metric.attach(_sink(meter, metric))


def _observe(meter: Meter, metric: Sampled) -> None:
    def read(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, _named(metric, labels)) for labels, value in metric.read().items()]

    make = meter.create_observable_counter if metric.total else meter.create_observable_gauge
    make(_otel_name(metric), [read], description=metric.help)


def _sink(meter: Meter, metric: Metric) -> Sink:
    if isinstance(metric, Histogram):
        buckets = list(metric.buckets)
        histogram = meter.create_histogram(
            _otel_name(metric), "s", metric.help, explicit_bucket_boundaries_advisory=buckets
        )
        return lambda labels, seconds: histogram.record(seconds, _named(metric, labels))
    counter = meter.create_counter(_otel_name(metric), description=metric.help)
    return lambda labels, amount: counter.add(amount, _named(metric, labels))


def _otel_name(metric: Metric) -> str:
    """Without the endings that a collector adds when it writes for Prometheus."""
    return metric.name.removesuffix("_total").removesuffix("_seconds" if isinstance(metric, Histogram) else "")


def _named(metric: Metric, labels: Labels) -> dict[str, str]:
    return dict(zip(metric.labels, labels, strict=True))


class _Span:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def set(self, name: str, value: Attribute) -> None:
        """See tracing.Span."""
        self._span.set_attribute(name, value)

    def link(self, traceparent: str) -> None:
        """See tracing.Span."""
        if traceparent:
            other = _W3C.extract({"traceparent": traceparent}, otel_context.Context())
            self._span.add_link(trace.get_current_span(other).get_span_context())

    def traceparent(self) -> str:
        """See tracing.Span."""
        return _traceparent(trace.set_span_in_context(self._span, otel_context.Context()))

    def end(self, error: str = "") -> None:
        """See tracing.Span."""
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(trace.StatusCode.ERROR, error)
        self._span.end()


class _Tracer:
    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def begin(
        self,
        name: str,
        kind: Kind,
        parent: Mapping[str, str] | None,
        attributes: Mapping[str, Attribute],
        current: bool,
    ) -> Span:
        """See tracing.Tracer. A task's context ends with it: what is made current is never put back."""
        above = _W3C.extract(dict(parent), otel_context.Context()) if parent is not None else None
        span = self._tracer.start_span(name, above, _KINDS[kind], attributes)
        if current:
            otel_context.attach(trace.set_span_in_context(span, above))
        return _Span(span)

    def traceparent(self) -> str:
        """See tracing.Tracer."""
        return _traceparent()


def _traceparent(context: otel_context.Context | None = None) -> str:
    headers: dict[str, str] = {}
    _W3C.inject(headers, context)
    return headers.get("traceparent", "")
