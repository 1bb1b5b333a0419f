"""The platform's own images: one system image for each supported Python version, at the current tag."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from image_registry.codec import decode_definition, encode_definition
from image_registry.errors import image_not_found
from image_registry.lifecycle import BUILDING
from image_registry.models import (
    ImageDefinition,
    ImageReference,
    ImageStatus,
    NewImage,
    PipRequirement,
    Priority,
    ReferenceType,
    RoleType,
    StoredImage,
    StoredJob,
)
from image_registry.registry import caller
from image_registry.registry.steps import start_rebuild
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

    def at_current_tag(self, image: StoredImage) -> ImageDefinition:
        """What an existing image is to become when it is rebuilt."""
        old = decode_definition(image.definition)
        if image.role is RoleType.USER_DEFINED:
            wanted = NewImage(image.name, image.python_version, old.pip_requirements, old.package_requirements)
            return self.user_definition(wanted)
        if image.python_version in self.base_images:
            return self.system_definition(image.python_version)
        return replace(old, platform_tag=self.tag, pip_libraries=())  # a Python that is no longer supported


@dataclass(frozen=True, slots=True)
class BuiltOn:
    """A system image, the reference of its base, and the digest that this stood for at the last good build."""

    name: str
    reference: str
    digest: str


class Platform:
    """What a deployment of the platform asks of the registry."""

    def __init__(self, db: Database, config: PlatformConfig) -> None:
        self._db = db
        self._config = config

    async def ensure_images(self) -> None:
        """Every supported Python has its system image at the current tag, or a build under way that makes it so;
        READY images of older tags are OUTDATED. Idempotent, and safe from several replicas at once.

        Each step is a transaction of its own, so that none holds many locks. The tag comes first: builds of older
        tags that end from then on make their images OUTDATED themselves.
        """
        await self._db.write(lambda conn: images.set_platform_tag(conn, self._config.tag))
        for version in self._config.base_images:
            await self._db.write(partial(ensure_system_image, config=self._config, python_version=version))
        self._db.announce(jobs.CHANNEL)
        while await self._db.write(images.outdate_by_tag):
            pass

    async def bases(self) -> list[BuiltOn]:
        """What each system image was built on last."""
        rows = await self._db.read(images.built_on)
        return [BuiltOn(name, decode_definition(encoded).base_image.name, digest) for name, encoded, digest in rows]

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
            return await start_rebuild(
                conn, image, self._config.at_current_tag(image), creator=caller.current().identity
            )

        synced = await self._db.write(work)
        self._db.announce(jobs.CHANNEL)
        return synced


async def ensure_system_image(conn: Connection, config: PlatformConfig, python_version: str) -> int:
    """The id of the system image of that Python: created if missing, brought to the current tag if it is not there.

    A replica of an older deployment, while a newer one is being rolled out, creates what is missing but leaves the
    rest to the newer one.
    """
    name = system_image_name(python_version)
    definition = config.system_definition(python_version)
    image = await images.get(conn, name)
    if image is None:
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
    elif image.status is ImageStatus.READY and image.platform_tag == config.tag:
        return image.id
    if await images.hold_platform_tag(conn) in {"", config.tag}:
        await _bring_to_current_tag(conn, config, name)
    image = await images.get(conn, name)
    if image is None:  # pragma: no cover (nothing deletes system images)
        raise image_not_found(name)
    return image.id


async def _bring_to_current_tag(conn: Connection, config: PlatformConfig, name: str) -> None:
    """Rebuild a system image, at once or after the build under way, unless that is not needed."""
    image = await images.lock(conn, name)  # another replica may have changed it a moment ago
    if image is None:  # pragma: no cover (nothing deletes system images)
        raise image_not_found(name)
    definition = config.system_definition(image.python_version)
    if image.status in BUILDING:
        job = await jobs.lock_unfinished_build(conn, image.id)
        is_on_its_way = job is not None and decode_definition(job.definition).platform_tag == config.tag
        await images.set_next_definition(conn, image.id, None if is_on_its_way else encode_definition(definition))
    elif image.status is not ImageStatus.READY or image.platform_tag != config.tag:
        await start_rebuild(conn, image, definition)


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
