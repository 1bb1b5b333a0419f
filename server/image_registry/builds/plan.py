"""What to build, what came of it, and why it failed: plain values that travel as JSON between processes.

A plan holds credentials of package indexes and registries: it goes through pipes, never through a command line, and
the parts that hold secrets don't show in `repr`.
"""

from __future__ import annotations

import json
import platform
import re
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from image_registry.builds.packages.wanted import Confinement, SystemPackages

_PYTHON = re.compile(r"3\.\d{1,2}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")  # OCI distribution specification, "Pulling manifests"
_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}

GIB = 1024**3


class Stage(StrEnum):
    """The parts of a build, in their order. `record` is the caller's: storing the result."""

    PACKAGES = "packages"
    RESOLVE = "resolve"
    FETCH = "fetch"
    LAYER = "layer"
    PUSH = "push"
    RECORD = "record"


class FailureReason(StrEnum):
    """Why a build failed, which decides whether it is tried again and what its image's owner is told."""

    USER_ERROR = "USER_ERROR"
    """The requirements can't be met; the message says why in words for the person who wrote them."""
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    RETRYABLE = "RETRYABLE"
    """A fault of the network, an index, a registry or a disk that may be gone at the next attempt."""
    INTERNAL = "INTERNAL"


class BuildFailed(Exception):  # noqa: N818 (an outcome, as BuildResult is)
    """A build ended without an image.

    `message` is one sentence or a resolver's explanation, free of credentials and of index addresses; `stage` is
    None when the build had not begun or its process was lost.
    """

    def __init__(self, reason: FailureReason, message: str, stage: Stage | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.stage = stage


def user_error(message: str) -> NoReturn:
    """Raise BuildFailed: the person who asked for the image has to change something."""
    raise BuildFailed(FailureReason.USER_ERROR, message)


def retryable(message: str, cause: BaseException | None = None) -> NoReturn:
    """Raise BuildFailed: the same attempt may succeed later."""
    raise BuildFailed(FailureReason.RETRYABLE, message) from cause


def internal(message: str, cause: BaseException | None = None) -> NoReturn:
    """Raise BuildFailed: the service, its configuration or its base image has to change."""
    raise BuildFailed(FailureReason.INTERNAL, message) from cause


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one build may use; passing a limit ends the build, never the worker."""

    seconds: float = 1800.0
    """Time for all stages."""
    memory_bytes: int = 1 * GIB
    """Private memory of each of the build's processes (RLIMIT_DATA)."""
    unpacked_bytes: int = 24 * GIB
    """All files of all libraries, unpacked."""
    files: int = 1_000_000
    """Number of files of all libraries."""
    requirements: int = 1000
    """Number of requirements."""


@dataclass(frozen=True, kw_only=True)
class PackageIndex:
    """Where libraries come from. Addresses may hold credentials (`https://user:password@host/simple`)."""

    url: str = field(default="https://pypi.org/simple", repr=False)
    extra_urls: tuple[str, ...] = field(default=(), repr=False)
    """Asked before `url`; the first index that knows a name is the only one used for it."""
    ca_bundle: Path | None = None
    """PEM file of the certificate authorities to trust for indexes instead of the machine's own."""


@dataclass(frozen=True, kw_only=True)
class RegistryAccess:
    """How to talk to one container registry."""

    host: str
    """Host name and port as in references, such as `registry.example:5000`."""
    username: str = ""
    password: str = field(default="", repr=False)
    expires: float = 0.0
    """Time (of `time.time`) from which the password is worthless; 0: no such time is known."""
    endpoint: str = ""
    """Where the registry really is, such as `http://localhost:5000`; empty: `https://` and the host."""
    ca_bundle: Path | None = None
    """PEM file of certificate authorities to trust besides the machine's own."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RegistryAccess:
        """Read what became of one in a plan's JSON. Raises TypeError for anything else."""
        ca_bundle = values["ca_bundle"]
        return cls(**{**values, "ca_bundle": Path(ca_bundle) if ca_bundle else None})


@dataclass(frozen=True, kw_only=True)
class LockedLibrary:
    """One wheel of a lock: what exactly was, or will be, put into an image."""

    name: str
    """Normalised as PEP 503 says."""
    version: str
    filename: str
    sha256: str
    size: int
    """Of the wheel, in bytes."""

    @property
    def hashes(self) -> tuple[str, ...]:
        """The hashes in the form of pip's `--hash`."""
        return (f"sha256:{self.sha256}",)


@dataclass(frozen=True, kw_only=True)
class Lock:
    """All wheels of an image's own libraries, and the question that they answer.

    `context` is a digest of everything that the answer depends on except time: requirements, Python version,
    platform, libc, the libraries fixed by the base image. A lock is used again only if the context is the same.
    """

    context: str
    libraries: tuple[LockedLibrary, ...]


@dataclass(frozen=True, kw_only=True)
class Library:
    """A library as `pip list` shows it."""

    name: str
    version: str


def host_platform() -> str:
    """The platform of this machine in the form `linux/amd64`."""
    machine = platform.machine().lower()
    return f"linux/{_ARCHITECTURES.get(machine, machine)}"


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """One build of one image.

    `image_id` identifies the image's *life*: a name that was deleted and created again has another one, and what
    belongs to one life is never touched by a build or a deletion of another.
    `requirements` are `name[extras]specifier`; none of them means: the base image under a new name.
    `destination` is `oci:/absolute/dir` (one OCI image layout per repository) within `destination_root`, or
    `registry.host/repository`, for which `destination_root` is the `registry.host/prefix` that must not be left.
    Nothing outside `cache_dir` (shared by all builds of the machine), `work_dir` (a folder of its own in it is made
    and removed) and the destination is written.
    `lock` is the lock of the image's last good build: where it still fits, nothing is resolved anew.
    `packages` are installed on the base first, within `confinement`.

    Raises ValueError for values that can't be right whoever asks. Requirements are judged by the build itself.
    """

    image_id: str
    python_version: str
    base: str
    requirements: tuple[str, ...]
    destination: str
    destination_root: str
    tags: tuple[str, ...]
    cache_dir: Path
    work_dir: Path
    cache_limit_bytes: int = 20 * GIB
    platform: str = field(default_factory=host_platform)
    index: PackageIndex = PackageIndex()
    registries: tuple[RegistryAccess, ...] = ()
    limits: Limits = Limits()
    lock: Lock | None = None
    packages: SystemPackages | None = None
    confinement: Confinement = field(default_factory=Confinement)

    def __post_init__(self) -> None:
        if not self.image_id:
            raise ValueError("image_id is empty")
        if not _PYTHON.fullmatch(self.python_version):
            raise ValueError(f"python_version {self.python_version!r} is not X.Y")
        system, _, architecture = self.platform.partition("/")
        if system != "linux" or architecture not in _ARCHITECTURES.values():
            raise ValueError(f"platform {self.platform!r} is neither linux/amd64 nor linux/arm64")
        if not self.tags or not all(_TAG.fullmatch(tag) for tag in self.tags):
            raise ValueError(f"tags {self.tags!r}: at least one, each a registry tag")
        for folder in (self.cache_dir, self.work_dir):
            if not folder.is_absolute():
                raise ValueError(f"{folder} is not an absolute path")
        for url in (self.index.url, *self.index.extra_urls):
            if urlsplit(url).scheme not in {"http", "https"}:
                raise ValueError("a package index address is neither http: nor https:")

    @property
    def architecture(self) -> str:
        """`amd64` or `arm64`."""
        return self.platform.partition("/")[2]

    def to_json(self) -> str:
        """Return the plan as one line of JSON. It holds secrets."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> BuildPlan:
        """Read what `to_json` wrote. Raises ValueError, KeyError or TypeError for anything else."""
        values: dict[str, Any] = json.loads(text)
        index = values["index"]
        ca_bundle = index["ca_bundle"]
        values |= {
            "requirements": tuple(values["requirements"]),
            "tags": tuple(values["tags"]),
            "cache_dir": Path(values["cache_dir"]),
            "work_dir": Path(values["work_dir"]),
            "index": PackageIndex(
                url=index["url"],
                extra_urls=tuple(index["extra_urls"]),
                ca_bundle=Path(ca_bundle) if ca_bundle else None,
            ),
            "registries": tuple(RegistryAccess.from_json(access) for access in values["registries"]),
            "limits": Limits(**values["limits"]),
            "lock": lock_from_json(values["lock"]) if values["lock"] else None,
            "packages": SystemPackages.from_json(values["packages"]) if values["packages"] else None,
            "confinement": Confinement.from_json(values["confinement"]),
        }
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """A finished image.

    `libraries` equals `pip list` of the image's Python, sorted by normalised name. `stages` holds each stage and its
    seconds. `base_digest` is the digest of the base's manifest for the plan's platform.
    """

    digest: str
    base_digest: str
    python_version: str
    libraries: tuple[Library, ...]
    lock: Lock
    stages: tuple[tuple[Stage, float], ...]
    layers_made: int = 0
    """Layers on top of the base that the cache did not have."""
    layers_reused: int = 0
    """Those that it had."""

    def to_json(self) -> str:
        """Return the result as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> BuildResult:
        """Read what `to_json` wrote. Raises ValueError, KeyError or TypeError for anything else."""
        values: dict[str, Any] = json.loads(text)
        values |= {
            "libraries": tuple(Library(**library) for library in values["libraries"]),
            "lock": lock_from_json(values["lock"]),
            "stages": tuple((Stage(stage), float(seconds)) for stage, seconds in values["stages"]),
        }
        return cls(**values)


def lock_from_json(values: dict[str, Any]) -> Lock:
    """Turn a lock's decoded JSON back into a Lock. Raises KeyError or TypeError for anything else."""
    return Lock(
        context=values["context"],
        libraries=tuple(LockedLibrary(**library) for library in values["libraries"]),
    )
