"""What the service talks about, free of gRPC and SQL. Enum values are the published wire numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, IntEnum
from typing import NamedTuple
from uuid import UUID


class ImageStatus(IntEnum):
    """Where an image is in its life; `lifecycle.py` says which changes are allowed."""

    BUILDING_FIRST_TIME = 1
    REBUILDING = 2
    READY = 3
    FAILED = 4
    OUTDATED = 5


class RoleType(IntEnum):
    """Who an image belongs to: the platform, or a user."""

    SYSTEM = 1
    USER_DEFINED = 2


class PackageType(IntEnum):
    """The package manager of a system package."""

    APT = 1
    ROCKYLINUX = 2


class ReferenceType(IntEnum):
    """Where a referenced image lives; UNSPECIFIED is a place that the contract has no word for."""

    UNSPECIFIED = 0
    RIME_DOCKERHUB = 1
    MANAGED = 2
    EXTERNAL_ECR = 3
    EXTERNAL_GAR = 4


class JobStatus(IntEnum):
    """Where a job is in its life; `lifecycle.py` says which changes are allowed."""

    PENDING = 1
    RUNNING = 2
    FAILED = 3
    SUCCEEDED = 4
    REQUESTED = 5
    CANCELLED = 6
    RECONCILING = 7


class TerminationReason(IntEnum):
    """Why a job ended, or that it hasn't."""

    NOT_TERMINATED = 1
    OOMKILLED = 2
    COMPLETED = 3
    GENERIC_ERROR = 4
    INTERNAL_ERROR = 5


class JobType(IntEnum):
    """The published kinds of job; this service launches image builders only."""

    IMAGE_BUILDER = 2


class JobKind(IntEnum):
    """What a row of the queue does. Only builds are shown by JobReader."""

    BUILD = 1
    DELETE_REPOSITORY = 2


class Priority(IntEnum):
    """Claim order: what a person waits for goes before what the platform does in bulk."""

    INTERACTIVE = 0
    PLATFORM = 1


class Role(Enum):
    """What a caller may do; `api/access.py` has the table."""

    MEMBER = "member"
    ADMIN = "admin"
    SYSTEM = "system"


class PipRequirement(NamedTuple):
    """A library to install: distribution name with optional extras, and a PEP 440 specifier ('' is any version)."""

    name: str
    version_specifier: str = ""


@dataclass(frozen=True, slots=True)
class PackageRequirement:
    """A system package to install; version in its manager's grammar ('' is the newest)."""

    name: str
    version: str
    package_type: PackageType


@dataclass(frozen=True, slots=True)
class PipLibrary:
    """A library that `pip list` shows inside an image."""

    name: str
    version: str


class ImageReference(NamedTuple):
    """Another image by name and the kind of place where it lives."""

    name: str
    reference_type: ReferenceType


@dataclass(frozen=True, slots=True)
class NewImage:
    """A validated wish for an image. `python_version` is one of the supported set."""

    name: str
    python_version: str
    pip_requirements: tuple[PipRequirement, ...] = ()
    package_requirements: tuple[PackageRequirement, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageDefinition:
    """All of a managed image but its status and children: what only a build may change."""

    name: str
    role: RoleType
    python_version: str
    base_image: ImageReference
    repo_uri: str
    platform_tag: str
    pip_requirements: tuple[PipRequirement, ...] = ()
    package_requirements: tuple[PackageRequirement, ...] = ()
    pip_libraries: tuple[PipLibrary, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image as it is kept. `id` is the identity of one life of `name`; `definition` is the encoded
    `ri` message ManagedImage without status and children (see `codec.py`)."""

    id: int
    name: str
    role: RoleType
    status: ImageStatus
    python_version: str
    platform_tag: str
    base_image_id: int | None
    definition: bytes
    child_names: tuple[str, ...] = ()


class BuildLock(NamedTuple):
    """What a build was made of: its manifest's digest, its lock (`builds.plan.Lock` as JSON), and the digest of its
    base. '': not known."""

    digest: str
    lock_file: str
    base_digest: str


class PublishedImage(NamedTuple):
    """What callers see of an image; `definition` as in `StoredImage`."""

    definition: bytes
    status: ImageStatus
    child_names: tuple[str, ...] = ()


class ImagePage(NamedTuple):
    """A page of images, encoded as fields of its answer (`codec.encode_listed`), one or several together, and the name
    that the next page begins behind (None: there is none)."""

    images: Sequence[bytes]
    behind: str | None


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job as it is kept. `id` orders the queue, `uuid` is its public identity, `attempt` fences its worker.

    `definition` is what a build is to make, encoded as in `StoredImage`; empty for other kinds. `creator` is who
    launched it; '' is the service itself, or a caller of a deployment without keys. `traceparent` is the trace that it
    belongs to (W3C Trace Context); '' is none.
    """

    id: int
    uuid: UUID
    kind: JobKind
    image_id: int
    image_name: str
    repository: str
    definition: bytes
    status: JobStatus
    termination_reason: TerminationReason
    attempt: int
    faults: int
    cancel_requested: bool
    progress: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    agent_id: UUID | None
    running_seconds: float
    has_log: bool
    creator: str = ""
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class CreatedImage:
    """What a create is answered: an image that is BUILDING_FIRST_TIME, and its job, which is REQUESTED."""

    definition: bytes
    job_uuid: UUID
    created_at: datetime


@dataclass(frozen=True, slots=True)
class RegistryIdentity:
    """What every replica of one registry shares: its id, and the secret that signs page tokens."""

    id: UUID
    token_secret: bytes


@dataclass(frozen=True, slots=True)
class LibraryFilter:
    """One condition on installed libraries: a PEP 503 name and, if not None, a PEP 440 version."""

    name: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class WantedContents:
    """What an image is to hold to be found; a `python_version` of '' is any."""

    pip_requirements: tuple[PipRequirement, ...] = ()
    package_requirements: tuple[PackageRequirement, ...] = ()
    python_version: str = ""


class FoundImage(NamedTuple):
    """An image that holds what was wanted: the libraries that meet the pip requirements, in their order, and how many
    more it holds. `definition` as in `StoredImage`."""

    definition: bytes
    status: ImageStatus
    matching: tuple[PipLibrary, ...]
    further: int


class Outcome(Enum):
    """How one attempt at a build ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class BuildReport:
    """How one attempt at a build ended: written to the job and, in the same transaction, to its image.

    `progress` is the last line that people read; a failure's cause stands in it in the builder's own words.
    """

    outcome: Outcome
    reason: TerminationReason
    progress: str = ""
    libraries: tuple[PipLibrary, ...] = ()
    digest: str = ""
    base_digest: str = ""
    lock_file: str = ""
