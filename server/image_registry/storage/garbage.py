"""What the database knows of things that may belong to no image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from image_registry.storage.database import Connection
from image_registry.storage.queries import load

_SQL = load("garbage.sql")


@dataclass(frozen=True, slots=True)
class OrphanLog:
    """The log of a build of an image that is gone; its size in bytes."""

    job_id: int
    uuid: UUID
    image_name: str
    size: int


async def lives(conn: Connection, ids: Sequence[int]) -> set[int]:
    """Those of the ids that are images."""
    return {row["id"] for row in await (await conn.execute(_SQL["lives"], {"ids": list(ids)})).fetchall()}


async def names(conn: Connection, wanted: Sequence[str]) -> set[str]:
    """Those of the names that images have."""
    return {row["name"] for row in await (await conn.execute(_SQL["names"], {"names": list(wanted)})).fetchall()}


async def awaited(conn: Connection, repositories: Sequence[str]) -> set[str]:
    """Those of the repositories that an unfinished job is about."""
    rows = await (await conn.execute(_SQL["awaited"], {"repositories": list(repositories)})).fetchall()
    return {row["repository"] for row in rows}


async def wheels(conn: Connection) -> list[tuple[str, str]]:
    """SHA-256 and Python version of each wheel that an image holds."""
    rows = await (await conn.execute(_SQL["wheels"])).fetchall()
    return [(row["sha256"], row["python_version"]) for row in rows]


async def orphan_logs(conn: Connection, age: float) -> list[OrphanLog]:
    """The logs of images that are gone, of builds that ended `age` seconds ago or earlier."""
    rows = await (await conn.execute(_SQL["logs"], {"age": age})).fetchall()
    return [OrphanLog(row["id"], row["uuid"], row["image_name"], row["log_bytes"]) for row in rows]


async def remove_log(conn: Connection, job_id: int) -> None:
    """Remove the log of a finished job."""
    await conn.execute(_SQL["remove_log"], {"id": job_id})
