"""What the service knows, as values: the published messages' names and fields, typed.

All of them are immutable and compare by value. A number that a newer service sends and this version doesn't know
reads as UNSPECIFIED.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Self

from packaging.utils import canonicalize_name


class _Published(Enum):
    """An enum of the contract; its values are the published numbers."""

    def __str__(self) -> str:
        return str(self.name)

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        return cls(0) if isinstance(value, int) and value != 0 else None


class ImageStatus(_Published):
    """How an image stands between what was asked for and what is in its repository."""

    UNSPECIFIED = 0
    BUILDING_FIRST_TIME = 1
    REBUILDING = 2
    READY = 3
    FAILED = 4
    OUTDATED = 5


class RoleType(_Published):
    """Whom an image belongs to: the platform, or a user."""

    UNSPECIFIED = 0
    SYSTEM = 1
    USER_DEFINED = 2


class PackageType(_Published):
    """The package manager that a system package comes from."""

    UNSPECIFIED = 0
    APT = 1
    ROCKYLINUX = 2


class ReferenceType(_Published):
    """Where a referenced image is to be found."""

    UNSPECIFIED = 0
    RIME_DOCKERHUB = 1
    MANAGED = 2
    EXTERNAL_ECR = 3
    EXTERNAL_GAR = 4


class JobStatus(_Published):
    """The stage of its life that a job has reached."""

    UNSPECIFIED = 0
    PENDING = 1
    RUNNING = 2
    FAILED = 3
    SUCCEEDED = 4
    REQUESTED = 5
    CANCELLED = 6
    RECONCILING = 7


class JobType(_Published):
    """The kind of work that a job does; the registry's own jobs are image builders."""

    UNSPECIFIED = 0
    MODEL_STRESS_TEST = 1
    IMAGE_BUILDER = 2
    FIREWALL_BATCH_TEST = 3
    FILE_SCAN = 5


class TerminationReason(_Published):
    """Why a job ended, or that it hasn't."""

    UNSPECIFIED = 0
    NOT_TERMINATED = 1
    OOMKILLED = 2
    COMPLETED = 3
    GENERIC_ERROR = 4
    INTERNAL_ERROR = 5


@dataclass(frozen=True, slots=True)
class PipRequirement:
    """A library to install: a distribution's name, extras allowed, and a PEP 440 specifier ('' is any version)."""

    name: str
    version_specifier: str = ""

    def __str__(self) -> str:
        return f"{self.name}{self.version_specifier}"


@dataclass(frozen=True, slots=True)
class PackageRequirement:
    """A system package to install, in one exact version of its manager's notation ('' is the newest)."""

    name: str
    version_specifier: str = ""
    package_type: PackageType = PackageType.APT

    def __str__(self) -> str:
        return f"{self.name}={self.version_specifier}" if self.version_specifier else self.name


@dataclass(frozen=True, slots=True)
class PipLibrary:
    """A library that `pip list` shows inside an image."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


@dataclass(frozen=True, slots=True)
class PipLibraryFilter:
    """A condition on installed libraries: a name (compared as PEP 503 says) and, unless None, a version (PEP 440)."""

    name: str
    version: str | None = None

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}=={self.version}"


@dataclass(frozen=True, slots=True)
class ImageReference:
    """Another image: by its registry name if it is managed, else by its full name."""

    name: str
    reference_type: ReferenceType = ReferenceType.UNSPECIFIED


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedImage:
    """An image of the registry: what was asked for, what was built, and how it stands.

    `rime_tag` is the version of the platform that it was built with, `repo_uri` where it is pulled from.
    `child_images`, the images that are built on this one, is filled by `get_image` only.
    """

    name: str
    base_image: ImageReference | None = None
    role_type: RoleType = RoleType.UNSPECIFIED
    child_images: tuple[ImageReference, ...] = ()
    rime_tag: str = ""
    repo_uri: str = ""
    status: ImageStatus = ImageStatus.UNSPECIFIED
    package_requirements: tuple[PackageRequirement, ...] = ()
    pip_requirements: tuple[PipRequirement, ...] = ()
    pip_libraries: tuple[PipLibrary, ...] = ()
    python_version: str = ""

    @property
    def is_building(self) -> bool:
        """Whether a build is under way or waits to begin."""
        return self.status in {ImageStatus.BUILDING_FIRST_TIME, ImageStatus.REBUILDING}

    def library_version(self, name: str) -> str | None:
        """The installed version of a library, whatever the spelling of its name; None if it isn't there."""
        wanted = canonicalize_name(name)
        found = (library.version for library in self.pip_libraries if canonicalize_name(library.name) == wanted)
        return next(found, None)


@dataclass(frozen=True, slots=True)
class LockedLibrary:
    """One wheel of an image's lock; `size` in bytes, `sha256` of the file."""

    name: str
    version: str
    filename: str
    sha256: str
    size: int

    def __str__(self) -> str:
        """As a line of a requirements file that takes this file and no other."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


@dataclass(frozen=True, slots=True)
class ImageLock:
    """What exactly the last good build put into an image: its digest, its base's, and every wheel with its hash."""

    digest: str
    base_digest: str
    libraries: tuple[LockedLibrary, ...]


@dataclass(frozen=True, slots=True)
class ArchivedJobLogs:
    """Where the log of a job that has ended can be read, and until when."""

    url: str
    expiration_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobMetadata:
    """A job: what it is for, how far it has come, how it ended. Times are UTC, durations seconds.

    `job_progress_str` is for people, its wording changes; it is empty unless the full view was asked for.
    `agent_id` is the worker that runs the job or ran it last.
    """

    job_id: str
    status: JobStatus = JobStatus.UNSPECIFIED
    termination_reason: TerminationReason = TerminationReason.UNSPECIFIED
    job_type: JobType = JobType.UNSPECIFIED
    creation_time: datetime | None = None
    start_time: datetime | None = None
    running_time_secs: float = 0.0
    job_progress_str: str = ""
    cancellation_requested: bool = False
    agent_id: str | None = None
    archived_job_logs: ArchivedJobLogs | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the job is over: SUCCEEDED, FAILED or CANCELLED."""
        return self.status in {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}


@dataclass(frozen=True, slots=True)
class CreateImageResult:
    """The new image and the job that builds it."""

    image: ManagedImage
    job: JobMetadata


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image that holds all of what was asked for: the libraries that meet the pip requirements, in their order, and
    how many more it holds."""

    image: ManagedImage
    matching_libraries: tuple[PipLibrary, ...] = ()
    further_libraries: int = 0


@dataclass(frozen=True, slots=True)
class SyncImageTagResult:
    """The image and the job that rebuilds it; None: nothing was to do."""

    image: ManagedImage
    job: JobMetadata | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitProgress:
    """How a build that somebody waits for stands. `elapsed` is seconds since the waiting began.

    `base` and `base_job` are there while the build waits for that of its base image; `outage` while the service
    can't be reached, in which case the rest is what was last seen.
    """

    image: ManagedImage
    job: JobMetadata | None
    elapsed: float
    base: ManagedImage | None = None
    base_job: JobMetadata | None = None
    outage: str = ""
