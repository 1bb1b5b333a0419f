"""The worker's side: take a job, keep it, end it. Each write is fenced by the attempt that owns the job."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID

from image_registry.codec import decode_definition, encode_definition
from image_registry.errors import Reason, RegistryError, Resource, image_not_found
from image_registry.lifecycle import BUILDING
from image_registry.models import (
    BuildReport,
    ImageDefinition,
    ImageStatus,
    JobKind,
    JobStatus,
    Outcome,
    PipLibrary,
    RoleType,
    StoredImage,
    StoredJob,
    TerminationReason,
)
from image_registry.storage import images, jobs
from image_registry.storage.database import Connection, Database

MAX_FAULTS = 5  # attempts that may be lost or fail for passing reasons before a build is given up


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that this worker owns for a lease.

    A build has a definition, for users' images a base, and the lock of the image's last good build ('': none).
    """

    job: StoredJob
    definition: ImageDefinition | None = None
    base: StoredImage | None = None
    lock_file: str = ""


class Builds:
    """What workers, and builders outside this service, do with jobs."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def claim(self, *, agent_id: UUID, lease: float) -> Claim | None:
        """Take the next job that may run, for `lease` seconds; None: nothing to do at the moment."""

        async def work(conn: Connection) -> Claim | None:
            job = await jobs.claim(conn, agent_id=agent_id, lease=lease)
            if job is None:
                return None
            if job.kind is not JobKind.BUILD:
                return Claim(job)
            return Claim(
                job,
                decode_definition(job.definition),
                await images.base_of(conn, job.image_id),
                await images.lock_file(conn, job.image_id),
            )

        return await self._db.write(work)

    async def next_due(self) -> float | None:
        """Seconds until a job that was put off may run; None: there is none."""
        return await self._db.read(jobs.next_due)

    async def start(self, job: StoredJob) -> bool:
        """PENDING → RUNNING; False: the job belongs to somebody else now."""
        return await self._db.write(lambda conn: jobs.start(conn, job))

    async def renew(self, job: StoredJob, lease: float) -> bool | None:
        """Extend the lease: whether the job is to be cancelled; None: it belongs to somebody else now."""
        return await self._db.write(lambda conn: jobs.renew(conn, job, lease))

    async def set_progress(self, job: StoredJob, progress: str) -> None:
        """Show a line about the attempt under way."""
        await self._db.write(lambda conn: jobs.set_progress(conn, job, progress))

    async def finish(self, job: StoredJob, report: BuildReport) -> bool:
        """End a build and change its image with it; False: fenced off, nothing was written."""

        async def work(conn: Connection) -> bool:
            image = await images.lock_by_id(conn, job.image_id)
            owned = await jobs.lock_attempt(conn, job.id, job.attempt)
            if owned is None:
                return False
            await _end(conn, owned, image, report)
            return True

        return await self._db.write(work)

    async def finish_cleanup(self, job: StoredJob) -> bool:
        """End a repository's removal; False: fenced off."""

        async def work(conn: Connection) -> bool:
            owned = await jobs.lock_attempt(conn, job.id, job.attempt)
            if owned is not None:
                await jobs.finish(conn, owned, JobStatus.SUCCEEDED, TerminationReason.COMPLETED)
            return owned is not None

        return await self._db.write(work)

    async def put_back(self, job: StoredJob, *, delay: float, fault: bool, progress: str) -> None:
        """Another attempt in `delay` seconds. After MAX_FAULTS `fault`s a build is FAILED instead."""

        async def work(conn: Connection) -> None:
            image = await images.lock_by_id(conn, job.image_id)
            owned = await jobs.lock_attempt(conn, job.id, job.attempt)
            if owned is None:
                return
            if owned.cancel_requested:
                await _end(conn, owned, image, _CANCELLED)
            elif fault and owned.faults + 1 >= MAX_FAULTS and owned.kind is JobKind.BUILD:
                await _end(conn, owned, image, _gave_up(progress))
            else:
                await jobs.put_back(conn, owned, delay=delay, fault=fault, progress=progress)

        await self._db.write(work)

    async def reconcile(self) -> int:
        """Free the jobs of silent workers and end those that nobody should take over; returns how many were lost."""
        lost = await self._db.write(jobs.expire_leases)
        for job in await self._db.read(lambda conn: jobs.hopeless(conn, MAX_FAULTS)):
            await self._db.write(partial(_end_hopeless, seen=job))
        return lost

    async def record_outside_build(self, name: str, *, succeeded: bool, libraries: tuple[PipLibrary, ...]) -> None:
        """The result of a builder outside this service, for the build under way.

        Raises RegistryError IMAGE_NOT_FOUND, IMAGE_NOT_BUILDING.
        """
        if succeeded:
            report = BuildReport(Outcome.SUCCEEDED, TerminationReason.COMPLETED, "reported READY", libraries)
        else:
            report = BuildReport(Outcome.FAILED, TerminationReason.GENERIC_ERROR, "reported FAILED by its builder")

        async def work(conn: Connection) -> None:
            image = await images.lock(conn, name)
            if image is None:
                raise image_not_found(name)
            job = await jobs.lock_unfinished_build(conn, image.id)
            if image.status not in BUILDING or job is None:
                raise RegistryError(
                    Reason.IMAGE_NOT_BUILDING,
                    f"{name!r} is {image.status.name}: no build of it is under way",
                    resource=Resource("image", name),
                    blockers=(Resource("image", name, f"is {image.status.name}"),),
                )
            await _end(conn, job, image, report)

        await self._db.write(work)


async def _end(conn: Connection, job: StoredJob, image: StoredImage | None, report: BuildReport) -> None:
    """End a locked job and its locked image together. An image deleted meanwhile leaves a cancelled job."""
    outcome = report.outcome if image is not None else Outcome.CANCELLED
    if outcome is Outcome.CANCELLED or image is None:
        await jobs.finish(conn, job, JobStatus.CANCELLED, TerminationReason.COMPLETED, report.progress or "cancelled")
        await images.end_cancelled(conn, job.image_id)
    elif outcome is Outcome.FAILED:
        await jobs.finish(conn, job, JobStatus.FAILED, report.reason, report.progress)
        await images.end_failed(conn, image.id)
    else:
        await jobs.finish(conn, job, JobStatus.SUCCEEDED, TerminationReason.COMPLETED, report.progress)
        await _record(conn, job, image, report)


async def _record(conn: Connection, job: StoredJob, image: StoredImage, report: BuildReport) -> None:
    built = replace(decode_definition(job.definition), pip_libraries=report.libraries)
    await images.end_ready(
        conn,
        image.id,
        definition=encode_definition(built),
        platform_tag=built.platform_tag,
        digest=report.digest,
        lock_file=report.lock_file,
        old=decode_definition(image.definition).pip_libraries,
        new=report.libraries,
    )
    if image.role is RoleType.SYSTEM:
        await images.mark_outdated_children(conn, image.id, built.platform_tag)
    newest = await images.newest_platform_tag(conn)
    if newest not in {"", built.platform_tag}:  # the platform moved on while this was building
        await images.mark_one_outdated(conn, image.id)


async def _end_hopeless(conn: Connection, seen: StoredJob) -> None:
    image = await images.lock_by_id(conn, seen.image_id)
    job = await jobs.lock(conn, seen.id)
    if job.status is not JobStatus.RECONCILING:
        return
    if job.cancel_requested:
        await _end(conn, job, image, _CANCELLED)
    else:
        await _end(conn, job, image, _gave_up("its worker was lost"))


_CANCELLED = BuildReport(Outcome.CANCELLED, TerminationReason.COMPLETED, "cancelled")


def _gave_up(last: str) -> BuildReport:
    text = f"given up after {MAX_FAULTS} attempts; the last one: {last}"
    return BuildReport(Outcome.FAILED, TerminationReason.INTERNAL_ERROR, text)


def base_is_usable(base: StoredImage) -> bool:
    """Whether an image may be built on `base`: it has a build and that is not being replaced."""
    return base.status in {ImageStatus.READY, ImageStatus.OUTDATED}
