"""Rows of jobs: API resource, queue and lease in one. Every write of a worker is fenced by its attempt number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString
from uuid import UUID

from psycopg import errors as pg
from psycopg.rows import DictRow

from image_registry.models import JobKind, JobStatus, Priority, StoredJob, TerminationReason
from image_registry.storage.database import Connection
from image_registry.storage.queries import load

CHANNEL = "image_registry_jobs"
_SQL = load("jobs.sql")


async def get(conn: Connection, uuid: UUID) -> StoredJob | None:
    """The build job with that public id."""
    return _job_or_none(await (await conn.execute(_SQL["get"], {"uuid": uuid})).fetchone())


async def lock(conn: Connection, job_id: int) -> StoredJob:
    """The job, held until the transaction ends. Jobs are never deleted."""
    return to_job(_present(await (await conn.execute(_SQL["lock_by_id"], {"id": job_id})).fetchone()))


async def lock_unfinished_build(conn: Connection, image_id: int) -> StoredJob | None:
    """The build of this life of an image that isn't over, held until the transaction ends."""
    return _job_or_none(await (await conn.execute(_SQL["unfinished_build"], {"image_id": image_id})).fetchone())


async def lock_attempt(conn: Connection, job_id: int, attempt: int) -> StoredJob | None:
    """The job, held until the transaction ends, if this attempt still owns it."""
    values = {"id": job_id, "attempt": attempt}
    return _job_or_none(await (await conn.execute(_SQL["lock_attempt"], values)).fetchone())


async def insert(
    conn: Connection,
    *,
    kind: JobKind,
    priority: Priority,
    image_id: int,
    image_name: str,
    repository: str,
    definition: bytes | None = None,
) -> StoredJob:
    """Queue a job; a build with the `definition` that it is to make."""
    values = {
        "kind": kind,
        "priority": priority,
        "image_id": image_id,
        "image_name": image_name,
        "repository": repository,
        "definition": definition,
    }
    cursor = await conn.execute(_SQL["insert"], values)
    return to_job(_present(await cursor.fetchone()))


async def claim(conn: Connection, *, agent_id: UUID, lease: float) -> StoredJob | None:
    """Take the next job that may run, for `lease` seconds; None: there is none at the moment."""
    try:
        async with conn.transaction():
            cursor = await conn.execute(_SQL["claim"], {"agent_id": agent_id, "lease": lease})
            return _job_or_none(await cursor.fetchone())
    except pg.UniqueViolation:  # another worker took a job of the same repository in the same moment
        return None


async def next_due(conn: Connection) -> float | None:
    """Seconds until a job that was put off may run again; None: no job was put off."""
    row = _present(await (await conn.execute(_SQL["next_due"])).fetchone())
    return None if row["seconds"] is None else float(row["seconds"])


async def start(conn: Connection, job: StoredJob) -> bool:
    """PENDING → RUNNING; False: this attempt no longer owns the job."""
    cursor = await conn.execute(_SQL["start"], {"id": job.id, "attempt": job.attempt})
    return await cursor.fetchone() is not None


async def renew(conn: Connection, job: StoredJob, lease: float) -> bool | None:
    """Extend the lease; says whether the job is to be cancelled, None: this attempt no longer owns it."""
    cursor = await conn.execute(_SQL["renew"], {"id": job.id, "attempt": job.attempt, "lease": lease})
    row = await cursor.fetchone()
    return None if row is None else bool(row["cancel_requested"])


async def set_progress(conn: Connection, job: StoredJob, progress: str) -> None:
    """Replace the line that people read, while this attempt owns the job."""
    await conn.execute(_SQL["set_progress"], {"id": job.id, "attempt": job.attempt, "progress": progress})


async def finish(
    conn: Connection, job: StoredJob, status: JobStatus, reason: TerminationReason, progress: str = ""
) -> None:
    """End a locked job; an empty `progress` keeps the last line."""
    values = {"id": job.id, "status": status, "reason": reason, "progress": progress}
    await conn.execute(_SQL["finish"], values)


async def put_back(conn: Connection, job: StoredJob, *, delay: float, fault: bool, progress: str) -> None:
    """A locked job back to REQUESTED for another attempt in `delay` seconds."""
    values = {"id": job.id, "delay": delay, "fault": int(fault), "progress": progress}
    await conn.execute(_SQL["put_back"], values)


async def request_cancel(conn: Connection, job: StoredJob) -> None:
    """Ask the worker of a locked job to stop it."""
    await conn.execute(_SQL["request_cancel"], {"id": job.id})


async def expire_leases(conn: Connection) -> int:
    """PENDING and RUNNING jobs of silent workers → RECONCILING; returns how many."""
    return len(await (await conn.execute(_SQL["expire_leases"])).fetchall())


async def hopeless(conn: Connection, max_faults: int) -> list[StoredJob]:
    """RECONCILING jobs that must end: cancelled meanwhile, or lost `max_faults` times."""
    cursor = await conn.execute(_SQL["hopeless"], {"max_faults": max_faults})
    return [to_job(row) for row in await cursor.fetchall()]


async def page(
    conn: Connection, *, before: int | None, limit: int, statuses: Sequence[JobStatus], image_name: str | None
) -> list[StoredJob]:
    """Up to `limit` build jobs, newest first, older than the job `before`."""
    conditions: LiteralString = ""
    if before is not None:
        conditions += " and id < %(before)s"
    if statuses:
        conditions += " and status = any (%(statuses)s)"
    if image_name is not None:
        conditions += " and image_name = %(image_name)s"
    values: dict[str, Any] = {
        "before": before,
        "limit": limit,
        "statuses": [int(status) for status in statuses],
        "image_name": image_name,
    }
    statement = _PAGE_START + conditions + _PAGE_END
    return [to_job(row) for row in await (await conn.execute(statement, values)).fetchall()]


_PAGE_START: LiteralString = """
select *, extract(epoch from coalesce(finished_at, now()) - started_at)::float8 as running_seconds
from jobs where kind = 1"""
_PAGE_END: LiteralString = " order by id desc limit %(limit)s"


def _present(row: DictRow | None) -> DictRow:
    if row is None:
        raise RuntimeError("the statement returns a row always")
    return row


def _job_or_none(row: DictRow | None) -> StoredJob | None:
    return None if row is None else to_job(row)


def to_job(row: DictRow) -> StoredJob:
    """A row of `jobs` with its `running_seconds`."""
    return StoredJob(
        id=row["id"],
        uuid=row["uuid"],
        kind=JobKind(row["kind"]),
        image_id=row["image_id"],
        image_name=row["image_name"],
        repository=row["repository"],
        definition=bytes(row["definition"] or b""),
        status=JobStatus(row["status"]),
        termination_reason=TerminationReason(row["termination_reason"]),
        attempt=row["attempt"],
        faults=row["faults"],
        cancel_requested=row["cancel_requested"],
        progress=row["progress"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        agent_id=row["agent_id"],
        running_seconds=row["running_seconds"] or 0.0,
        has_log=row["log_parts"] > 0,
    )
