"""`image-registry keys`: who may call."""

from __future__ import annotations

import asyncio
import getpass
import os
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import click
import psycopg

from image_registry import app
from image_registry.cli.common import database_url
from image_registry.host import StartError
from image_registry.models import Role
from image_registry.registry.keys import Keys
from image_registry.settings import load
from image_registry.storage.keys import StoredKey

T = TypeVar("T")
_UNITS = {"m": 60, "h": 3600, "d": 86400}

_data_dir = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder where `up` runs. [IMAGE_REGISTRY_DATA_DIR]"
)


@click.group()
def keys() -> None:
    """Make, list and revoke API keys.

    They are checked where IMAGE_REGISTRY_AUTH=keys is set. Roles: member (creates, reads, cancels what it created),
    admin (also deletes, and cancels anything), system (the platform's internal calls, and reads). Run it where the
    database is reached (IMAGE_REGISTRY_DATABASE_URL, or the data dir of an `up`); no server need run.

    \b
    Examples:
      image-registry keys create --role member --name ci --expires 90d
      (umask 077; image-registry keys create --role admin --quiet > key)
      image-registry keys list
    """


def _expiry(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    now = datetime.now(UTC)
    moment = _moment(value, now) if value else None
    if value and (moment is None or moment <= now):
        raise click.BadParameter(
            f"{value!r} is no time to come: write 30d, 12h, 90m or a date such as 2027-01-01", ctx, param
        )
    return moment


def _moment(text: str, now: datetime) -> datetime | None:
    try:
        if span := re.fullmatch(r"([0-9]{1,6})([mhd])", text, re.ASCII):
            return now + timedelta(seconds=int(span[1]) * _UNITS[span[2]])
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@keys.command()
@_data_dir
@click.option("--role", type=click.Choice([role.value for role in Role]), required=True, help="What the key may do.")
@click.option("--name", default="", help="A label for people, such as the team or service that gets the key.")
@click.option(
    "--expires",
    callback=_expiry,
    metavar="30d|2027-01-01",
    help="When it ends: after a span, or on a date (UTC). Default: never.",
)
@click.option("--quiet", is_flag=True, help="Print the key alone.")
def create(data_dir: Path | None, role: str, name: str, expires: datetime | None, quiet: bool) -> None:
    """Make a key and show it: this once, and never again."""
    new = _on_database(data_dir, lambda store: store.create(Role(role), name=name, expires_at=expires))
    click.echo(new.secret)
    if not quiet:
        until = f", valid until {_time(new.stored.expires_at)}" if new.stored.expires_at else ""
        click.echo(
            f"This is the only time that the key is shown. It has the role {role}{until}.\n"
            "Callers send it as the metadata or header rime-api-key. "
            f"It ends with: image-registry keys revoke {new.stored.prefix}",
            err=True,
        )


@keys.command("list")
@_data_dir
def list_(data_dir: Path | None) -> None:
    """Show all keys by prefix; the keys themselves are not kept."""
    found = _on_database(data_dir, lambda store: store.everything())
    rows = [("PREFIX", "ROLE", "STATE", "CREATED", "EXPIRES", "LAST USED", "NAME"), *map(_row, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


@keys.command()
@_data_dir
@click.argument("prefix")
def revoke(data_dir: Path | None, prefix: str) -> None:
    """End the key with that PREFIX: within a second no server takes it any more."""
    ended = _on_database(data_dir, lambda store: store.revoke(prefix))
    click.echo(f"{ended.prefix} is revoked")


def _on_database(data_dir: Path | None, work: Callable[[Keys], Awaitable[T]]) -> T:
    settings = load(data_dir=data_dir)
    dsn = database_url(settings)

    async def run() -> T:
        await app.check_schema(dsn)
        db = app.database(settings, dsn)
        await db.open()
        try:
            return await work(Keys(db, operator=f"operator {_person()}"))
        except psycopg.errors.InsufficientPrivilege:
            raise StartError("this database role may not change keys: use the one that runs `migrate`") from None
        finally:
            await db.close()

    return asyncio.run(run())


def _person() -> str:
    """Who runs this; the user of a container often has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        return f"uid {os.getuid()}"


def _row(key: StoredKey) -> tuple[str, ...]:
    return (
        key.prefix,
        key.role.value,
        _state(key),
        _time(key.created_at),
        _time(key.expires_at) if key.expires_at else "never",
        _time(key.last_used_at) if key.last_used_at else "never",
        key.name,
    )


def _state(key: StoredKey) -> str:
    if key.revoked_at:
        return "revoked"
    return "expired" if key.expires_at and key.expires_at <= datetime.now(UTC) else "valid"


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%MZ}"
