"""Create, get, list and delete."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

from image_registry.codec import decode_definition, encode_definition
from image_registry.errors import Reason, RegistryError, Resource, image_not_found
from image_registry.lifecycle import CLAIMABLE
from image_registry.models import (
    BuildLock,
    CreatedImage,
    ImagePage,
    ImageStatus,
    JobKind,
    JobStatus,
    LibraryFilter,
    NewImage,
    Priority,
    PublishedImage,
    RegistryIdentity,
    RoleType,
    StoredImage,
    StoredJob,
    TerminationReason,
)
from image_registry.registry import caller
from image_registry.registry.platform import PlatformConfig, ensure_system_image
from image_registry.registry.quotas import Quotas
from image_registry.storage import create_requests, image_pages, images, jobs
from image_registry.storage.create_requests import KnownRequestError, RequestKey
from image_registry.storage.database import Connection, Database
from image_registry.storage.image_creates import ImageCreates, NameTakenError, NoCurrentBaseError
from image_registry.storage.image_reads import ImageReads
from image_registry.storage.images import NewImageRow
from image_registry.storage.kept_images import KeptImages
from image_registry.telemetry import tracing

_AFTER_THE_FIRST = {Reason.IMAGE_ALREADY_EXISTS, Reason.QUEUE_LIMIT, Reason.IMAGE_LIMIT}  # what the first create causes


class Images:
    """What callers do with images."""

    def __init__(
        self,
        db: Database,
        reads: ImageReads,
        config: PlatformConfig,
        quotas: Quotas | None = None,
        kept: KeptImages | None = None,
    ) -> None:
        self._db = db
        self._reads = reads
        self._config = config
        self._quotas = quotas or Quotas(db)
        self._creates = ImageCreates(db)
        self._kept = kept

    async def identity(self) -> RegistryIdentity:
        """What all replicas on this database share."""
        return await self._db.read(images.identity)

    async def create(self, wanted: NewImage, *, request_id: str = "") -> CreatedImage:
        """Record an image and launch its build. The same wish under the same `request_id` of the same caller is
        answered as the first one was, whatever has become of the image.

        Raises RegistryError IMAGE_ALREADY_EXISTS, QUEUE_LIMIT, IMAGE_LIMIT, REQUEST_ID_REUSED.
        """
        creator = caller.current().identity
        if not request_id:
            return await self._create(wanted, creator, None)
        request = RequestKey(creator, request_id, _fingerprint(wanted))
        while True:
            try:
                return await self._create(wanted, creator, request)
            except KnownRequestError:
                if first := await self._first_answer(request):
                    return first  # none: it has expired this moment
            except RegistryError as error:
                if error.reason in _AFTER_THE_FIRST and (first := await self._first_answer(request)):
                    return first
                raise

    async def _first_answer(self, request: RequestKey) -> CreatedImage | None:
        found = await self._db.read(lambda conn: create_requests.first_answer(conn, request))
        if found is None:
            return None
        created, fingerprint = found
        if fingerprint != request.fingerprint:
            raise _is_reused(request.request_id)
        return created

    async def _create(self, wanted: NewImage, creator: str, request: RequestKey | None) -> CreatedImage:
        """In one statement, for several creates if they come together, if the system image is there at the current tag,
        else together with that one's creation or rebuild."""
        await self._quotas.check(creator)
        definition = self._config.user_definition(wanted)
        row = NewImageRow(
            name=wanted.name,
            python_version=wanted.python_version,
            platform_tag=self._config.tag,
            definition=encode_definition(definition),
            base=definition.base_image.name,
            repository=definition.repo_uri,
            creator=creator,
            needs_packages=bool(wanted.package_requirements),
            traceparent=tracing.traceparent(),
            request=request,
        )

        async def with_base(conn: Connection) -> StoredJob:
            base_id = await ensure_system_image(conn, self._config, wanted.python_version)
            job = await images.create(
                conn,
                _first_state(row, base_id),
                repository=row.repository,
                priority=Priority.INTERACTIVE,
                creator=creator,
                needs_packages=row.needs_packages,
            )
            if job is None:  # to be raised in here: the system image isn't made for nothing either
                raise _already_exists(wanted.name)
            if request is not None:
                await create_requests.remember(conn, request, _created(job))
            return job

        try:
            created = await self._creates.create(row)
        except NoCurrentBaseError:
            created = _created(await self._db.write(with_base))
        except NameTakenError:
            raise _already_exists(wanted.name) from None
        self._db.announce(jobs.CHANNEL)
        return created

    async def get(self, name: str) -> PublishedImage:
        """The image with the names of those that are built on it. Raises RegistryError IMAGE_NOT_FOUND."""
        image = await self._reads.get(name)
        if image is None:
            raise image_not_found(name)
        return image

    async def lock(self, name: str) -> BuildLock:
        """What the image's last good build was made of. Raises RegistryError IMAGE_NOT_FOUND, IMAGE_HAS_NO_LOCK."""
        found = await self._db.read(lambda conn: images.build_lock(conn, name))
        if found is None:
            raise image_not_found(name)
        if not found.lock_file:
            raise _has_no_lock(name)
        return found

    async def page(self, *, after: str, size: int, filters: Sequence[LibraryFilter]) -> ImagePage:
        """Up to `size` images in name order behind the name `after`."""

        async def work(conn: Connection) -> ImagePage:
            return await image_pages.page(conn, after=after, size=size, filters=filters, kept=self._kept)

        return await self._db.read(work)

    async def delete(self, name: str) -> None:
        """Remove an image: its build is cancelled, its name is free at once, a job removes the repository.

        Raises RegistryError IMAGE_NOT_FOUND, SYSTEM_IMAGE_PROTECTED, IMAGE_HAS_CHILDREN.
        """

        async def work(conn: Connection) -> None:
            image = await images.lock_to_delete(conn, name)
            if image is None:
                raise image_not_found(name)
            if image.role is RoleType.SYSTEM:
                raise _is_protected(name)
            if children := await images.child_names(conn, image.id):
                raise _has_children(name, children)
            definition = decode_definition(image.definition)
            await _cancel_build(conn, image.id)
            await images.delete(conn, image, definition)
            await jobs.insert(
                conn,
                kind=JobKind.DELETE_REPOSITORY,
                priority=Priority.INTERACTIVE,
                image_id=image.id,
                image_name=name,
                repository=definition.repo_uri,
                creator=caller.current().identity,
            )

        await self._db.write(work)
        self._db.announce(jobs.CHANNEL)


async def _cancel_build(conn: Connection, image_id: int) -> None:
    """A build that waits ends at once, one that runs is stopped by its worker."""
    job = await jobs.lock_unfinished_build(conn, image_id)
    if job is None:
        return
    await jobs.request_cancel(conn, job)
    if job.status in CLAIMABLE:
        await jobs.finish(conn, job, JobStatus.CANCELLED, TerminationReason.COMPLETED, "cancelled: image deleted")


def _first_state(row: NewImageRow, base_id: int) -> StoredImage:
    return StoredImage(
        id=0,
        name=row.name,
        role=RoleType.USER_DEFINED,
        status=ImageStatus.BUILDING_FIRST_TIME,
        python_version=row.python_version,
        platform_tag=row.platform_tag,
        base_image_id=base_id,
        definition=row.definition,
    )


def _created(job: StoredJob) -> CreatedImage:
    return CreatedImage(job.definition, job.uuid, job.created_at)


def _fingerprint(wanted: NewImage) -> bytes:
    """Of what is asked, the same in every release: replicas of two may be asked the same."""
    pips = [requirement._asdict() for requirement in wanted.pip_requirements]
    return hashlib.sha256(json.dumps(asdict(wanted) | {"pip_requirements": pips}).encode()).digest()


def _is_reused(request_id: str) -> RegistryError:
    return RegistryError(
        Reason.REQUEST_ID_REUSED,
        f"x-request-id {request_id!r} was sent with another request: send a new id with each new request",
        resource=Resource("request", request_id),
    )


def _already_exists(name: str) -> RegistryError:
    return RegistryError(
        Reason.IMAGE_ALREADY_EXISTS, f"an image named {name!r} exists already", resource=Resource("image", name)
    )


def _has_no_lock(name: str) -> RegistryError:
    return RegistryError(
        Reason.IMAGE_HAS_NO_LOCK,
        f"{name!r} has no lock: no build of this service has made it yet",
        resource=Resource("image", name),
        blockers=(Resource("image", name, "was not built by this service"),),
    )


def _is_protected(name: str) -> RegistryError:
    return RegistryError(
        Reason.SYSTEM_IMAGE_PROTECTED,
        f"{name!r} is a system image, which only the platform changes",
        resource=Resource("image", name),
    )


def _has_children(name: str, children: list[str]) -> RegistryError:
    return RegistryError(
        Reason.IMAGE_HAS_CHILDREN,
        f"{name!r} is the base of {', '.join(children)}: delete those first",
        resource=Resource("image", name),
        blockers=tuple(Resource("image", child, "is built on it") for child in children),
    )
