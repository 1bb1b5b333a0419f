"""Starts what the configuration asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from image_registry.host import StartError
from image_registry.host.addresses import Address
from image_registry.telemetry import metrics
from image_registry.telemetry.catalogue import CATALOGUE, INFO
from image_registry.telemetry.metrics import Part, Reading


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """`admin`: where Prometheus asks; `otlp_endpoint`: the collector's base URL. None and '': not at all.

    `otlp_ca`: the authority of the collector's certificate; None: those that Python's HTTP client trusts.
    """

    admin: Address | None = None
    otlp_endpoint: str = ""
    otlp_ca: Path | None = None


@contextmanager
def telemetry(config: TelemetryConfig, part: Part) -> Iterator[None]:
    """Metrics and traces of this process leave it, as configured, until the block ends. Raises StartError."""
    with ExitStack() as running:
        info: Reading = {(version("image-registry"), part.value): 1.0}
        running.enter_context(metrics.sampled([(INFO, lambda: info)]))
        running.callback(_detach)
        if config.admin is not None:
            from image_registry.telemetry.prometheus import admin_endpoint  # noqa: PLC0415 (only who asks for it)

            running.enter_context(admin_endpoint(config.admin, part))
        if config.otlp_endpoint:
            try:
                from image_registry.telemetry.otel import exporting  # noqa: PLC0415 (a third of a second)
            except ImportError:
                raise StartError(
                    "IMAGE_REGISTRY_OTLP_ENDPOINT is set and OpenTelemetry is not installed: "
                    "install image-registry[otel], or unset it"
                ) from None
            running.enter_context(exporting(config.otlp_endpoint, config.otlp_ca, part))
        yield


def _detach() -> None:
    for metric in CATALOGUE:
        metric.detach_all()
