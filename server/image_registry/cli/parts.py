"""The parts of the product, each run alone: `serve`, `worker`, `gateway`, `migrate`."""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from pathlib import Path

import click
import psycopg

from image_registry import app
from image_registry.cli.common import database_url, free_address, run_until_stopped, say
from image_registry.cli.logs import set_up_logging
from image_registry.cli.replicas import run_replicas
from image_registry.gateway.config import GatewayOptions, ListenerTls, UpstreamTls
from image_registry.gateway.process import run_gateway
from image_registry.host import StartError
from image_registry.host.addresses import parse_address
from image_registry.settings import Settings, load
from image_registry.storage import migrations
from image_registry.storage.database import describe_dsn
from image_registry.worker.main import work

STOP_MARGIN = 2.0  # seconds that a server process has on top of its drain

_data_dir = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder of everything that is kept. [IMAGE_REGISTRY_DATA_DIR]"
)
_grpc_address = click.option("--grpc-address", help="Where gRPC listens. [127.0.0.1:50051]")
_http_address = click.option("--http-address", help="Where REST listens. [127.0.0.1:8080]")


@click.command()
@_data_dir
@_grpc_address
@click.option("--insecure", is_flag=True, default=None, help="Listen beyond loopback without keys, or without TLS.")
@click.option("--processes", type=click.IntRange(1, 64), help="Server processes on the port, one for each core. [1]")
@click.option("--replica", type=int, hidden=True, help="Share the port, and write to this descriptor when serving.")
def serve(
    data_dir: Path | None,
    grpc_address: str | None,
    insecure: bool | None,
    processes: int | None,
    replica: int | None,
) -> None:
    """Run the gRPC server alone, on the configured database."""
    settings = load(data_dir=data_dir, grpc_address=grpc_address, insecure=insecure, processes=processes)
    set_up_logging(settings.log_format)
    dsn = database_url(settings)
    if replica is not None:
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

    run_until_stopped(run if settings.processes == 1 else run_several)


async def _serve_as_replica(settings: Settings, dsn: str, announce: int, stop: asyncio.Event) -> None:
    """Serve on a port that others share; whether it is free has been checked before they were started."""

    def ready(where: str) -> None:
        say(f"serving gRPC on {where}")
        os.write(announce, b"1")
        os.close(announce)

    address = parse_address(settings.grpc_address)
    await app.serve(settings, dsn, str(address), stop=stop, ready=ready)


@click.command()
@_data_dir
def worker(data_dir: Path | None) -> None:
    """Run a worker alone: it takes build jobs from the configured database."""
    settings = load(data_dir=data_dir)
    set_up_logging(settings.log_format)
    dsn = database_url(settings)

    async def run(stop: asyncio.Event) -> None:
        await app.check_schema(dsn)
        db = app.database(settings, dsn)
        await db.open()
        try:
            await work(settings, db, stop=stop, ready=lambda agent: say(f"worker {agent} takes jobs"))
        finally:
            await db.close()

    run_until_stopped(run)


@click.command()
@_grpc_address
@_http_address
@click.option("--insecure", is_flag=True, default=None, help="Listen beyond loopback without keys, or without TLS.")
def gateway(grpc_address: str | None, http_address: str | None, insecure: bool | None) -> None:
    """Run the REST gateway (Envoy) alone, in front of the gRPC server at --grpc-address."""
    settings = load(grpc_address=grpc_address, http_address=http_address, insecure=insecure)
    set_up_logging(settings.log_format)
    tls, upstream_tls = _gateway_tls(settings)
    listen = free_address(settings, settings.http_address, "--http-address", encrypted=tls is not None)
    upstream = parse_address(settings.grpc_address).reachable
    scheme = "https" if tls else "http"

    run_dir = settings.data_dir.absolute() / "run"  # under `up`: what a killed gateway leaves there is removed

    async def run(stop: asyncio.Event) -> None:
        await run_gateway(
            GatewayOptions(listen=listen, upstreams=(upstream,), tls=tls, upstream_tls=upstream_tls),
            stop=stop,
            ready=lambda: say(f"serving REST on {scheme}://{listen.reachable}"),
            run_dir=run_dir if run_dir.is_dir() else None,
        )

    run_until_stopped(run)


def _gateway_tls(settings: Settings) -> tuple[ListenerTls | None, UpstreamTls | None]:
    certificate, key = settings.http_tls_certificate, settings.http_tls_key
    listener = ListenerTls(certificate, key, settings.http_tls_client_ca) if certificate and key else None
    if settings.upstream_ca is None:
        return listener, None
    own = settings.upstream_certificate, settings.upstream_key
    return listener, UpstreamTls(settings.upstream_ca, settings.upstream_name, *own)


@click.command()
@_data_dir
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 if the database lacks migrations.")
@click.option("--grant-to", metavar="ROLE", help="Also give this database role what serve and worker need, no more.")
def migrate(data_dir: Path | None, check: bool, grant_to: str | None) -> None:
    """Bring the configured database to the schema of this version."""
    settings = load(data_dir=data_dir)
    dsn = database_url(settings)
    try:
        if check:
            missing = asyncio.run(migrations.check(dsn))
            for step in missing:
                click.echo(f"missing: {step}")
            click.echo("the schema is current" if not missing else f"{len(missing)} migrations are missing")
            sys.exit(1 if missing else 0)
        applied = asyncio.run(migrations.migrate(dsn, click.echo))
        if grant_to is not None:
            asyncio.run(migrations.grant(dsn, grant_to))
    except psycopg.OperationalError as error:
        raise StartError(app.unreachable(dsn, error)) from None
    click.echo(f"{describe_dsn(dsn)} is current, {applied} migrations applied")
