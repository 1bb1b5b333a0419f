"""Rows of jobs: API resource, queue and lease in one. Every write of a worker is fenced by its attempt."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from psycopg import errors as pg
from psycopg.rows import DictRow

from image_registry.models import JobKind, JobStatus, Priority, StoredImage, StoredJob, TerminationReason
from image_registry.storage.database import Connection
from image_registry.storage.queries import load
from image_registry.storage.rows import present, to_image, to_job
from image_registry.telemetry import tracing

CHANNEL = "image_registry_jobs"  # workers listen to it
_SQL = load("jobs.sql", "owned.sql")


async def get(conn: Connection, uuid: UUID) -> StoredJob | None:
    """The build job with that public id."""
    return _job_or_none(await (await conn.execute(_SQL["get"], {"uuid": uuid})).fetchone())


async def lock(conn: Connection, job_id: int) -> StoredJob:
    """The job, held until the transaction ends. Jobs are never deleted."""
    return to_job(present(await (await conn.execute(_SQL["lock_by_id"], {"id": job_id})).fetchone()))


async def lock_unfinished_build(conn: Connection, image_id: int) -> StoredJob | None:
    """The build of this life of an image that isn't over, held until the transaction ends."""
    return _job_or_none(await (await conn.execute(_SQL["unfinished_build"], {"image_id": image_id})).fetchone())


def owner(job: StoredJob) -> dict[str, object]:
    """Values for the part `owned` of a statement: the attempt that claimed `job`."""
    return {"id": job.id, "attempt": job.attempt, "agent_id": job.agent_id}


async def lock_attempt(conn: Connection, job: StoredJob) -> StoredJob | None:
    """The job, held until the transaction ends, if the attempt that claimed it still owns it."""
    return _job_or_none(await (await conn.execute(_SQL["lock_attempt"], owner(job))).fetchone())


async def insert(
    conn: Connection,
    *,
    kind: JobKind,
    priority: Priority,
    image_id: int,
    image_name: str,
    repository: str,
    definition: bytes | None = None,
    creator: str = "",
    needs_packages: bool = False,
) -> StoredJob:
    """Queue a job for `creator`; a build with the `definition` that it is to make."""
    values = {
        "kind": kind,
        "priority": priority,
        "image_id": image_id,
        "image_name": image_name,
        "repository": repository,
        "definition": definition,
        "creator": creator,
        "traceparent": tracing.traceparent(),
        "needs_packages": needs_packages,
    }
    cursor = await conn.execute(_SQL["insert"], values)
    return to_job(present(await cursor.fetchone()))


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job that was just taken, the base that it is built on (none: not a user's image), and of the image's last good
    build the lock and the base's digest.
    """

    job: StoredJob
    base: StoredImage | None
    lock_file: str
    base_digest: str


async def claim(
    conn: Connection, *, agent_id: UUID, lease: float, max_attempts: int, packages: bool, held: Collection[int] = ()
) -> Claimed | None:
    """Take the next job that may run, for `lease` seconds; None: there is none at the moment. Not for a transaction.

    `packages`: also builds that install system packages. `held`: jobs that this worker works on.
    """
    values = {
        "agent_id": agent_id,
        "lease": lease,
        "max_attempts": max_attempts,
        "packages": packages,
        "held": list(held),
    }
    while True:
        try:
            row = await (await conn.execute(_SQL["claim"], values)).fetchone()
        except pg.UniqueViolation:  # another worker took a job of the same repository in the same moment
            continue
        if row is None:
            return None
        base = None if row["base_id"] is None else to_image(row, "base_")
        return Claimed(to_job(row), base, row["lock"] or "", row["base_digest"] or "")


async def set_definition(conn: Connection, job: StoredJob, definition: bytes) -> None:
    """Change what a build is to make, while this attempt owns it."""
    await conn.execute(_SQL["set_definition"], owner(job) | {"definition": definition})


async def next_due(conn: Connection, packages: bool) -> float | None:
    """Seconds until a job that was put off, and that such a worker can do, may run again; None: none was put off."""
    row = present(await (await conn.execute(_SQL["next_due"], {"packages": packages})).fetchone())
    return None if row["seconds"] is None else float(row["seconds"])


@dataclass(frozen=True, slots=True)
class QueueState:
    """How many jobs wait and for how long the oldest of those that may run does (seconds), and how many are at work.

    `waiting_for_packages` are those of the waiting that only workers with an engine for system packages take.
    """

    waiting: dict[Priority, int]
    waiting_for_packages: int
    oldest: dict[Priority, float]
    running: int


async def queue_state(conn: Connection, max_attempts: int) -> QueueState:
    """The queue at this moment; every priority is named."""
    depth = await (await conn.execute(_SQL["depth"])).fetchall()
    values = {"priorities": [int(priority) for priority in Priority], "max_attempts": max_attempts}
    oldest = await (await conn.execute(_SQL["oldest_claimable"], values)).fetchall()
    return QueueState(
        waiting=dict.fromkeys(Priority, 0)
        | {Priority(row["priority"]): row["jobs"] for row in depth if row["what"] == "waiting"},
        waiting_for_packages=sum(row["jobs"] for row in depth if row["what"] == "waiting for packages"),
        oldest=dict.fromkeys(Priority, 0.0) | {Priority(row["priority"]): row["seconds"] for row in oldest},
        running=sum(row["jobs"] for row in depth if row["what"] == "running"),
    )


async def start(conn: Connection, job: StoredJob) -> bool | None:
    """PENDING → RUNNING; says whether the job is to be cancelled, None: this attempt no longer owns it."""
    row = await (await conn.execute(_SQL["start"], owner(job))).fetchone()
    return None if row is None else bool(row["cancel_requested"])


async def renew(conn: Connection, job: StoredJob, lease: float) -> bool | None:
    """Extend the lease; says whether the job is to be cancelled, None: this attempt no longer owns it."""
    cursor = await conn.execute(_SQL["renew"], owner(job) | {"lease": lease})
    row = await cursor.fetchone()
    return None if row is None else bool(row["cancel_requested"])


async def set_progress(conn: Connection, job: StoredJob, progress: str) -> None:
    """Replace the line that people read, while this attempt owns the job."""
    await conn.execute(_SQL["set_progress"], owner(job) | {"progress": progress})


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


async def hopeless(conn: Connection, max_attempts: int) -> list[StoredJob]:
    """RECONCILING jobs that must end: cancelled meanwhile, or begun `max_attempts` times."""
    cursor = await conn.execute(_SQL["hopeless"], {"max_attempts": max_attempts})
    return [to_job(row) for row in await cursor.fetchall()]


async def worker_seen(conn: Connection, agent_id: UUID, *, packages: bool) -> None:
    """Note that a worker is there, and whether it can install system packages."""
    await conn.execute(_SQL["worker_seen"], {"agent_id": agent_id, "packages": packages})
    await conn.execute(_SQL["forget_workers"])


async def show_waiting(conn: Connection, *, silence: float, progress: str) -> None:
    """Show `progress` of builds that need a worker with packages, if none was seen for `silence` seconds."""
    await conn.execute(_SQL["show_waiting"], {"silence": silence, "progress": progress})


async def without_engine(conn: Connection, patience: float) -> list[StoredJob]:
    """Builds that have waited for a worker with packages for `patience` seconds, in which none was seen."""
    cursor = await conn.execute(_SQL["without_engine"], {"patience": patience})
    return [to_job(row) for row in await cursor.fetchall()]


async def page(
    conn: Connection, *, before: int | None, size: int, statuses: Sequence[JobStatus], image_name: str | None
) -> tuple[list[StoredJob], bool]:
    """Up to `size` build jobs, newest first, older than the job `before`, and whether there are more."""
    statement = "page_of_image" if image_name is not None else "page_by_status" if statuses else "page"
    values = {
        "before": before,
        "limit": size + 1,
        "statuses": [int(status) for status in statuses],
        "image_name": image_name,
    }
    rows = await (await conn.execute(_SQL[statement], values)).fetchall()
    return [to_job(row) for row in rows[:size]], len(rows) > size


def _job_or_none(row: DictRow | None) -> StoredJob | None:
    return None if row is None else to_job(row)
