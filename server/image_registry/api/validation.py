"""Checks requests against every rule and reports all faults at once. Pure functions, no I/O.

Field paths are those of the JSON form; each fault says what would be right. The grammar is in `requirements.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from ri.api.imageregistry import image_registry_pb2 as pb

from image_registry import requirements as rules
from image_registry.errors import Fault, invalid
from image_registry.models import (
    LibraryFilter,
    NewImage,
    PackageRequirement,
    PackageType,
    PipLibrary,
    PipRequirement,
)

DEFAULT_PAGE = 50
LARGEST_PAGE = 1000
T = TypeVar("T")

LIBRARY_LIMIT = 5_000  # libraries in one build report


@dataclass(frozen=True, slots=True)
class Accepts:
    """What this deployment takes: Python versions (oldest first), the default one, the bases' package manager,
    and the path in front of an image's name in its repository."""

    python_versions: tuple[str, ...]
    default_python: str
    package_type: PackageType
    repository_prefix: str


def new_image(request: pb.CreateImageRequest, accepts: Accepts) -> NewImage:
    """The validated wish. Raises RegistryError INVALID_REQUEST with every fault."""
    faults: list[Fault] = []
    _check(faults, "name", rules.image_name_fault(request.name, accepts.repository_prefix + "/"))
    if not request.pip_requirements and not request.package_requirements:
        faults.append(Fault("pipRequirements", "must hold at least one requirement, or packageRequirements must"))
    pips = _pip_requirements(request, faults)
    packages = _package_requirements(request, accepts, faults)
    version = request.python_version or accepts.default_python
    if version not in accepts.python_versions:
        faults.append(Fault("pythonVersion", f"must be one of {', '.join(accepts.python_versions)}, or empty"))
    _stop_if(faults)
    return NewImage(request.name, version, tuple(pips), tuple(packages))


def image_name(name: str) -> str:
    """A name that an image could have. Raises RegistryError INVALID_REQUEST."""
    fault = "must name an image" if not name else None
    if len(name) > rules.REPOSITORY_NAME_LIMIT:
        fault = f"must have at most {rules.REPOSITORY_NAME_LIMIT} characters"
    _stop_if([Fault("name", fault)] if fault else [])
    return name


def page_size(value: int) -> int:
    """The page size with its default and its cap. Raises RegistryError INVALID_REQUEST for a negative one."""
    if value < 0:
        raise invalid([Fault("pageSize", f"must be 0 (for {DEFAULT_PAGE}) to {LARGEST_PAGE}")])
    return min(value, LARGEST_PAGE) or DEFAULT_PAGE


def library_filters(request: pb.ListImagesRequest) -> list[LibraryFilter]:
    """The conditions on libraries. Raises RegistryError INVALID_REQUEST with every fault."""
    faults: list[Fault] = []
    if len(request.pip_libraries) > rules.FILTER_LIMIT:
        faults.append(Fault("pipLibraries", f"must hold at most {rules.FILTER_LIMIT} filters"))
    filters = []
    for number, wanted in enumerate(request.pip_libraries[: rules.FILTER_LIMIT]):
        version = wanted.version if wanted.HasField("version") else None
        _check(faults, f"pipLibraries[{number}].name", rules.filter_name_fault(wanted.name))
        _check(faults, f"pipLibraries[{number}].version", rules.filter_version_fault(version))
        filters.append(LibraryFilter(wanted.name, version))
    _stop_if(faults)
    return filters


def job_id(text: str) -> UUID:
    """A job's id. Raises RegistryError INVALID_REQUEST."""
    try:
        return UUID(text)
    except ValueError:
        raise invalid([Fault("jobId", "must be a job's id, such as 0198c0de-0000-7000-8000-000000000000")]) from None


def reported_libraries(request: pb.UpdateBuildInfoRequest) -> tuple[PipLibrary, ...]:
    """The libraries of a reported build. Raises RegistryError INVALID_REQUEST with every fault."""
    faults: list[Fault] = []
    if len(request.pip_libraries) > LIBRARY_LIMIT:
        faults.append(Fault("pipLibraries", f"must hold at most {LIBRARY_LIMIT} libraries"))
    seen: dict[str, int] = {}
    for number, library in enumerate(request.pip_libraries[:LIBRARY_LIMIT]):
        where = f"pipLibraries[{number}]"
        _check(faults, f"{where}.name", rules.filter_name_fault(library.name))
        if not library.version:
            faults.append(Fault(f"{where}.version", "must be the version that pip list shows"))
        _check(faults, f"{where}.version", rules.text_fault(library.version))
        _check_twice(faults, f"{where}.name", rules.library_key(library.name), seen, number, "pipLibraries")
    _stop_if(faults)
    return tuple(PipLibrary(library.name, library.version) for library in request.pip_libraries)


def _pip_requirements(request: pb.CreateImageRequest, faults: list[Fault]) -> list[PipRequirement]:
    wanted = _bounded(faults, "pipRequirements", list(request.pip_requirements))
    seen: dict[str, int] = {}
    for number, one in enumerate(wanted):
        where = f"pipRequirements[{number}]"
        name_fault = rules.pip_name_fault(one.name)
        _check(faults, f"{where}.name", name_fault)
        _check(faults, f"{where}.versionSpecifier", rules.pip_specifier_fault(one.version_specifier))
        if name_fault is None:
            key = rules.library_key(one.name.partition("[")[0].strip())
            _check_twice(faults, f"{where}.name", key, seen, number, "pipRequirements")
    return [PipRequirement(one.name, one.version_specifier) for one in wanted]


def _package_requirements(
    request: pb.CreateImageRequest, accepts: Accepts, faults: list[Fault]
) -> list[PackageRequirement]:
    wanted = _bounded(faults, "packageRequirements", list(request.package_requirements))
    seen: dict[str, int] = {}
    packages = []
    for number, one in enumerate(wanted):
        where = f"packageRequirements[{number}]"
        if int(one.package_type) != accepts.package_type:
            faults.append(
                Fault(
                    f"{where}.packageType",
                    f"must be PACKAGE_TYPE_{accepts.package_type.name}: the base images here take no other",
                )
            )
        kind = PackageType(one.package_type) if int(one.package_type) in set(PackageType) else accepts.package_type
        name_fault = rules.package_name_fault(one.name, kind)
        _check(faults, f"{where}.name", name_fault)
        _check(faults, f"{where}.versionSpecifier", rules.package_version_fault(one.version_specifier, kind))
        if name_fault is None:
            _check_twice(faults, f"{where}.name", one.name, seen, number, "packageRequirements")
        packages.append(PackageRequirement(one.name, one.version_specifier, kind))
    return packages


def _bounded(faults: list[Fault], where: str, items: list[T]) -> list[T]:
    if len(items) > rules.REQUIREMENT_LIMIT:
        faults.append(Fault(where, f"must hold at most {rules.REQUIREMENT_LIMIT} requirements"))
    return items[: rules.REQUIREMENT_LIMIT]


def _check(faults: list[Fault], where: str, fault: str | None) -> None:
    if fault:
        faults.append(Fault(where, fault))


def _check_twice(faults: list[Fault], where: str, key: str, seen: dict[str, int], number: int, listing: str) -> None:
    first = seen.setdefault(key, number)
    if first != number:
        faults.append(Fault(where, f"names {key} again, which {listing}[{first}] names already: keep one of the two"))


def _stop_if(faults: list[Fault]) -> None:
    if faults:
        raise invalid(faults)
