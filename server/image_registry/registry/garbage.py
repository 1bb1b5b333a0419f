"""Finding and removing what belongs to no image: repositories, cached layers, temporary folders, logs, old notes.

It is safe beside running builds. A repository says whose it is, and lives of images are never used again: one whose
life is not in the database, and that no unfinished job is about, will never be wanted. The database is read after the
repositories were listed, for an image is recorded before its repository is made. The rest is judged by its age.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from uuid import UUID

from image_registry.builds import cache, runner
from image_registry.builds.layer import wheel_layer_key
from image_registry.builds.repositories.home import FoundRepository, Home
from image_registry.storage import garbage, images
from image_registry.storage.database import Connection, Database

DAY = 86400.0


class Kind(Enum):
    """Sorts of garbage."""

    REPOSITORY = "repository"
    NOTE = "note"
    FOLDER = "folder"
    LAYER = "cached layer"
    LOG = "log"


@dataclass(frozen=True)
class Item:
    """Something that belongs to no image: what it is, why that is known, and its size in bytes (0: not known)."""

    kind: Kind
    what: str
    why: str
    size: int = 0
    remove: Callable[[], Awaitable[bool]] = field(kw_only=True, repr=False, compare=False)
    """Removes it; False: it turned out to be in use, or to be gone."""


@dataclass(frozen=True)
class Places:
    """Where a worker keeps things: its repositories' home, and the folders of this machine."""

    home: Home
    cache_dir: Path
    work_dir: Path


class Garbage:
    """What belongs to no image and was not touched for `age` seconds. `foreign` are repositories that aren't ours."""

    def __init__(self, db: Database, places: Places, age: float = 7 * DAY) -> None:
        self._db = db
        self._places = places
        self._age = age
        self.foreign: list[str] = []

    async def find(self) -> AsyncIterator[Item]:
        """All of it. Raises UnavailableError, OSError, RegistryError."""
        self.foreign = []
        for item in [*await self._repositories(), *await self._leftovers()]:
            yield item
        for item in [*await self._folders(), *await self._layers(), *await self._logs()]:
            yield item

    async def _repositories(self) -> list[Item]:
        found = await asyncio.to_thread(lambda: list(self._places.home.repositories()))
        identity = (await self._db.read(images.identity)).id
        self.foreign = [one.repository for one in found if not _is_ours(one, identity)]
        ours = [one for one in found if _is_ours(one, identity)]
        doomed = await self._doomed(ours, identity)
        return [
            Item(
                Kind.REPOSITORY,
                one.repository,
                "its image was deleted" if one.owner else "no image was ever finished in it",
                remove=partial(self._remove_repository, one, identity),
            )
            for one in doomed
        ]

    async def _doomed(self, found: Sequence[FoundRepository], identity: UUID) -> list[FoundRepository]:
        """Those that no image and no unfinished job is about."""
        lives = {one.repository: _life(one, identity) for one in found if one.owner}
        names = [_name(one) for one in found]

        async def look(conn: Connection) -> tuple[set[int], set[str], set[str]]:
            return (
                await garbage.lives(conn, [*lives.values()]),
                await garbage.names(conn, names),
                await garbage.awaited(conn, [one.repository for one in found]),
            )

        living, taken, awaited = await self._db.read(look)
        old = time.time() - self._age
        return [
            one
            for one in found
            if one.repository not in awaited
            and (lives[one.repository] not in living if one.owner else _name(one) not in taken and one.touched < old)
        ]

    async def _remove_repository(self, one: FoundRepository, identity: UUID) -> bool:
        if not await self._doomed([one], identity):
            return False
        owner = one.owner or f"{identity}/gc"
        return await asyncio.to_thread(self._places.home.delete, one.repository, owner)

    async def _leftovers(self) -> list[Item]:
        home = self._places.home
        found = await asyncio.to_thread(lambda: list(home.leftovers()))
        return [Item(Kind.NOTE, one.name, one.what, remove=_in_thread(partial(home.discard, one))) for one in found]

    async def _folders(self) -> list[Item]:
        found = await asyncio.to_thread(runner.leftovers, self._places.work_dir)
        return [
            Item(
                Kind.FOLDER,
                str(folder),
                "its build was killed",
                await asyncio.to_thread(_size, folder),
                remove=_in_thread(partial(runner.remove_leftover, folder)),
            )
            for folder in found
        ]

    async def _layers(self) -> list[Item]:
        wheels = await self._db.read(garbage.wheels)
        needed = [wheel_layer_key(sha256, python_version) for sha256, python_version in wheels]
        root, before = self._places.cache_dir, time.time() - self._age
        found = await asyncio.to_thread(cache.unused, root, needed, before)
        return [
            Item(
                Kind.LAYER,
                str(path),
                "no build used it lately, and it is no library of an image",
                size,
                remove=partial(asyncio.to_thread, cache.remove_unused, root, path, before),
            )
            for path, size in found
        ]

    async def _logs(self) -> list[Item]:
        found = await self._db.read(partial(garbage.orphan_logs, age=self._age))
        return [
            Item(
                Kind.LOG,
                f"of job {one.uuid}",
                f"the image {one.image_name} was deleted",
                one.size,
                remove=partial(self._remove_log, one.job_id),
            )
            for one in found
        ]

    async def _remove_log(self, job_id: int) -> bool:
        await self._db.write(partial(garbage.remove_log, job_id=job_id))
        return True


def _is_ours(one: FoundRepository, identity: UUID) -> bool:
    """Whether this registry made it: it says so, or it is empty below a prefix that is ours."""
    return one.owner is None or (one.owner.startswith(f"{identity}/") and _life(one, identity) > 0)


def _life(one: FoundRepository, identity: UUID) -> int:
    life = (one.owner or "").removeprefix(f"{identity}/")
    return int(life) if life.isascii() and life.isdigit() and len(life) < 19 else 0


def _name(one: FoundRepository) -> str:
    return one.repository.rpartition("/")[2]


def _in_thread(action: Callable[[], object]) -> Callable[[], Awaitable[bool]]:
    async def run() -> bool:
        await asyncio.to_thread(action)
        return True

    return run


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
