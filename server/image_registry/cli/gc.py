"""`image-registry gc`."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path

import click

from image_registry import app
from image_registry.builds.faults import UnavailableError
from image_registry.cli.common import database_url
from image_registry.host import StartError
from image_registry.registry.garbage import DAY, Garbage, Item
from image_registry.settings import Settings, load
from image_registry.worker.main import keyring_of, places_of


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the worker. [IMAGE_REGISTRY_DATA_DIR]")
@click.option("--delete", is_flag=True, help="Remove what is found; without it nothing is changed.")
@click.option(
    "--days",
    type=click.FloatRange(min=0),
    default=7.0,
    show_default=True,
    help="Leave alone what was touched since so many days: cached layers, logs, unfinished repositories.",
)
def gc(data_dir: Path | None, delete: bool, days: float) -> None:
    """Find what belongs to no image: repositories, cached layers, folders of killed builds, logs, old notes.

    Run it where a worker runs, with the worker's settings. It is safe while builds run. Repositories below the prefix
    that this registry did not make are named and never touched.
    """
    settings = load(data_dir=data_dir)
    try:
        asyncio.run(_collect(settings, database_url(settings), delete, days * DAY))
    except UnavailableError as error:
        raise StartError(f"{settings.repository_root} can't be looked through: {error}") from None
    except OSError as error:
        raise StartError(f"{error.filename or 'a folder'} can't be looked through: {error.strerror}") from None


async def _collect(settings: Settings, dsn: str, delete: bool, age: float) -> None:
    await app.check_schema(dsn)
    db = app.database(settings, dsn)
    await db.open()
    try:
        garbage = Garbage(db, places_of(settings, keyring_of(settings)), age)
        found = [item async for item in garbage.find()]
        gone = [item for item in found if await _dealt_with(item, delete)]
    finally:
        await db.close()
    for repository in garbage.foreign:
        click.echo(f"{'kept':<8} {'repository':<13} {repository}: this registry did not make it")
    click.echo(_summary(gone, delete))


async def _dealt_with(item: Item, delete: bool) -> bool:
    removed = await item.remove() if delete else True
    word = ("removed" if removed else "in use") if delete else "found"
    size = f", {item.size / 1e6:.1f} MB" if item.size else ""
    click.echo(f"{word:<8} {item.kind.value:<13} {item.what}: {item.why}{size}")
    return removed


def _summary(items: list[Item], delete: bool) -> str:
    if not items:
        return "nothing belongs to no image"
    counts: dict[str, int] = defaultdict(int)
    for item in items:
        counts[item.kind.value] += 1
    parts = ", ".join(f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counts.items())
    parts = parts.replace("repositorys", "repositories")
    size = sum(item.size for item in items) / 1e6
    end = "removed" if delete else "nothing was removed: run it with --delete for that"
    return f"{parts}, {size:.1f} MB; {end}"
