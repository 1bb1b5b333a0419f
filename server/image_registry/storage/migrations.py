"""Brings a database to the schema of this version: ordered SQL files, forward only, under an advisory lock."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import LiteralString

import psycopg
from psycopg import errors, sql

_LOCK = 0x696D_6167_6572_6567  # "imagereg": one migration at a time in a database
_FILE = re.compile(r"(\d{4})_(\w+)\.sql")
_COMPATIBLE = re.compile(r"^-- compatible from: (\d+)$", re.MULTILINE)
_BOOKS = """create table if not exists schema_migrations (
    version integer primary key, name text not null, applied_at timestamptz not null default now())"""

# Each step, and the oldest schema whose releases work after it; by way of JSON, as older schemas lack the column.
_APPLIED = """select version, coalesce((to_jsonb(s) ->> 'compatible_from')::integer, version)
    from schema_migrations s order by version"""


class MigrationError(Exception):
    """The schema can't be used by this version; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema."""

    version: int
    name: str
    sql: LiteralString

    @property
    def compatible_from(self) -> int | None:
        """The oldest schema whose releases work after this step, too; None: those that know the step alone."""
        line = _COMPATIBLE.search(self.sql)
        return int(line[1]) if line else None


def known() -> list[Migration]:
    """The steps that ship with this version, in order."""
    folder = files("image_registry.storage") / "migrations"
    matches = (_FILE.fullmatch(entry.name) for entry in folder.iterdir())
    found = [Migration(int(m[1]), m[2], (folder / m[0]).read_text(encoding="utf-8")) for m in matches if m]
    return sorted(found, key=lambda step: step.version)


async def migrate(dsn: str, on_step: Callable[[str], None], *, up_to: int | None = None) -> int:
    """Apply what is missing, each step in a transaction of its own; returns how many were applied.

    `up_to` stops at an earlier version (for tests of upgrades). Several callers at once wait for each other.
    Raises MigrationError for a schema too new for this version, psycopg.OperationalError without a database.
    """
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, connect_timeout=5) as conn:
        await conn.execute("select pg_advisory_lock(%s)", [_LOCK])
        await conn.execute(_BOOKS)
        missing = [step for step in await _missing(conn) if up_to is None or step.version <= up_to]
        for step in missing:
            on_step(f"migration {step.version:04} {step.name}")
            async with conn.transaction():
                await conn.execute(step.sql)
                await conn.execute(
                    "insert into schema_migrations (version, name) values (%s, %s)", [step.version, step.name]
                )
                if step.compatible_from is not None:
                    await conn.execute(
                        "update schema_migrations set compatible_from = %s where version = %s",
                        [step.compatible_from, step.version],
                    )
        return len(missing)


async def grant(dsn: str, role: str) -> None:
    """Give an existing role what serving and building need, and no more. Idempotent.

    Raises MigrationError if there is no such role or the caller may not grant, psycopg.OperationalError without a
    database.
    """
    text = (files("image_registry.storage") / "grants.sql").read_text(encoding="utf-8")
    statements = sql.SQL(text).format(role=sql.Identifier(role))
    async with await psycopg.AsyncConnection.connect(dsn, connect_timeout=5) as conn:
        try:
            await conn.execute(statements)
        except (errors.UndefinedObject, errors.InsufficientPrivilege) as error:
            raise MigrationError(f"the rights of {role!r} can't be granted: {error.diag.message_primary}") from None


async def check(dsn: str) -> list[str]:
    """The steps that the database lacks, changing nothing. Raises as `migrate` does."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, connect_timeout=5) as conn:
        return [f"{step.version:04} {step.name}" for step in await _missing(conn)]


async def _missing(conn: psycopg.AsyncConnection) -> list[Migration]:
    steps = known()
    exists = await (await conn.execute("select to_regclass('schema_migrations')")).fetchone()
    if exists is None or exists[0] is None:
        return steps
    rows = await (await conn.execute(_APPLIED)).fetchall()
    newest = steps[-1].version
    too_new = [version for version, needed in rows if version > newest and needed > newest]
    if too_new:
        raise MigrationError(
            f"the database has schema version {max(too_new)}, this version of image-registry knows up to {newest}: "
            "run the newer version, or restore a backup from before the upgrade"
        )
    applied = {version for version, _ in rows}
    return [step for step in steps if step.version not in applied]
