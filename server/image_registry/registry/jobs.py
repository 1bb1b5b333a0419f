"""What callers do with build jobs: look at them and cancel them."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from image_registry.errors import Reason, RegistryError, Resource, job_not_found
from image_registry.lifecycle import CLAIMABLE
from image_registry.models import JobStatus, StoredJob
from image_registry.registry import caller
from image_registry.registry.steps import CANCELLED, end_build
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
        return await self._db.read(
            lambda conn: jobs.page(conn, before=before, size=size, statuses=statuses, image_name=image_name)
        )

    async def cancel(self, uuid: UUID) -> None:
        """Stop a job: one that waits ends at once, one that runs is stopped by its worker. Idempotent.

        Raises RegistryError JOB_NOT_FOUND, NOT_THE_CREATOR, JOB_FINISHED.
        """

        async def work(conn: Connection) -> None:
            seen = await jobs.get(conn, uuid)
            if seen is None:
                raise job_not_found(str(uuid))
            if not caller.current().may_cancel(seen.creator):
                raise _not_the_creator(seen)
            await images.hold_platform_tag(conn)
            image = await images.lock_by_id(conn, seen.image_id)
            job = await jobs.lock(conn, seen.id)
            if job.status in {JobStatus.SUCCEEDED, JobStatus.FAILED}:
                raise _job_finished(job)
            if job.status is JobStatus.CANCELLED:
                return
            await jobs.request_cancel(conn, job)
            if job.status in CLAIMABLE:
                await end_build(conn, job, image, CANCELLED)

        await self._db.write(work)


def _not_the_creator(job: StoredJob) -> RegistryError:
    return RegistryError(
        Reason.NOT_THE_CREATOR,
        f"job {job.uuid} was launched by {job.creator or 'the service itself'}: this key can't cancel it",
        resource=Resource("job", str(job.uuid)),
    )


def _job_finished(job: StoredJob) -> RegistryError:
    return RegistryError(
        Reason.JOB_FINISHED,
        f"job {job.uuid} is over: it has {job.status.name.lower()}",
        resource=Resource("job", str(job.uuid)),
        blockers=(Resource("job", str(job.uuid), f"is {job.status.name}"),),
    )
