"""Logs of builds: parts in the order in which the job's worker sent them."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from image_registry.models import StoredJob
from image_registry.storage.database import Connection
from image_registry.storage.jobs import owner
from image_registry.storage.queries import load

LOG_LIMIT = 1 << 20  # bytes of one job's log; the rest is counted, not kept
_SQL = load("job_logs.sql", "owned.sql")


@dataclass(frozen=True, slots=True)
class LogState:
    """A job's log: how many parts it has, how many bytes were left out, and whether more may come."""

    job_id: int
    finished: bool
    parts: int
    lost: int


async def append(conn: Connection, job: StoredJob, text: str) -> None:
    """Add a part while this attempt owns the job; from LOG_LIMIT on only count."""
    values = {"text": text, "size": len(text.encode()), "limit": LOG_LIMIT}
    await conn.execute(_SQL["append"], owner(job) | values)


async def state(conn: Connection, uuid: UUID) -> LogState | None:
    """The state of a build job's log; None: there is no such job."""
    row = await (await conn.execute(_SQL["state"], {"uuid": uuid})).fetchone()
    return None if row is None else LogState(row["id"], row["finished"], row["log_parts"], row["log_lost"])


async def parts_after(conn: Connection, job_id: int, part: int) -> tuple[int, str]:
    """The text of the next parts behind `part`, and the number of the last of them."""
    rows = await (await conn.execute(_SQL["parts"], {"id": job_id, "after": part})).fetchall()
    return (rows[-1]["part"] if rows else part), "".join(row["text"] for row in rows)


async def expire(conn: Connection, retention: float) -> int:
    """Remove logs of jobs that ended `retention` seconds ago or earlier, some at a time; returns how many."""
    return len(await (await conn.execute(_SQL["expire"], {"retention": retention})).fetchall())
