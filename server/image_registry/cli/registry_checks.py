"""What `doctor` looks at in registries: where images go, and what they stand on."""

from __future__ import annotations

import asyncio

from image_registry import app
from image_registry.builds.base_digest import current_digest
from image_registry.builds.credentials import Keyring
from image_registry.builds.faults import InvalidImageError, UnavailableError
from image_registry.builds.repositories.home import HomeFaultError
from image_registry.cli.findings import Finding, broken, notice, ok, unchecked
from image_registry.errors import RegistryError
from image_registry.host import StartError
from image_registry.registry.platform import BuiltOn, Platform
from image_registry.settings import Settings
from image_registry.worker.main import keyring_of, places_of

_MOVED = "moved bases"
_PATIENCE = 20.0  # seconds for all registries of base images


async def repository(settings: Settings) -> Finding:
    """Builds could push to the place that is configured for images."""
    try:
        return ok("repository", await asyncio.to_thread(places_of(settings, keyring_of(settings)).home.check))
    except HomeFaultError as fault:
        return broken("repository", str(fault), fault.remedy)


async def moved_bases(settings: Settings, dsn: str | None) -> Finding:
    """Every system image stands on what the reference of its base means now."""
    try:
        built_on = await _built_on(settings, dsn) if dsn else None
    except (RegistryError, StartError):
        built_on = None
    if built_on is None:
        return unchecked(_MOVED, "can't be told without the database")
    if not built_on:
        return unchecked(_MOVED, "no system image with a recorded base yet")
    try:
        async with asyncio.timeout(_PATIENCE):
            keyring = keyring_of(settings)
            now = await asyncio.gather(*(asyncio.to_thread(_current, keyring, one.reference) for one in built_on))
    except TimeoutError:
        return unchecked(_MOVED, "the registries of the base images don't answer")
    return _compared(list(zip(built_on, now, strict=True)))


def _compared(found: list[tuple[BuiltOn, str]]) -> Finding:
    moved = [(one, now) for one, now in found if now not in {"", one.digest}]
    unknown = [one.reference for one, now in found if not now]
    if moved:
        texts = [f"{one.name} stands on {one.digest}, {one.reference} is {now} now" for one, now in moved]
        commands = " and ".join(f"`image-registry images sync {one.name} --force`" for one, _ in moved)
        return notice(_MOVED, "; ".join(texts), f"rebuild: {commands}")
    if unknown:
        return unchecked(_MOVED, f"can't be told of {', '.join(unknown)}: not to be had now")
    return ok(_MOVED, "every system image stands on its base as it is now")


async def _built_on(settings: Settings, dsn: str) -> list[BuiltOn]:
    await app.check_schema(dsn)
    db = app.database(settings, dsn)
    await db.open()
    try:
        return await Platform(db, app.platform_config(settings)).bases()
    finally:
        await db.close()


def _current(keyring: Keyring, reference: str) -> str:
    """What the reference means now; '' when that can't be told."""
    try:
        return current_digest(reference, keyring)
    except (UnavailableError, InvalidImageError, ValueError, OSError):
        return ""
