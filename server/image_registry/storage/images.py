"""Rows of images: one life of a name each, and the row that all replicas share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from psycopg import errors as pg
from psycopg.rows import tuple_row

from image_registry import limits
from image_registry.models import BuildLock, ImageDefinition, Priority, RegistryIdentity, StoredImage, StoredJob
from image_registry.storage.arrays import BooleanArray, ByteaArray, TextArray
from image_registry.storage.create_requests import KnownRequestError, RequestKey, is_known_request
from image_registry.storage.database import Connection
from image_registry.storage.findable import keys_of
from image_registry.storage.queries import load
from image_registry.storage.rows import present, to_image, to_job
from image_registry.telemetry import tracing

CHANGED_AT_ONCE = 1_000  # images that one statement marks OUTDATED, or gives keys
NewJob: TypeAlias = tuple[UUID, datetime]  # the public identity of a build, and when it was recorded
_SQL = load("images.sql")


class NewImageRow(NamedTuple):
    """A user's image and its first build, as they are to be written on the base of that name. With `request` the answer
    is remembered in the same statement."""

    name: str
    python_version: str
    platform_tag: str
    definition: bytes
    base: str
    repository: str
    creator: str
    needs_packages: bool = False
    traceparent: str = ""
    request: RequestKey | None = None


async def get(conn: Connection, name: str) -> StoredImage | None:
    """The image of that name."""
    return await _one(conn, "get", {"name": name})


async def get_with_children(conn: Connection, name: str) -> StoredImage | None:
    """The image of that name with the names of those that are built on it."""
    return await _one(conn, "get_with_children", {"name": name, "children": limits.CHILDREN_SHOWN})


async def lock(conn: Connection, name: str) -> StoredImage | None:
    """The image of that name, held until the transaction ends."""
    return await _one(conn, "lock", {"name": name})


async def lock_by_id(conn: Connection, image_id: int) -> StoredImage | None:
    """One life of an image, held until the transaction ends; None if it was deleted."""
    return await _one(conn, "lock_by_id", {"id": image_id})


async def lock_to_delete(conn: Connection, name: str) -> StoredImage | None:
    """The image of that name, held until the transaction ends, so that no child can be added either."""
    return await _one(conn, "lock_to_delete", {"name": name})


async def child_names(conn: Connection, image_id: int) -> list[str]:
    """The names of the first images that are built on this one."""
    cursor = await conn.execute(_SQL["children"], {"id": image_id, "limit": limits.CHILDREN_NAMED})
    return [row["name"] for row in await cursor.fetchall()]


async def build_lock(conn: Connection, name: str) -> BuildLock | None:
    """What the last good build of that image was made of; None: there is no such image."""
    row = await (await conn.execute(_SQL["build_lock"], {"name": name})).fetchone()
    return None if row is None else BuildLock(row["digest"], row["lock"], row["base_digest"])


async def create(
    conn: Connection,
    image: StoredImage,
    *,
    repository: str,
    priority: Priority,
    creator: str = "",
    needs_packages: bool = False,
) -> StoredJob | None:
    """Write a new image (its `id` is chosen here) and its first build job; None: the name is taken."""
    values = _new(image, repository, priority, creator, needs_packages) | {
        "role": image.role,
        "base_image_id": image.base_image_id,
        "traceparent": tracing.traceparent(),
    }
    row = await (await conn.execute(_SQL["create"], values)).fetchone()
    return None if row is None else to_job(row)


async def create_on_current_base(
    conn: Connection, new: NewImageRow, *, priority: Priority
) -> tuple[int | None, StoredJob | None]:
    """Write a new user's image whose base is there, at the same tag and not FAILED, and its first build job.

    One statement, and so a transaction by itself. Returns the base's id and the job; no id: there is no such base;
    an id without a job: the name is taken. Raises KnownRequestError for a known `request`.
    """
    values = new._asdict() | {"priority": priority}
    del values["request"]
    statement = _SQL["create_on_current_base"]
    if new.request is not None:
        statement = _SQL["create_once_on_current_base"]
        values |= {"request_id": new.request.request_id, "fingerprint": new.request.fingerprint}
    try:
        row = await (await conn.execute(statement, values)).fetchone()
    except pg.UniqueViolation as error:
        if is_known_request(error):
            raise KnownRequestError from error
        raise
    if row is None or row["base_id"] is None:
        return None, None
    return row["base_id"], None if row["id"] is None else to_job(row)


async def create_several(
    conn: Connection, rows: Sequence[NewImageRow], *, priority: Priority
) -> dict[str, tuple[bool, NewJob | None]]:
    """Write new users' images as `create_on_current_base` does, all in one statement. Each name once, and each id of a
    caller's requests, all at one tag of the platform.

    Returns, by name, whether there is such a base, and the job if the name was free. A known request is a
    psycopg.errors.UniqueViolation, whosever it is: nothing is written.
    """
    by_name = sorted(rows, key=lambda row: row.name)
    values = {
        "names": TextArray.of([new.name for new in by_name]),
        "python_versions": TextArray.of([new.python_version for new in by_name]),
        "definitions": ByteaArray.of([new.definition for new in by_name]),
        "bases": TextArray.of([new.base for new in by_name]),
        "repositories": TextArray.of([new.repository for new in by_name]),
        "creators": TextArray.of([new.creator for new in by_name]),
        "needs_packages": BooleanArray.of([new.needs_packages for new in by_name]),
        "traceparents": TextArray.of([new.traceparent for new in by_name]),
        "request_ids": TextArray.of(["" if new.request is None else new.request.request_id for new in by_name]),
        "fingerprints": ByteaArray.of([b"" if new.request is None else new.request.fingerprint for new in by_name]),
        "platform_tag": by_name[0].platform_tag,
        "priority": priority,
    }
    cursor = await conn.cursor(row_factory=tuple_row).execute(_SQL["create_several"], values)
    return {
        name: (has_base, None if uuid is None else (uuid, created_at))
        for name, has_base, uuid, created_at in await cursor.fetchall()
    }


def _new(image: StoredImage, repository: str, priority: Priority, creator: str, needs_packages: bool) -> dict[str, Any]:
    return {
        "name": image.name,
        "python_version": image.python_version,
        "platform_tag": image.platform_tag,
        "definition": image.definition,
        "repository": repository,
        "priority": priority,
        "creator": creator,
        "needs_packages": needs_packages,
    }


async def start_rebuild(conn: Connection, image_id: int) -> None:
    """READY, OUTDATED or FAILED → REBUILDING, remembering where it came from."""
    await conn.execute(_SQL["start_rebuild"], {"id": image_id})


async def set_next_definition(conn: Connection, image_id: int, definition: bytes | None) -> None:
    """What a system image that is being built is to become as soon as that build is over; None: just that build."""
    await conn.execute(_SQL["set_next_definition"], {"id": image_id, "definition": definition})


async def next_definition(conn: Connection, image_id: int) -> bytes | None:
    """What `set_next_definition` said last and no rebuild has taken up; None: nothing."""
    row = await (await conn.execute(_SQL["next_definition"], {"id": image_id})).fetchone()
    return None if row is None or row["next_definition"] is None else bytes(row["next_definition"])


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
    digest: str,
    base_digest: str,
    lock_file: str,
    old: ImageDefinition,
    new: ImageDefinition,
) -> None:
    """A finished build of `new`, which is encoded as `definition`: READY and findable, in one statement."""
    keys = keys_of(new)
    values = {
        "id": image_id,
        "definition": definition,
        "platform_tag": new.platform_tag,
        "library_count": len(new.pip_libraries),
        "digest": digest,
        "base_digest": base_digest,
        "lock": lock_file,
        "old_libraries": list(keys_of(old)),
        "libraries": list(keys),
        "versions": [public for public, _ in keys.values()],
        "locals": [local for _, local in keys.values()],
    }
    await conn.execute(_SQL["end_ready"], values)


async def outdate_one(conn: Connection, image_id: int) -> None:
    """READY → OUTDATED if the image is behind the newest deployment or its base.

    The caller holds the platform's tag (`hold_platform_tag`), so that none is set meanwhile and missed.
    """
    await conn.execute(_SQL["outdate_one"], {"id": image_id})


async def outdate_by_tag(conn: Connection) -> bool:
    """Some READY images of other tags than the newest deployment's → OUTDATED; whether there may be more."""
    return await _outdate(conn, "outdate_by_tag")


async def outdate_children(conn: Connection) -> bool:
    """Some READY images of other tags than their READY bases' → OUTDATED; whether there may be more."""
    return await _outdate(conn, "outdate_children")


async def delete(conn: Connection, image: StoredImage, definition: ImageDefinition) -> None:
    """Remove a locked image, and what it can be found by according to its decoded `definition`."""
    values = {"id": image.id, "name": image.name, "libraries": list(keys_of(definition))}
    await conn.execute(_SQL["delete"], values)


async def set_definition_keys(conn: Connection) -> bool:
    """Give keys to some definitions that were written before there were any; whether there may be more."""
    cursor = await conn.execute(_SQL["set_definition_keys"], {"limit": CHANGED_AT_ONCE})
    return cursor.rowcount == CHANGED_AT_ONCE


async def built_on(conn: Connection) -> list[tuple[str, bytes, str]]:
    """Of each system image that was built: its name, encoded definition, and the digest of the base it stands on."""
    rows = await (await conn.execute(_SQL["built_on"])).fetchall()
    return [(row["name"], bytes(row["definition"]), row["base_digest"]) for row in rows]


async def identity(conn: Connection) -> RegistryIdentity:
    """What all replicas on this database share."""
    row = present(await (await conn.execute(_SQL["registry"])).fetchone())
    return RegistryIdentity(row["id"], bytes(row["token_secret"]))


async def hold_platform_tag(conn: Connection) -> str:
    """The tag of the newest deployment that ran EnsureImageExistence ('': none did), fixed until the transaction ends.

    To be taken before any lock of an image: one who waits to change it makes those who come to hold it queue.
    """
    row = present(await (await conn.execute(_SQL["hold_platform_tag"])).fetchone())
    return str(row["platform_tag"])


async def set_platform_tag(conn: Connection, tag: str) -> None:
    """Record the newest deployment's tag. To be done in a transaction of its own."""
    await conn.execute(_SQL["set_platform_tag"], {"platform_tag": tag})


async def _one(conn: Connection, statement: str, values: dict[str, Any]) -> StoredImage | None:
    row = await (await conn.execute(_SQL[statement], values)).fetchone()
    return None if row is None else to_image(row)


async def _outdate(conn: Connection, statement: str) -> bool:
    rows = await (await conn.execute(_SQL[statement], {"limit": CHANGED_AT_ONCE})).fetchall()
    return len(rows) == CHANGED_AT_ONCE
