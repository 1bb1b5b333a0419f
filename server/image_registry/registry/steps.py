"""The steps of an image's life that it takes together with its build: one begins, one ends.

Both are parts of a transaction whose caller holds the locks of the image and of the job.
"""

from __future__ import annotations

from dataclasses import replace

from image_registry.codec import decode_definition, encode_definition
from image_registry.models import (
    BuildReport,
    ImageDefinition,
    ImageStatus,
    JobKind,
    JobStatus,
    Outcome,
    Priority,
    RoleType,
    StoredImage,
    StoredJob,
    TerminationReason,
)
from image_registry.storage import images, jobs
from image_registry.storage.database import Connection

CANCELLED = BuildReport(Outcome.CANCELLED, TerminationReason.COMPLETED, "cancelled")


async def start_rebuild(
    conn: Connection, image: StoredImage, definition: ImageDefinition, *, creator: str = ""
) -> tuple[StoredImage, StoredJob]:
    """An image that isn't being built → REBUILDING, with the job that makes it what `definition` says."""
    await images.start_rebuild(conn, image.id)
    job = await jobs.insert(
        conn,
        kind=JobKind.BUILD,
        priority=Priority.INTERACTIVE if image.role is RoleType.SYSTEM else Priority.PLATFORM,
        image_id=image.id,
        image_name=image.name,
        repository=definition.repo_uri,
        definition=encode_definition(definition),
        creator=creator,
        needs_packages=bool(definition.package_requirements),
    )
    return replace(image, status=ImageStatus.REBUILDING), job


async def end_build(conn: Connection, job: StoredJob, image: StoredImage | None, report: BuildReport) -> None:
    """An unfinished build → what `report` says, and its image with it. `image` None: it was deleted meanwhile.

    The caller holds the platform's tag too, so that no newer one is set meanwhile and missed.
    """
    if image is None:
        await _finish(conn, job, CANCELLED)
        return
    await _finish(conn, job, report)
    if report.outcome is Outcome.SUCCEEDED:
        await _record(conn, job, image, report)
    elif report.outcome is Outcome.FAILED:
        await images.end_failed(conn, image.id)
    else:
        await images.end_cancelled(conn, image.id)
    wanted = await images.next_definition(conn, image.id) if image.role is RoleType.SYSTEM else None
    if wanted is not None:
        await start_rebuild(conn, image, decode_definition(wanted))
    else:
        await images.outdate_one(conn, image.id)


async def _finish(conn: Connection, job: StoredJob, report: BuildReport) -> None:
    status = {
        Outcome.SUCCEEDED: JobStatus.SUCCEEDED,
        Outcome.FAILED: JobStatus.FAILED,
        Outcome.CANCELLED: JobStatus.CANCELLED,
    }[report.outcome]
    await jobs.finish(conn, job, status, report.reason, report.progress)


async def _record(conn: Connection, job: StoredJob, image: StoredImage, report: BuildReport) -> None:
    built = replace(decode_definition(job.definition), pip_libraries=report.libraries)
    await images.end_ready(
        conn,
        image.id,
        definition=encode_definition(built),
        digest=report.digest,
        base_digest=report.base_digest,
        lock_file=report.lock_file,
        old=decode_definition(image.definition),
        new=built,
    )
