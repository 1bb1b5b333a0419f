"""What callers do with build jobs: look at them and cancel them."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from image_registry.errors import Reason, RegistryError, Resource, job_not_found
from image_registry.lifecycle import CLAIMABLE
from image_registry.models import JobStatus, StoredJob, TerminationReason
from image_registry.storage import images, jobs
from image_registry.storage.database import Connection, Database


class Jobs:
    """The readable, cancellable side of the queue. Only builds are seen here."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, uuid: UUID) -> StoredJob:
        """The job. Raises RegistryError JOB_NOT_FOUND."""
        job = await self._db.read(lambda conn: jobs.get(conn, uuid))
        if job is None:
            raise job_not_found(str(uuid))
        return job

    async def page(
        self, *, before: int | None, size: int, statuses: Sequence[JobStatus], image_name: str | None
    ) -> tuple[list[StoredJob], bool]:
        """Up to `size` jobs, newest first, older than the job `before`, and whether there are more."""
        found = await self._db.read(
            lambda conn: jobs.page(conn, before=before, limit=size + 1, statuses=statuses, image_name=image_name)
        )
        return found[:size], len(found) > size

    async def cancel(self, uuid: UUID) -> None:
        """Stop a job: one that waits ends at once, one that runs is stopped by its worker. Idempotent.

        Raises RegistryError JOB_NOT_FOUND, JOB_FINISHED.
        """

        async def work(conn: Connection) -> None:
            seen = await jobs.get(conn, uuid)
            if seen is None:
                raise job_not_found(str(uuid))
            await images.lock_by_id(conn, seen.image_id)
            job = await jobs.lock(conn, seen.id)
            if job.status in {JobStatus.SUCCEEDED, JobStatus.FAILED}:
                raise RegistryError(
                    Reason.JOB_FINISHED,
                    f"job {uuid} is over: it has {job.status.name.lower()}",
                    resource=Resource("job", str(uuid)),
                )
            if job.status in CLAIMABLE:
                await jobs.finish(conn, job, JobStatus.CANCELLED, TerminationReason.COMPLETED, "cancelled")
                await images.end_cancelled(conn, job.image_id)
            if job.status is not JobStatus.CANCELLED:
                await jobs.request_cancel(conn, job)

        await self._db.write(work)
