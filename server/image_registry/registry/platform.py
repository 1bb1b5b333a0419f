"""The platform's own images: one system image for each supported Python version, at the current tag."""

from __future__ import annotations

from dataclasses import dataclass

from image_registry.codec import decode_definition, encode_definition
from image_registry.errors import image_not_found
from image_registry.lifecycle import BUILDING
from image_registry.models import (
    ImageDefinition,
    ImageReference,
    ImageStatus,
    JobKind,
    NewImage,
    PipRequirement,
    Priority,
    ReferenceType,
    RoleType,
    StoredImage,
    StoredJob,
)
from image_registry.requirements import system_image_name
from image_registry.storage import images, jobs
from image_registry.storage.database import Connection, Database


@dataclass(frozen=True, slots=True)
class PlatformConfig:
    """What a deployment is: its tag, its Pythons with their bases, and where images go.

    `base_images` maps X.Y to the platform's base image; `repository_root` is registry and prefix.
    """

    tag: str
    base_images: dict[str, str]
    requirements: tuple[PipRequirement, ...]
    repository_root: str

    def repo_uri(self, name: str) -> str:
        """The repository of the image of that name."""
        return f"{self.repository_root}/{name}"

    def system_definition(self, python_version: str) -> ImageDefinition:
        """What the system image of that Python version is to be at the current tag."""
        base = self.base_images[python_version]
        name = system_image_name(python_version)
        return ImageDefinition(
            name=name,
            role=RoleType.SYSTEM,
            python_version=python_version,
            base_image=ImageReference(base, reference_type(base)),
            repo_uri=self.repo_uri(name),
            platform_tag=self.tag,
            pip_requirements=self.requirements,
        )

    def user_definition(self, wanted: NewImage) -> ImageDefinition:
        """What a user's image is to be at the current tag."""
        return ImageDefinition(
            name=wanted.name,
            role=RoleType.USER_DEFINED,
            python_version=wanted.python_version,
            base_image=ImageReference(system_image_name(wanted.python_version), ReferenceType.MANAGED),
            repo_uri=self.repo_uri(wanted.name),
            platform_tag=self.tag,
            pip_requirements=wanted.pip_requirements,
            package_requirements=wanted.package_requirements,
        )


class Platform:
    """What a deployment of the platform asks of the registry."""

    def __init__(self, db: Database, config: PlatformConfig) -> None:
        self._db = db
        self._config = config

    async def ensure_images(self) -> None:
        """Every supported Python has its system image at the current tag, or a build under way that makes it so;
        READY images of older tags are OUTDATED. Idempotent, and safe from several replicas at once."""

        async def work(conn: Connection) -> None:
            await images.set_platform_tag(conn, self._config.tag)
            for version in sorted(self._config.base_images):
                await ensure_system_image(conn, self._config, version)
            await images.mark_outdated(conn, self._config.tag)

        await self._db.write(work)

    async def sync_image(self, name: str, *, force: bool) -> tuple[StoredImage, StoredJob | None]:
        """Rebuild an image at the current tag unless it is READY at that tag and `force` is off.

        Returns the image and the job that builds it (the one under way, if there is one), or no job when
        nothing is to do. Raises RegistryError IMAGE_NOT_FOUND.
        """

        async def work(conn: Connection) -> tuple[StoredImage, StoredJob | None]:
            found = await images.get(conn, name)
            if found is None:
                raise image_not_found(name)
            if found.role is RoleType.USER_DEFINED and found.python_version in self._config.base_images:
                await ensure_system_image(conn, self._config, found.python_version)
            image = await images.lock(conn, name)
            if image is None:
                raise image_not_found(name)
            if image.status in BUILDING:
                return image, await jobs.lock_unfinished_build(conn, image.id)
            if image.status is ImageStatus.READY and image.platform_tag == self._config.tag and not force:
                return image, None
            job = await _rebuild(conn, self._config, image)
            return await _again(conn, name), job

        return await self._db.write(work)


async def ensure_system_image(conn: Connection, config: PlatformConfig, python_version: str) -> int:
    """The id of the system image of that Python: created if missing, rebuilt if failed or of another tag."""
    name = system_image_name(python_version)
    image = await images.get(conn, name)
    if image is None:
        definition = config.system_definition(python_version)
        new = StoredImage(
            id=0,
            name=name,
            role=RoleType.SYSTEM,
            status=ImageStatus.BUILDING_FIRST_TIME,
            python_version=python_version,
            platform_tag=config.tag,
            base_image_id=None,
            definition=encode_definition(definition),
        )
        job = await images.create(conn, new, repository=definition.repo_uri, priority=Priority.INTERACTIVE)
        if job is not None:
            return job.image_id
    elif not _needs_build(config, image):
        return image.id
    locked = await images.lock(conn, name)  # made or changed by another replica a moment ago: look again
    if locked is None:
        raise image_not_found(name)
    if _needs_build(config, locked):
        await _rebuild(conn, config, locked)
    return locked.id


def _needs_build(config: PlatformConfig, image: StoredImage) -> bool:
    if image.status in BUILDING:
        return False
    return image.status is ImageStatus.FAILED or image.platform_tag != config.tag


async def _rebuild(conn: Connection, config: PlatformConfig, image: StoredImage) -> StoredJob:
    """A locked image that isn't building → REBUILDING at the current tag, with its job."""
    old = decode_definition(image.definition)
    if image.role is RoleType.SYSTEM and image.python_version in config.base_images:
        definition = config.system_definition(image.python_version)
    else:
        wanted = NewImage(image.name, image.python_version, old.pip_requirements, old.package_requirements)
        definition = config.user_definition(wanted)
    await images.start_rebuild(conn, image.id)
    return await jobs.insert(
        conn,
        kind=JobKind.BUILD,
        priority=Priority.INTERACTIVE if image.role is RoleType.SYSTEM else Priority.PLATFORM,
        image_id=image.id,
        image_name=image.name,
        repository=old.repo_uri,
        definition=encode_definition(definition),
    )


async def _again(conn: Connection, name: str) -> StoredImage:
    image = await images.get(conn, name)
    if image is None:
        raise image_not_found(name)
    return image


def reference_type(reference: str) -> ReferenceType:
    """The kind of place that an external image reference points to, told by its host."""
    host, slash, _ = reference.partition("/")
    if reference.startswith("oci:"):
        return ReferenceType.UNSPECIFIED
    if host.endswith((".amazonaws.com", ".amazonaws.com.cn")) and ".dkr.ecr" in host:
        return ReferenceType.EXTERNAL_ECR
    if host.endswith("-docker.pkg.dev"):
        return ReferenceType.EXTERNAL_GAR
    is_host = bool(slash) and ("." in host or ":" in host or host == "localhost")
    if not is_host or host in {"docker.io", "index.docker.io", "registry-1.docker.io"}:
        return ReferenceType.RIME_DOCKERHUB
    return ReferenceType.UNSPECIFIED
