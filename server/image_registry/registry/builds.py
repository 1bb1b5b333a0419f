"""The worker's side: take a job, keep it, end it. Each write is fenced by the attempt that owns the job."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID

from image_registry import limits
from image_registry.codec import decode_definition, encode_definition
from image_registry.errors import Reason, RegistryError, Resource, image_not_found
from image_registry.lifecycle import BUILDING, CLAIMABLE
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
from image_registry.registry.steps import CANCELLED, end_build
from image_registry.requirements import filter_name_fault, text_fault
from image_registry.storage import images, jobs
from image_registry.storage.database import Connection, Database
from image_registry.telemetry.catalogue import BUILDS

log = logging.getLogger(__name__)

MAX_FAULTS = 5  # attempts that may fail for passing reasons before a build is given up
WAITS_FOR_ENGINE = "waits for a worker that can install system packages"
MAX_ATTEMPTS = 25  # attempts of a build, those lost with their workers too: maybe it is the build that ends workers


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that this worker owns for a lease.

    A build has a definition, for users' images a base, and the lock and the base's digest of the image's last good
    build ('': none).
    """

    job: StoredJob
    definition: ImageDefinition | None = None
    base: StoredImage | None = None
    lock_file: str = ""
    base_digest: str = ""


class Builds:
    """What workers, and builders outside this service, do with jobs."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def claim(
        self, *, agent_id: UUID, lease: float, packages: bool = False, held: Collection[int] = ()
    ) -> Claim | None:
        """Take the next job that may run, for `lease` seconds; None: nothing to do at the moment.

        `packages`: the worker can install system packages; others are not given builds that want some. `held`: ids of
        jobs that it works on already; should one of them have been lost to it, its attempt ends before the next begins.

        A user's image is recorded with the tag of the base that it is really built on, which another deployment, or
        a cancelled rebuild, may have left at another tag than was wanted.
        """
        claim = partial(
            jobs.claim, agent_id=agent_id, lease=lease, max_attempts=MAX_ATTEMPTS, packages=packages, held=held
        )
        claimed = await self._db.write_once(claim)
        if claimed is None:
            return None
        job, base = claimed.job, claimed.base
        if job.kind is not JobKind.BUILD:
            return Claim(job)
        definition = decode_definition(job.definition)
        if base is not None and base.platform_tag != definition.platform_tag:
            definition = replace(definition, platform_tag=base.platform_tag)
            encoded = encode_definition(definition)
            await self._db.write(partial(jobs.set_definition, job=job, definition=encoded))
            job = replace(job, definition=encoded)
        return Claim(job, definition, base, claimed.lock_file, claimed.base_digest)

    async def next_due(self, *, packages: bool = False) -> float | None:
        """Seconds until a job that was put off, and that such a worker can do, may run; None: there is none."""
        return await self._db.read(partial(jobs.next_due, packages=packages))

    async def start(self, job: StoredJob) -> bool | None:
        """PENDING → RUNNING: whether the job is to be cancelled; None: it belongs to somebody else now."""
        return await self._db.write(lambda conn: jobs.start(conn, job))

    async def renew(self, job: StoredJob, lease: float) -> bool | None:
        """Extend the lease: whether the job is to be cancelled; None: it belongs to somebody else now."""
        return await self._db.write(lambda conn: jobs.renew(conn, job, lease))

    async def set_progress(self, job: StoredJob, progress: str) -> None:
        """Show a line about the attempt under way."""
        await self._db.write(lambda conn: jobs.set_progress(conn, job, _shown(progress)))

    async def finish(self, job: StoredJob, report: BuildReport) -> bool:
        """End a build and change its image with it; False: fenced off, nothing was written."""
        recordable = replace(report, progress=_shown(report.progress), libraries=_recordable(report.libraries))

        async def work(conn: Connection) -> bool:
            await images.hold_platform_tag(conn)
            image = await images.lock_by_id(conn, job.image_id)
            owned = await jobs.lock_attempt(conn, job)
            if owned is not None:
                await end_build(conn, owned, image, recordable)
            return owned is not None

        written = await self._db.write(work)
        if written:
            _count(report)
        if written and report.outcome is Outcome.SUCCEEDED:
            await self._outdate_children_if_possible()
        return written

    async def finish_cleanup(self, job: StoredJob) -> bool:
        """End a repository's removal; False: fenced off."""

        async def work(conn: Connection) -> bool:
            owned = await jobs.lock_attempt(conn, job)
            if owned is not None:
                await jobs.finish(conn, owned, JobStatus.SUCCEEDED, TerminationReason.COMPLETED)
            return owned is not None

        return await self._db.write(work)

    async def put_back(self, job: StoredJob, *, delay: float, fault: bool, progress: str) -> None:
        """Another attempt in `delay` seconds. After MAX_FAULTS `fault`s a build is FAILED instead."""
        shown = _shown(progress)

        async def work(conn: Connection) -> BuildReport | None:
            await images.hold_platform_tag(conn)
            image = await images.lock_by_id(conn, job.image_id)
            owned = await jobs.lock_attempt(conn, job)
            if owned is None:
                return None
            if owned.cancel_requested:
                report = CANCELLED
            elif fault and owned.faults + 1 >= MAX_FAULTS and owned.kind is JobKind.BUILD:
                report = _gave_up(MAX_FAULTS, shown)
            else:
                await jobs.put_back(conn, owned, delay=delay, fault=fault, progress=shown)
                return None
            await end_build(conn, owned, image, report)
            return report

        if ended := await self._db.write(work):
            _count(ended)

    async def reconcile(self) -> int:
        """Free the jobs of silent workers and end those that nobody should take over; returns how many were lost.

        Also marks OUTDATED what a rebuilt base left behind, should the worker that built it have died over it.
        """
        lost = await self._db.write(jobs.expire_leases)
        for job in await self._db.read(lambda conn: jobs.hopeless(conn, MAX_ATTEMPTS)):
            if ended := await self._db.write(partial(_end_hopeless, seen=job)):
                _count(ended)
        await self._outdate_children()
        return lost

    async def report_worker(self, agent_id: UUID, *, packages: bool) -> None:
        """Note that a worker is there, and whether it can install system packages."""
        await self._db.write(lambda conn: jobs.worker_seen(conn, agent_id, packages=packages))

    async def judge_waiting(self, *, silence: float, patience: float) -> int:
        """Builds that need what no worker can do: say so when none was seen for `silence` seconds, and end them when
        none was for `patience` seconds. Returns how many were ended.
        """
        await self._db.write(partial(jobs.show_waiting, silence=silence, progress=WAITS_FOR_ENGINE))
        waiting = await self._db.read(lambda conn: jobs.without_engine(conn, patience))
        for job in waiting:
            await self._db.write(partial(_end_waiting, seen=job, patience=patience))
        return len(waiting)

    async def record_outside_build(
        self, name: str, *, succeeded: bool, libraries: tuple[PipLibrary, ...], job_id: UUID | None = None
    ) -> None:
        """The result of a builder outside this service, for the build under way; with `job_id` for that one only.

        Raises RegistryError IMAGE_NOT_FOUND, IMAGE_NOT_BUILDING.
        """
        if succeeded:
            report = BuildReport(Outcome.SUCCEEDED, TerminationReason.COMPLETED, "reported READY", libraries)
        else:
            report = BuildReport(Outcome.FAILED, TerminationReason.GENERIC_ERROR, "reported FAILED by its builder")

        async def work(conn: Connection) -> RoleType:
            await images.hold_platform_tag(conn)
            image = await images.lock(conn, name)
            if image is None:
                raise image_not_found(name)
            job = await jobs.lock_unfinished_build(conn, image.id) if image.status in BUILDING else None
            if job is None or job_id not in {None, job.uuid}:
                raise _not_building(image)
            await end_build(conn, job, image, report)
            return image.role

        role = await self._db.write(work)
        _count(report)
        if role is RoleType.SYSTEM:
            await self._outdate_children_if_possible()

    async def _outdate_children(self) -> None:
        while await self._db.write(images.outdate_children):
            pass

    async def _outdate_children_if_possible(self) -> None:
        """The build is recorded already: what fails here is done by the next `reconcile`."""
        try:
            await self._outdate_children()
        except RegistryError as error:
            log.warning("images on rebuilt bases are marked OUTDATED later: %s", error)


def _count(report: BuildReport) -> None:
    BUILDS.add(report.outcome.value, report.reason.name.lower())


async def _end_hopeless(conn: Connection, seen: StoredJob) -> BuildReport | None:
    await images.hold_platform_tag(conn)
    image = await images.lock_by_id(conn, seen.image_id)
    job = await jobs.lock(conn, seen.id)
    if job.status is not JobStatus.RECONCILING:
        return None
    report = CANCELLED if job.cancel_requested else _gave_up(job.attempt, "its worker was lost")
    await end_build(conn, job, image, report)
    return report


async def _end_waiting(conn: Connection, seen: StoredJob, patience: float) -> None:
    await images.hold_platform_tag(conn)
    image = await images.lock_by_id(conn, seen.image_id)
    job = await jobs.lock(conn, seen.id)
    if job.status not in CLAIMABLE:
        return
    text = f"no worker that can install system packages was there for {patience:g} s: see `image-registry doctor`"
    report = BuildReport(Outcome.FAILED, TerminationReason.INTERNAL_ERROR, text)
    await end_build(conn, job, image, CANCELLED if job.cancel_requested else report)


def _gave_up(attempts: int, last: str) -> BuildReport:
    text = _shown(f"given up after {attempts} attempts; the last one: {last}")
    return BuildReport(Outcome.FAILED, TerminationReason.INTERNAL_ERROR, text)


def _not_building(image: StoredImage) -> RegistryError:
    return RegistryError(
        Reason.IMAGE_NOT_BUILDING,
        f"{image.name!r} is {image.status.name}: the reported build of it is not under way",
        resource=Resource("image", image.name),
        blockers=(Resource("image", image.name, f"is {image.status.name}"),),
    )


def _shown(text: str) -> str:
    """Text of builders as it can be kept: bounded, and without the one character that Postgres can't store."""
    return text.replace("\0", "")[: limits.PROGRESS]


def _recordable(libraries: tuple[PipLibrary, ...]) -> tuple[PipLibrary, ...]:
    """Without what no `pip list` can show: names and versions that are malformed, or longer than any real one."""
    return tuple(x for x in libraries if not filter_name_fault(x.name) and not text_fault(x.version))


def base_is_usable(base: StoredImage) -> bool:
    """Whether an image may be built on `base`: it has a build and that is not being replaced."""
    return base.status in {ImageStatus.READY, ImageStatus.OUTDATED}
