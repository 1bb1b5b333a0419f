"""`image-registry up`: the whole product on this machine."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path

import click

from image_registry.builds.debian import DebianBase
from image_registry.cli.common import allowed_address, run_until_stopped, say
from image_registry.cli.example import build_example
from image_registry.host import StartError
from image_registry.local.up import UpOptions
from image_registry.local.up import up as run_up
from image_registry.settings import PREFIX, load


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of everything that is kept.")
@click.option("--grpc-address", help="Where gRPC listens. [127.0.0.1:50051]")
@click.option("--http-address", help="Where REST listens. [127.0.0.1:8080]")
@click.option("--no-gateway", is_flag=True, help="No REST: leave Envoy out.")
@click.option("--no-worker", is_flag=True, help="Build nothing: leave the worker out.")
@click.option("--insecure", is_flag=True, default=None, help="Listen beyond loopback although callers aren't checked.")
@click.option("--example", is_flag=True, help="Build one example image through the API and say what to try next.")
def up(
    data_dir: Path | None,
    grpc_address: str | None,
    http_address: str | None,
    no_gateway: bool,
    no_worker: bool,
    insecure: bool | None,
    example: bool,
) -> None:
    """Run the whole product on this machine until Ctrl-C: Postgres, gRPC server, REST gateway and a worker.

    Without IMAGE_REGISTRY_DATABASE_URL it brings its own Postgres. Everything is kept in the data dir; a second `up`
    on the same one is refused. SIGTERM and Ctrl-C stop every part, a second Ctrl-C at once.
    """
    settings = load(data_dir=data_dir, grpc_address=grpc_address, http_address=http_address, insecure=insecure)
    if settings.tls_certificate or settings.http_tls_certificate:
        raise StartError("`up` is for one machine and takes no TLS: run `serve`, `worker` and `gateway` instead")
    grpc = allowed_address(settings, settings.grpc_address, "--grpc-address")
    http = None if no_gateway else allowed_address(settings, settings.http_address, "--http-address")
    environment = dict(os.environ)  # the children read their settings from it, as this process did
    if settings.insecure:
        environment[f"{PREFIX}INSECURE"] = "true"
    options = UpOptions(
        data_dir=settings.data_dir,
        grpc_address=grpc,
        http_address=http,
        worker=not no_worker,
        database_url=settings.database_url.get_secret_value() if settings.database_url else None,
        base_images_set=f"{PREFIX}BASE_IMAGES" in environment,
        environment=environment,
        base_maker=DebianBase(),
        when_ready=partial(build_example, str(grpc.reachable), str(http.reachable) if http else None)
        if example
        else None,
    )

    async def run(stop: asyncio.Event) -> None:
        await run_up(options, stop=stop, say=say)

    run_until_stopped(run)
