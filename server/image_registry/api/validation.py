"""Checks requests against every rule and reports all faults at once. Pure functions, no I/O.

Field paths are those of the JSON form; each fault says what would be right. The grammar is in `requirements.py`,
what concerns pages in `page_queries.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar
from uuid import UUID

from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import jobs_pb2
from ri.api.imageregistry.image_finder_pb2 import FindImagesRequest

from image_registry import limits
from image_registry import requirements as rules
from image_registry.api.request_ids import REQUEST_ID_HEADER
from image_registry.errors import Fault, invalid
from image_registry.models import NewImage, PackageRequirement, PackageType, PipLibrary, PipRequirement, WantedContents

T = TypeVar("T")
_WithRequirements = pb.CreateImageRequest | FindImagesRequest

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_REQUEST_ID = re.compile(rf"[!-~]{{1,{limits.REQUEST_ID}}}")
_PYTHON = re.compile(r"[1-9][0-9]?\.(?:0|[1-9][0-9]{0,2})", re.ASCII)
_UUID_FAULT = "must be a job's id, such as 0198c0de-0000-7000-8000-000000000000"


class Faults:
    """Collects what is wrong with one request."""

    def __init__(self) -> None:
        self.found: list[Fault] = []

    def add(self, field: str, description: str | None) -> None:
        """Note a fault; None: there is none."""
        if description is not None:
            self.found.append(Fault(field, description))

    def add_if_repeated(self, field: str, number: int, key: str, seen: dict[str, int], shown: str) -> None:
        """Note a second entry with the `key` of an earlier one. `field` names both, with {} for an entry's number;
        `seen` maps keys to those numbers."""
        first = seen.setdefault(key, number)
        if first != number:
            self.add(
                field.format(number),
                f"names {shown} again, which {field.format(first)} names already: keep one of the two",
            )

    def bounded(self, field: str, items: Sequence[T], limit: int) -> list[T]:
        """The items, of which too many are a fault; those beyond the limit aren't looked at."""
        if len(items) > limit:
            self.add(field, f"must hold at most {limit} entries")
        return list(items[:limit])

    def stop(self) -> None:
        """Raises RegistryError INVALID_REQUEST with every fault, if there is one."""
        if self.found:
            raise invalid(self.found)


@dataclass(frozen=True, slots=True)
class Accepts:
    """What this deployment takes: Python versions (oldest first), the default one, the bases' package manager,
    and the path in front of an image's name in its repository."""

    python_versions: tuple[str, ...]
    default_python: str
    package_type: PackageType
    repository_prefix: str


def new_image(request: pb.CreateImageRequest, accepts: Accepts, request_ids: Sequence[str] = ()) -> NewImage:
    """The validated wish; `request_ids` are the values of `x-request-id` beside it.

    Raises RegistryError INVALID_REQUEST with every fault.
    """
    faults = Faults()
    faults.add(REQUEST_ID_HEADER, request_id_fault(request_ids))
    faults.add("name", rules.image_name_fault(request.name, accepts.repository_prefix + "/"))
    if not request.pip_requirements and not request.package_requirements:
        faults.add("pipRequirements", "must hold at least one requirement, or packageRequirements must")
    pips = _pip_requirements(request, faults)
    packages = _package_requirements(request, accepts.package_type, faults)
    version = request.python_version or accepts.default_python
    if version not in accepts.python_versions:
        why = "this deployment has base images for no other (IMAGE_REGISTRY_BASE_IMAGES)"
        faults.add("pythonVersion", f"must be one of {', '.join(accepts.python_versions)}, or empty: {why}")
    faults.stop()
    return NewImage(request.name, version, tuple(pips), tuple(packages))


def wanted_contents(request: FindImagesRequest, accepts: Accepts) -> tuple[WantedContents, int]:
    """What images are to hold, and how many are wanted. Raises RegistryError INVALID_REQUEST with every fault."""
    faults = Faults()
    if not request.pip_requirements and not request.package_requirements:
        faults.add("pipRequirements", "must hold at least one requirement, or packageRequirements must")
    pips = _pip_requirements(request, faults)
    packages = _package_requirements(request, accepts.package_type, faults)
    if request.python_version and not _PYTHON.fullmatch(request.python_version):
        faults.add("pythonVersion", "must be X.Y, such as 3.11, or empty for any")
    if request.max_results < 0:
        cut = f"more than {limits.MOST_FOUND_IMAGES} are cut to that"
        faults.add("maxResults", f"must not be negative: 0 is {limits.FOUND_IMAGES}, {cut}")
    faults.stop()
    most = min(request.max_results, limits.MOST_FOUND_IMAGES) or limits.FOUND_IMAGES
    return WantedContents(tuple(pips), tuple(packages), request.python_version), most


def request_id_fault(sent: Sequence[str]) -> str | None:
    """What is wrong with the ids that a request carries; none is fine."""
    if not sent or (len(sent) == 1 and _REQUEST_ID.fullmatch(sent[0])):
        return None
    return f"must be one id of 1 to {limits.REQUEST_ID} printable ASCII characters without blanks, such as a UUID"


def image_name(name: str) -> str:
    """A name that an image could have. Raises RegistryError INVALID_REQUEST."""
    fault = rules.text_fault(name) if name else "must name an image"
    if fault is not None:
        raise invalid([Fault("name", fault)])
    return name


def job_id(text: str) -> UUID:
    """A job's id. Raises RegistryError INVALID_REQUEST."""
    faults = Faults()
    faults.add("jobId", job_id_fault(text))
    faults.stop()
    return UUID(text)


def job_query(request: jobs_pb2.GetJobRequest) -> tuple[UUID, bool]:
    """A job's id, and whether its FULL view is wanted. Raises RegistryError INVALID_REQUEST with every fault."""
    faults = Faults()
    faults.add("jobId", job_id_fault(request.job_id))
    faults.add("view", view_fault(request.view))
    faults.stop()
    return UUID(request.job_id), request.view == jobs_pb2.JOB_VIEW_FULL


def job_id_fault(text: str) -> str | None:
    """What is wrong with a job's id."""
    return None if _UUID.fullmatch(text) else _UUID_FAULT


def view_fault(view: int) -> str | None:
    """What is wrong with a view: enums are open, so any number can come."""
    return None if view in jobs_pb2.JobView.values() else "must be JOB_VIEW_BASIC or JOB_VIEW_FULL"


def reported_libraries(request: pb.UpdateBuildInfoRequest) -> tuple[PipLibrary, ...]:
    """The libraries of a reported build. Raises RegistryError INVALID_REQUEST with every fault, also the name's."""
    faults = Faults()
    faults.add("name", rules.text_fault(request.name) if request.name else "must name an image")
    seen: dict[str, int] = {}
    libraries = faults.bounded("pipLibraries", request.pip_libraries, limits.REPORTED_LIBRARIES)
    for number, library in enumerate(libraries):
        where = f"pipLibraries[{number}]"
        name_fault = rules.filter_name_fault(library.name)
        faults.add(f"{where}.name", name_fault)
        version_fault = rules.text_fault(library.version) if library.version else "must be what pip list shows"
        faults.add(f"{where}.version", version_fault)
        if name_fault is None:
            key = rules.library_key(library.name)
            faults.add_if_repeated("pipLibraries[{}].name", number, key, seen, library.name)
    faults.stop()
    return tuple(PipLibrary(library.name, library.version) for library in libraries)


def _pip_requirements(request: _WithRequirements, faults: Faults) -> list[PipRequirement]:
    wanted = faults.bounded("pipRequirements", request.pip_requirements, limits.REQUIREMENTS)
    seen: dict[str, int] = {}
    found: list[PipRequirement] = []
    for number, one in enumerate(wanted):
        name, specifier = one.name, one.version_specifier
        kept = len(name) <= limits.FIELD and len(specifier) <= limits.FIELD
        requirement, name_fault, specifier_fault, key = (_judge if kept else _judge.__wrapped__)(name, specifier)
        found.append(requirement)
        if name_fault is None and specifier_fault is None and seen.setdefault(key, number) == number:
            continue
        faults.add(f"pipRequirements[{number}].name", name_fault)
        faults.add(f"pipRequirements[{number}].versionSpecifier", specifier_fault)
        if name_fault is None:
            shown = name.partition("[")[0].strip()
            faults.add_if_repeated("pipRequirements[{}].name", number, key, seen, shown)
    return found


@lru_cache(2048)  # the same few are sent again and again; longer texts than are allowed aren't kept
def _judge(name: str, specifier: str) -> tuple[PipRequirement, str | None, str | None, str]:
    """The requirement, what is wrong with its name and its specifier, and the name as others compare it."""
    name_fault = rules.pip_name_fault(name)
    key = rules.library_key(name.partition("[")[0].strip()) if name_fault is None else ""
    return PipRequirement(name, specifier), name_fault, rules.pip_specifier_fault(specifier), key


def _package_requirements(
    request: _WithRequirements, accepted: PackageType, faults: Faults
) -> list[PackageRequirement]:
    wanted = faults.bounded("packageRequirements", request.package_requirements, limits.REQUIREMENTS)
    seen: dict[str, int] = {}
    for number, one in enumerate(wanted):
        where = f"packageRequirements[{number}]"
        number_of_type = int(one.package_type)  # enums are open: any number can come
        kind = PackageType(number_of_type) if number_of_type in set(PackageType) else accepted
        name_fault = rules.package_name_fault(one.name, kind)
        faults.add(f"{where}.name", name_fault)
        faults.add(f"{where}.versionSpecifier", rules.package_version_fault(one.version_specifier, kind))
        if number_of_type != accepted:
            faults.add(
                f"{where}.packageType",
                f"must be PACKAGE_TYPE_{accepted.name}: the base images of this deployment take no other",
            )
        if name_fault is None:
            faults.add_if_repeated("packageRequirements[{}].name", number, one.name, seen, one.name)
    return [PackageRequirement(one.name, one.version_specifier, accepted) for one in wanted]
