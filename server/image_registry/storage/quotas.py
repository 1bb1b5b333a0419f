"""How much a caller has."""

from __future__ import annotations

from image_registry.storage.database import Connection
from image_registry.storage.queries import load
from image_registry.storage.rows import present

_SQL = load("quotas.sql")


async def usage(conn: Connection, creator: str, *, images: int, builds: int) -> tuple[int, int]:
    """The images and the unfinished builds of a caller, counted no further than `images` and `builds`."""
    values = {"creator": creator, "images": images, "builds": builds}
    row = present(await (await conn.execute(_SQL["usage"], values)).fetchone())
    return row["images"], row["builds"]
