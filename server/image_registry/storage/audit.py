"""Rows of the audit log. They are only ever added: the table refuses anything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime

from image_registry.storage.arrays import TextArray
from image_registry.storage.database import Connection
from image_registry.storage.queries import load

_SQL = load("audit.sql")


@dataclass(frozen=True, slots=True)
class AuditEntry:
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


_COLUMNS = tuple(field.name for field in fields(AuditEntry))


async def insert(conn: Connection, entries: Sequence[AuditEntry]) -> None:
    """Add entries."""
    values: dict[str, object] = {
        name: TextArray.of([getattr(entry, name) for entry in entries]) for name in _COLUMNS if name != "at"
    }
    await conn.execute(_SQL["insert"], values | {"at": [entry.at for entry in entries]})
