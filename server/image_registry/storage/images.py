"""Rows of images and of the index that finds them by library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString

from psycopg.rows import DictRow

from image_registry.models import (
    ImageStatus,
    LibraryFilter,
    PipLibrary,
    Priority,
    RegistryIdentity,
    RoleType,
    StoredImage,
    StoredJob,
)
from image_registry.requirements import library_key, version_key
from image_registry.storage.database import Connection
from image_registry.storage.jobs import to_job
from image_registry.storage.queries import load

_SQL = load("images.sql")
CHILDREN_NAMED = 20  # how many children an error names


async def get(conn: Connection, name: str, *, children: bool = False) -> StoredImage | None:
    """The image of that name; `children` adds the names of the images built on it."""
    cursor = await conn.execute(_SQL["get_with_children" if children else "get"], {"name": name})
    return _image_or_none(await cursor.fetchone())


async def lock(conn: Connection, name: str) -> StoredImage | None:
    """The image of that name, held until the transaction ends."""
    return _image_or_none(await (await conn.execute(_SQL["lock"], {"name": name})).fetchone())


async def lock_by_id(conn: Connection, image_id: int) -> StoredImage | None:
    """One life of an image, held until the transaction ends; None if it was deleted."""
    return _image_or_none(await (await conn.execute(_SQL["lock_by_id"], {"id": image_id})).fetchone())


async def base_of(conn: Connection, image_id: int) -> StoredImage | None:
    """The managed image that this one is built on; None for a system image."""
    return _image_or_none(await (await conn.execute(_SQL["base_of"], {"id": image_id})).fetchone())


async def lock_file(conn: Connection, image_id: int) -> str:
    """The lock of the image's last good build, as its builder wrote it; '' if there was none."""
    row = await (await conn.execute(_SQL["lock_file"], {"id": image_id})).fetchone()
    return "" if row is None else str(row["lock"])


async def child_names(conn: Connection, image_id: int) -> list[str]:
    """The names of the first images that are built on this one."""
    cursor = await conn.execute(_SQL["children"], {"id": image_id, "limit": CHILDREN_NAMED})
    return [row["name"] for row in await cursor.fetchall()]


async def create(conn: Connection, image: StoredImage, *, repository: str, priority: Priority) -> StoredJob | None:
    """Write a new image (its `id` is chosen here) and its first build job; None: the name is taken."""
    values = {
        "name": image.name,
        "role": image.role,
        "python_version": image.python_version,
        "platform_tag": image.platform_tag,
        "base_image_id": image.base_image_id,
        "definition": image.definition,
        "repository": repository,
        "priority": priority,
    }
    row = await (await conn.execute(_SQL["create"], values)).fetchone()
    return None if row is None else to_job(row)


async def start_rebuild(conn: Connection, image_id: int) -> None:
    """READY, OUTDATED or FAILED → REBUILDING, remembering where it came from."""
    await conn.execute(_SQL["start_rebuild"], {"id": image_id})


async def end_cancelled(conn: Connection, image_id: int) -> None:
    """A cancelled build: back to the status before, FAILED if there was none."""
    await conn.execute(_SQL["end_cancelled"], {"id": image_id})


async def end_failed(conn: Connection, image_id: int) -> None:
    """A failed build: FAILED."""
    await conn.execute(_SQL["end_failed"], {"id": image_id})


async def end_ready(
    conn: Connection,
    image_id: int,
    *,
    definition: bytes,
    platform_tag: str,
    digest: str,
    lock_file: str,
    old: Sequence[PipLibrary],
    new: Sequence[PipLibrary],
) -> None:
    """A finished build: READY, with its libraries findable, in one statement."""
    keys = {library_key(x.name): version_key(x.version) for x in new}
    values = {
        "id": image_id,
        "definition": definition,
        "platform_tag": platform_tag,
        "digest": digest,
        "lock": lock_file,
        "old_libraries": [library_key(x.name) for x in old],
        "libraries": list(keys),
        "versions": [public for public, _ in keys.values()],
        "locals": [local for _, local in keys.values()],
    }
    await conn.execute(_SQL["end_ready"], values)


async def mark_outdated(conn: Connection, platform_tag: str) -> None:
    """READY images of other tags → OUTDATED."""
    await conn.execute(_SQL["mark_outdated"], {"platform_tag": platform_tag})


async def mark_outdated_children(conn: Connection, image_id: int, platform_tag: str) -> None:
    """READY images that are built on this one with another tag → OUTDATED."""
    await conn.execute(_SQL["mark_outdated_children"], {"id": image_id, "platform_tag": platform_tag})


async def mark_one_outdated(conn: Connection, image_id: int) -> None:
    """READY → OUTDATED."""
    await conn.execute(_SQL["mark_one_outdated"], {"id": image_id})


async def delete(conn: Connection, image: StoredImage, libraries: Sequence[PipLibrary]) -> None:
    """Remove a locked image and the index rows of its recorded `libraries`."""
    keys = [library_key(x.name) for x in libraries]
    await conn.execute(_SQL["delete"], {"id": image.id, "name": image.name, "libraries": keys})


async def page(conn: Connection, *, after: str, limit: int, filters: Sequence[LibraryFilter]) -> list[StoredImage]:
    """Up to `limit` images in name order behind the name `after`, each meeting every filter."""
    values: dict[str, Any] = {"after": after, "limit": limit}
    conditions = "".join(_condition(number, wanted, values) for number, wanted in enumerate(filters))
    statement = _PAGE_START + conditions + _PAGE_END
    return [_image(row) for row in await (await conn.execute(statement, values)).fetchall()]


async def identity(conn: Connection) -> RegistryIdentity:
    """What all replicas on this database share."""
    row = await _registry(conn)
    return RegistryIdentity(row["id"], bytes(row["token_secret"]))


async def newest_platform_tag(conn: Connection) -> str:
    """The tag of the newest deployment that ran EnsureImageExistence; '' if none did."""
    return str((await _registry(conn))["platform_tag"])


async def set_platform_tag(conn: Connection, tag: str) -> None:
    """Record the newest deployment's tag. Serialises its callers until the transaction ends."""
    await conn.execute("select from registry for update")
    await conn.execute(_SQL["set_platform_tag"], {"platform_tag": tag})


_PAGE_START: LiteralString = """
select i.id, i.name, i.role, i.status, i.python_version, i.platform_tag, i.base_image_id, i.definition
from images i where i.name > %(after)s"""
_PAGE_END: LiteralString = """
order by i.name limit %(limit)s"""


def _condition(number: int, wanted: LibraryFilter, values: dict[str, Any]) -> LiteralString:
    """One filter as SQL; its values go into `values` under numbered names, never into the text."""
    place: LiteralString = _DIGITS[number]
    values["library" + place] = library_key(wanted.name)
    version: LiteralString = ""
    if wanted.version is not None:
        public, local = version_key(wanted.version)
        values["version" + place] = public
        version = " and l.version = %(version" + place + ")s"
        if local:  # PEP 440: a wanted public version matches whatever local part an installed one has
            values["local" + place] = local
            version += " and l.local = %(local" + place + ")s"
    return (
        """
    and exists (select from image_libraries l
        where l.image_name = i.name and l.library = %(library"""
        + place
        + ")s"
        + version
        + ")"
    )


_DIGITS: tuple[LiteralString, ...] = (
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19",
)  # fmt: skip


async def _registry(conn: Connection) -> DictRow:
    row = await (await conn.execute(_SQL["registry"])).fetchone()
    if row is None:
        raise RuntimeError("the migration wrote the registry's only row")
    return row


def _image_or_none(row: DictRow | None) -> StoredImage | None:
    return None if row is None else _image(row)


def _image(row: DictRow) -> StoredImage:
    return StoredImage(
        id=row["id"],
        name=row["name"],
        role=RoleType(row["role"]),
        status=ImageStatus(row["status"]),
        python_version=row["python_version"],
        platform_tag=row["platform_tag"],
        base_image_id=row["base_image_id"],
        definition=bytes(row["definition"]),
        child_names=tuple(row.get("child_names", ())),
    )
