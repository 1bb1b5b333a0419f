"""What a request for a page asks: where the page starts, how long it is, what it filters by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import jobs_pb2

from image_registry import limits
from image_registry.api.tokens import PageTokens, bad_token
from image_registry.api.validation import Faults, view_fault
from image_registry.errors import RegistryError
from image_registry.models import JobStatus, JobType, LibraryFilter
from image_registry.requirements import (
    filter_name_fault,
    filter_version_fault,
    library_key,
    text_fault,
    version_key,
)


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """The page of `size` images behind the name `after` that meet all `filters`, which are in canonical form."""

    after: str
    size: int
    filters: tuple[LibraryFilter, ...]

    def token(self, tokens: PageTokens, last: str) -> str:
        """The token of the page behind the name `last`."""
        return tokens.make(last, [[one.name, one.version] for one in self.filters])


@dataclass(frozen=True, slots=True)
class JobQuery:
    """The page of `size` jobs older than the job `before` (None: from the newest on); empty conditions are none."""

    before: int | None
    size: int
    full: bool
    statuses: tuple[JobStatus, ...]
    types: tuple[int, ...]
    image_name: str | None

    @property
    def finds_nothing(self) -> bool:
        """Only types were asked for that this service doesn't launch."""
        return bool(self.types) and JobType.IMAGE_BUILDER not in self.types

    def token(self, tokens: PageTokens, last: int) -> str:
        """The token of the page behind the job `last`."""
        return tokens.make(last, [list(self.statuses), list(self.types), self.image_name])


def image_query(request: pb.ListImagesRequest, tokens: PageTokens) -> ImageQuery:
    """Raises RegistryError INVALID_REQUEST with every fault, INVALID_PAGE_TOKEN if the token is the only one."""
    faults = Faults()
    size = _page_size(request.page_size, faults)
    filters = _filters(request.pip_libraries, faults)
    if not request.page_token:
        faults.stop()
        return ImageQuery("", size, filters)
    after, kept = _read_token(tokens, request.page_token, faults)
    of_token = tuple(LibraryFilter(name, version) for name, version in kept)
    if filters and filters != of_token:
        raise bad_token("it was made for another filter than the one beside it")
    return ImageQuery(after, size, of_token)


def job_query(request: jobs_pb2.ListJobsRequest, tokens: PageTokens) -> JobQuery:
    """Raises RegistryError INVALID_REQUEST with every fault, INVALID_PAGE_TOKEN if the token is the only one."""
    faults = Faults()
    size = _page_size(request.page_size, faults)
    faults.add("view", view_fault(request.view))
    full = request.view == jobs_pb2.JOB_VIEW_FULL
    if request.page_token:
        before, (status_numbers, types, image_name) = _read_token(tokens, request.page_token, faults)
        statuses = tuple(JobStatus(number) for number in status_numbers)
        return JobQuery(before, size, full, statuses, tuple(types), image_name)
    wanted = request.first_page_query
    where = "firstPageQuery"
    numbers = _enum(faults, f"{where}.selectedStatuses", wanted.selected_statuses, set(JobStatus), "status")
    known_types = set(jobs_pb2.JobType.values()) - {jobs_pb2.JOB_TYPE_UNSPECIFIED}
    types = _enum(faults, f"{where}.selectedTypes", wanted.selected_types, known_types, "type")
    object_id = wanted.object_id if wanted.HasField("object_id") else None
    if object_id is not None:
        faults.add(f"{where}.objectId", text_fault(object_id) if object_id else "must be an image's name, or absent")
    faults.stop()
    return JobQuery(None, size, full, tuple(JobStatus(number) for number in numbers), types, object_id)


def _page_size(value: int, faults: Faults) -> int:
    if value < 0:
        faults.add(
            "pageSize",
            f"must not be negative: 0 is {limits.DEFAULT_PAGE}, more than {limits.LARGEST_PAGE:,} are cut to that",
        )
    return min(value, limits.LARGEST_PAGE) or limits.DEFAULT_PAGE


def _filters(wanted: Sequence[pb.ListImagesRequest.PipLibraryFilter], faults: Faults) -> tuple[LibraryFilter, ...]:
    """The conditions, sorted and spelt the same whatever their order and spelling, so that equal ones are equal."""
    sound: set[tuple[str, str | None]] = set()
    for number, one in enumerate(faults.bounded("pipLibraries", wanted, limits.FILTERS)):
        version = one.version if one.HasField("version") else None
        name_fault, version_fault = filter_name_fault(one.name), filter_version_fault(version)
        faults.add(f"pipLibraries[{number}].name", name_fault)
        faults.add(f"pipLibraries[{number}].version", version_fault)
        if name_fault is None and version_fault is None:
            sound.add((library_key(one.name), _canonical_version(version)))
    ordered = sorted(sound, key=lambda pair: (pair[0], pair[1] is not None, pair[1] or ""))
    return tuple(LibraryFilter(name, version) for name, version in ordered)


def _canonical_version(version: str | None) -> str | None:
    if version is None:
        return None
    public, local = version_key(version)
    return f"{public}+{local}" if local else public


def _enum(faults: Faults, where: str, values: Sequence[int], known: Iterable[int], word: str) -> tuple[int, ...]:
    """The distinct values of an enum's list, in order: enums are open, so any number can come."""
    listed = faults.bounded(where, values, limits.QUERY_VALUES)
    for number, value in enumerate(listed):
        faults.add(f"{where}[{number}]", None if value in known else f"must be a {word} that a job can have")
    return tuple(sorted({int(value) for value in listed}))


def _read_token(tokens: PageTokens, token: str, faults: Faults) -> tuple[Any, Any]:
    try:
        content = tokens.read(token)
    except RegistryError as error:
        if not faults.found:
            raise
        for fault in error.faults:
            faults.add(fault.field, fault.description)
        content = None, None
    faults.stop()
    return content
