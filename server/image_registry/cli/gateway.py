"""`image-registry gateway`: the REST gateway alone."""

from __future__ import annotations

import asyncio

import click

from image_registry.cli.common import (
    free_address,
    http_address_option,
    run_until_stopped,
    say,
    telemetry_config,
)
from image_registry.cli.logs import set_up_logging
from image_registry.gateway.config import GatewayOptions, ListenerTls, TraceCollector, UpstreamTls
from image_registry.gateway.process import run_gateway
from image_registry.host.addresses import parse_address
from image_registry.settings import Settings, load


@click.command()
@click.option("--grpc-address", help="The gRPC server to pass calls on to. [127.0.0.1:50051]")
@http_address_option
@click.option("--insecure", is_flag=True, default=None, help="Listen beyond loopback without keys, or without TLS.")
def gateway(grpc_address: str | None, http_address: str | None, insecure: bool | None) -> None:
    """Run the REST gateway (Envoy) alone, in front of the gRPC server at --grpc-address.

    It answers REST and gRPC on one port, shows its documents at /docs and whether servers are healthy at /healthz. A
    host name for --grpc-address may stand for several servers: every address of it is used.

    \b
    Example:
      image-registry gateway --grpc-address servers.internal:50051 --http-address 127.0.0.1:8080
    """
    settings = load(grpc_address=grpc_address, http_address=http_address, insecure=insecure)
    set_up_logging(settings.log_format)
    tls, upstream_tls = _gateway_tls(settings)
    listen = free_address(settings, settings.http_address, "--http-address", encrypted=tls is not None)
    upstream = parse_address(settings.grpc_address).reachable
    scheme = "https" if tls else "http"

    options = GatewayOptions(
        listen=listen,
        upstreams=(upstream,),
        metrics=telemetry_config(settings).admin,
        tls=tls,
        upstream_tls=upstream_tls,
        collector=_collector(settings),
    )
    run_dir = settings.data_dir.absolute() / "run"  # under `up`: what a killed gateway leaves there is removed

    async def run(stop: asyncio.Event) -> None:
        await run_gateway(
            options,
            stop=stop,
            ready=lambda: say(f"serving REST on {scheme}://{listen.reachable}"),
            leave_seconds=settings.shutdown_delay,
            run_dir=run_dir if run_dir.is_dir() else None,
        )

    run_until_stopped(run)


def _collector(settings: Settings) -> TraceCollector | None:
    if not settings.otlp_endpoint:
        return None
    ca = {"ca": settings.otlp_ca} if settings.otlp_ca else {}
    return TraceCollector(settings.otlp_endpoint, **ca)


def _gateway_tls(settings: Settings) -> tuple[ListenerTls | None, UpstreamTls | None]:
    certificate, key = settings.http_tls_certificate, settings.http_tls_key
    listener = ListenerTls(certificate, key, settings.http_tls_client_ca) if certificate and key else None
    if settings.upstream_ca is None:
        return listener, None
    own = settings.upstream_certificate, settings.upstream_key
    return listener, UpstreamTls(settings.upstream_ca, settings.upstream_name, *own)
