"""What several commands share: the database they use, addresses they may listen on, how they are stopped."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import uvloop

from image_registry.host import StartError, with_variable
from image_registry.host.addresses import Address, check_free, parse_address
from image_registry.local.postgres import find_running
from image_registry.settings import Settings
from image_registry.telemetry.running import TelemetryConfig

data_dir_option = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder of everything that is kept. [IMAGE_REGISTRY_DATA_DIR]"
)
grpc_address_option = click.option("--grpc-address", help="Where gRPC listens. [127.0.0.1:50051]")
http_address_option = click.option("--http-address", help="Where REST listens. [127.0.0.1:8080]")


def database_url(settings: Settings) -> str:
    """The configured database, or the one that `up` runs in the data dir. Raises StartError if there is neither."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    if dsn := find_running(settings.data_dir):
        return dsn
    raise StartError(f"no database: set IMAGE_REGISTRY_DATABASE_URL, or run `image-registry up` on {settings.data_dir}")


def free_address(settings: Settings, text: str, option: str, *, encrypted: bool = False) -> Address:
    """An address that may be listened on, and is free. Raises StartError."""
    address = allowed_address(settings, text, option, encrypted=encrypted)
    check_free(address, option)
    return address


def allowed_address(settings: Settings, text: str, option: str, *, encrypted: bool = False) -> Address:
    """The address, if it may be listened on: without keys and TLS (`encrypted`) that is loopback only."""
    address = parse_address(text)
    if not address.is_loopback and not settings.insecure:
        missing = []
        if settings.auth == "none":
            missing.append("callers aren't checked (IMAGE_REGISTRY_AUTH=keys)")
        if not encrypted:
            missing.append("there is no TLS")
        if missing:
            raise StartError(
                f"{address} can be reached from other machines, and {' and '.join(missing)}: "
                f"choose a loopback {with_variable(option)} such as 127.0.0.1:{address.port}, "
                f"or say {with_variable('--insecure')}"
            )
    return address


def telemetry_config(settings: Settings, *, process: int = 0) -> TelemetryConfig:
    """Where a process tells about itself; of several on one machine each has the port behind the one before.

    Raises StartError for an admin address that may not be listened on, or isn't free.
    """
    if not settings.admin_address:
        return TelemetryConfig(None, settings.otlp_endpoint, settings.otlp_ca)
    first = parse_address(settings.admin_address)
    address = Address(first.host, first.port + process)
    if not address.is_loopback and not (settings.admin_open or settings.insecure):
        raise StartError(
            f"{address} can be reached from other machines, and whoever reaches it can read the metrics: choose a "
            "loopback IMAGE_REGISTRY_ADMIN_ADDRESS, or set IMAGE_REGISTRY_ADMIN_OPEN=true"
        )
    check_free(address, "IMAGE_REGISTRY_ADMIN_ADDRESS")
    return TelemetryConfig(address, settings.otlp_endpoint, settings.otlp_ca)


def run_until_stopped(part: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
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


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    click.echo(line)
    sys.stdout.flush()
