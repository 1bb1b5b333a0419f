"""Rows of the audit log. They are only ever added: the table refuses anything else."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from image_registry.storage.arrays import TextArray, TimestampArray
from image_registry.storage.database import Connection
from image_registry.storage.queries import load

_SQL = load("audit.sql")


class AuditEntry(NamedTuple):
    """Who did what to which target, when, and what came of it (`OK` or an error's reason). Never holds a secret.

    `who` is a key's prefix, a certificate's name, an operator of the command line, or '' where callers aren't checked.
    """

    at: datetime
    who: str
    role: str
    what: str
    target: str
    result: str
    request_id: str


async def insert(conn: Connection, entries: Sequence[AuditEntry]) -> None:
    """Add entries."""
    moments, *texts = zip(*entries, strict=True)
    values: dict[str, object] = dict(zip(AuditEntry._fields[1:], map(TextArray.of, texts), strict=True))
    await conn.execute(_SQL["insert"], values | {"at": TimestampArray.of(moments)})
