"""Rows of API keys: their hashes, never the keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from psycopg.rows import DictRow

from image_registry.models import Role
from image_registry.storage.database import Connection
from image_registry.storage.queries import load

_SQL = load("keys.sql")


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as it is kept. `prefix` is public and names it, `hash` is SHA-256 of the whole key.

    Keys are equal if they are one by the same change.
    """

    prefix: str
    hash: bytes
    role: Role
    name: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = field(compare=False)
    change: int


async def insert(
    conn: Connection, *, prefix: str, digest: bytes, role: Role, name: str, expires_at: datetime | None
) -> StoredKey | None:
    """Write a new key; None: another key has the prefix."""
    values = {"prefix": prefix, "hash": digest, "role": role.value, "name": name, "expires_at": expires_at}
    return _key_or_none(await (await conn.execute(_SQL["insert"], values)).fetchone())


async def everything(conn: Connection) -> Sequence[StoredKey]:
    """Every key, oldest first."""
    return [_key(row) for row in await (await conn.execute(_SQL["list"])).fetchall()]


async def revoke(conn: Connection, prefix: str) -> StoredKey | None:
    """End a key from now on; None: there is no such key. A revoked key stays as it is."""
    await conn.execute(_SQL["revoke"], {"prefix": prefix})
    return _key_or_none(await (await conn.execute(_SQL["get"], {"prefix": prefix})).fetchone())


async def changed_from(conn: Connection, change: int) -> Sequence[StoredKey]:
    """The keys whose last change is that of this number or a later one, in the order of changes."""
    return [_key(row) for row in await (await conn.execute(_SQL["changed"], {"change": change})).fetchall()]


async def note_use(conn: Connection, prefix: str) -> None:
    """The key was used now; a note of the last minute is left as it is."""
    await conn.execute(_SQL["note_use"], {"prefix": prefix})


def _key_or_none(row: DictRow | None) -> StoredKey | None:
    return None if row is None else _key(row)


def _key(row: DictRow) -> StoredKey:
    return StoredKey(
        prefix=row["prefix"],
        hash=bytes(row["hash"]),
        role=Role(row["role"]),
        name=row["name"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        last_used_at=row["last_used_at"],
        change=row["change"],
    )
