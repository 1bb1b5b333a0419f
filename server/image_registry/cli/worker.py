"""`image-registry worker`: takes build jobs from a database."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from image_registry import app
from image_registry.cli.common import data_dir_option, database_url, run_until_stopped, say, telemetry_config
from image_registry.cli.logs import set_up_logging
from image_registry.settings import load
from image_registry.telemetry.metrics import Part
from image_registry.telemetry.running import telemetry
from image_registry.worker.main import work


@click.command()
@data_dir_option
def worker(data_dir: Path | None) -> None:
    """Run a worker alone: it takes build jobs from the configured database.

    It needs IMAGE_REGISTRY_DATABASE_URL, or an `up` in the data dir, and no port: start as many as there is work for,
    on any machine. SIGTERM lets it finish what it can within IMAGE_REGISTRY_DRAIN_TIMEOUT; the rest goes to other
    workers. `image-registry doctor` says what it lacks on this machine.
    """
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

    with telemetry(telemetry_config(settings), Part.WORKER):
        run_until_stopped(run)
