"""`image-registry migrate`: brings a database to the schema of this version."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click
import psycopg

from image_registry import app
from image_registry.cli.common import data_dir_option, database_url
from image_registry.host import StartError
from image_registry.settings import load
from image_registry.storage import migrations
from image_registry.storage.database import describe_dsn


@click.command()
@data_dir_option
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 if the database lacks migrations.")
@click.option("--grant-to", metavar="ROLE", help="Also give this database role what serve and worker need, no more.")
def migrate(data_dir: Path | None, check: bool, grant_to: str | None) -> None:
    """Bring the configured database to the schema of this version.

    Run it before the servers of a new release; those that run go on through it. Twice, or from two places at once, is
    the same as once.

    \b
    Examples:
      image-registry migrate --check
      image-registry migrate --grant-to image_registry
    """
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
    except psycopg.Error as error:
        raise StartError(app.unreachable(dsn, error)) from None
    click.echo(f"{describe_dsn(dsn)} is current, {applied} migrations applied")
