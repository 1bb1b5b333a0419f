"""The `image-registry` command: the parts of the product, and all of it at once (`up`)."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import psycopg
import uvloop

from image_registry import app
from image_registry.cli.logs import set_up_logging
from image_registry.errors import RegistryError
from image_registry.gateway.config import GatewayOptions
from image_registry.gateway.process import run_gateway
from image_registry.host import StartError
from image_registry.host.addresses import Address, parse_address, check_free
from image_registry.local.postgres import find_running
from image_registry.settings import Settings, SettingsError, load
from image_registry.storage import migrations
from image_registry.storage.database import describe_dsn
from image_registry.worker.main import work

log = logging.getLogger("image_registry")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="image-registry")
def cli() -> None:
    """The managed image registry: makes, keeps and finds container images with the libraries you need.

    `up` runs the whole product on this machine. The other commands run one part of it each, for deployments.
    Settings come from IMAGE_REGISTRY_… variables; docs/reference/configuration.md lists them.
    """


_data_dir = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder of everything that is kept. [IMAGE_REGISTRY_DATA_DIR]"
)
_grpc_address = click.option("--grpc-address", help="Where gRPC listens. [127.0.0.1:50051]")
_http_address = click.option("--http-address", help="Where REST listens. [127.0.0.1:8080]")


@cli.command()
@_data_dir
@_grpc_address
@click.option("--insecure", is_flag=True, default=None, help="Listen beyond loopback although callers aren't checked.")
def serve(data_dir: Path | None, grpc_address: str | None, insecure: bool | None) -> None:
    """Run the gRPC server alone, on the configured database."""
    settings = load(data_dir=data_dir, grpc_address=grpc_address, insecure=insecure)
    set_up_logging(settings.log_format)
    address = guarded_address(settings, settings.grpc_address, "--grpc-address")
    dsn = database_url(settings)

    async def run(stop: asyncio.Event) -> None:
        await app.serve(settings, dsn, str(address), stop=stop, ready=lambda where: _say(f"serving gRPC on {where}"))

    _run(run)


@cli.command()
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
            await work(settings, db, stop=stop, ready=lambda agent: _say(f"worker {agent} takes jobs"))
        finally:
            await db.close()

    _run(run)


@cli.command()
@_grpc_address
@_http_address
@click.option("--insecure", is_flag=True, default=None, help="Listen beyond loopback although callers aren't checked.")
def gateway(grpc_address: str | None, http_address: str | None, insecure: bool | None) -> None:
    """Run the REST gateway (Envoy) alone, in front of the gRPC server at --grpc-address."""
    settings = load(grpc_address=grpc_address, http_address=http_address, insecure=insecure)
    set_up_logging(settings.log_format)
    listen = guarded_address(settings, settings.http_address, "--http-address")
    upstream = parse_address(settings.grpc_address).reachable

    async def run(stop: asyncio.Event) -> None:
        await run_gateway(
            GatewayOptions(listen=listen, upstreams=(upstream,)),
            stop=stop,
            ready=lambda: _say(f"serving REST on http://{listen.reachable}"),
        )

    _run(run)


@cli.command()
@_data_dir
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 if the database lacks migrations.")
def migrate(data_dir: Path | None, check: bool) -> None:
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
    except psycopg.OperationalError as error:
        raise StartError(app.unreachable(dsn, error)) from None
    click.echo(f"{describe_dsn(dsn)} is current, {applied} migrations applied")


def database_url(settings: Settings) -> str:
    """The configured database, or the one that `up` runs in the data dir. Raises StartError if there is neither."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    if dsn := find_running(settings.data_dir):
        return dsn
    raise StartError(
        f"no database: set IMAGE_REGISTRY_DATABASE_URL, or run `image-registry up` on {settings.data_dir}"
    )


def guarded_address(settings: Settings, text: str, option: str) -> Address:
    """The address, if it is free and may be listened on: without checked callers that is loopback only."""
    address = parse_address(text)
    if not address.is_loopback and not settings.insecure:
        raise StartError(
            f"{address} can be reached from other machines and callers aren't checked: "
            f"choose a loopback {option} such as 127.0.0.1:{address.port}, or say --insecure"
        )
    check_free(address, option)
    return address


def _run(part: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run a part until SIGINT or SIGTERM asks it to stop; a second one ends it at once."""

    async def until_stopped() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(part(stop))

        def on_signal() -> None:
            if stop.is_set():
                task.cancel()
            stop.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal)
        with suppress(asyncio.CancelledError):
            await task

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(until_stopped())


def _say(line: str) -> None:
    click.echo(line)
    sys.stdout.flush()


def main() -> None:
    """Entry point: what a person did wrong becomes one sentence and exit code 1."""
    try:
        cli.main(standalone_mode=True)
    except (StartError, SettingsError, RegistryError, migrations.MigrationError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except ExceptionGroup as group:
        causes = [e for e in group.exceptions if isinstance(e, StartError | RegistryError)]
        if not causes:
            raise
        click.echo(f"error: {causes[0]}", err=True)
        sys.exit(1)
