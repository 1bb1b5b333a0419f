"""`image-registry serve`: the gRPC server alone."""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from pathlib import Path

import click

from image_registry import app
from image_registry.cli.common import (
    data_dir_option,
    database_url,
    free_address,
    grpc_address_option,
    run_until_stopped,
    say,
    telemetry_config,
)
from image_registry.cli.logs import set_up_logging
from image_registry.cli.replicas import run_replicas
from image_registry.host.addresses import parse_address
from image_registry.settings import Settings, load
from image_registry.telemetry.metrics import Part
from image_registry.telemetry.running import telemetry

STOP_MARGIN = 2.0  # seconds that a server process has on top of its drain


@click.command()
@data_dir_option
@grpc_address_option
@click.option("--insecure", is_flag=True, default=None, help="Listen beyond loopback without keys, or without TLS.")
@click.option("--processes", type=click.IntRange(1, 64), help="Server processes on the port, one for each core. [1]")
@click.option("--replica", type=int, hidden=True, help="Share the port, and write to this descriptor when serving.")
@click.option("--replica-number", type=int, default=0, hidden=True, help="Which of the processes this is.")
def serve(
    data_dir: Path | None,
    grpc_address: str | None,
    insecure: bool | None,
    processes: int | None,
    replica: int | None,
    replica_number: int,
) -> None:
    """Run the gRPC server alone, on the configured database.

    The database is IMAGE_REGISTRY_DATABASE_URL, with the schema that `migrate` makes, or that of an `up` in the data
    dir. SIGTERM lets calls under way end; to replace servers without a failed call see docs/operations/upgrade.md.

    \b
    Examples:
      image-registry serve
      image-registry serve --processes 4 --grpc-address 0.0.0.0:50051   (with IMAGE_REGISTRY_AUTH=keys, and TLS)
    """
    settings = load(data_dir=data_dir, grpc_address=grpc_address, insecure=insecure, processes=processes)
    set_up_logging(settings.log_format)
    dsn = database_url(settings)
    if replica is not None:
        with telemetry(telemetry_config(settings, process=replica_number), Part.SERVER):
            run_until_stopped(partial(_serve_as_replica, settings, dsn, replica))
        return
    encrypted = settings.tls_certificate is not None
    address = free_address(settings, settings.grpc_address, "--grpc-address", encrypted=encrypted)

    async def run(stop: asyncio.Event) -> None:
        await app.serve(settings, dsn, str(address), stop=stop, ready=lambda where: say(f"serving gRPC on {where}"))

    async def run_several(stop: asyncio.Event) -> None:
        await app.check_schema(dsn)
        say(f"starting {settings.processes} server processes on {address}")
        argv = [sys.executable, "-m", "image_registry", *sys.argv[1:]]
        stop_seconds = settings.shutdown_delay + settings.drain_timeout + STOP_MARGIN
        await run_replicas(argv, settings.processes, stop=stop, stop_seconds=stop_seconds)

    if settings.processes > 1:
        run_until_stopped(run_several)
        return
    with telemetry(telemetry_config(settings), Part.SERVER):
        run_until_stopped(run)


async def _serve_as_replica(settings: Settings, dsn: str, announce: int, stop: asyncio.Event) -> None:
    """Serve on a port that others share; whether it is free has been checked before they were started."""

    def ready(where: str) -> None:
        say(f"serving gRPC on {where}")
        os.write(announce, b"1")
        os.close(announce)

    address = parse_address(settings.grpc_address)
    await app.serve(settings, dsn, str(address), stop=stop, ready=ready)
