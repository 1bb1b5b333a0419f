"""The service's calls as values: what is sent, how the answer is read, and whether it may be sent again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from ri.api.imageregistry import image_finder_pb2, image_lock_pb2, job_logs_pb2, job_status_pb2, jobs_pb2
from ri.api.imageregistry import image_registry_pb2 as pb

from image_registry.client import convert
from image_registry.client.models import (
    CreateImageResult,
    FoundImage,
    ImageLock,
    JobMetadata,
    JobStatus,
    ManagedImage,
    PackageRequirement,
    PipLibrary,
    PipLibraryFilter,
    PipRequirement,
    SyncImageTagResult,
)

T = TypeVar("T")
REQUEST_ID = "x-request-id"
READ_JOB_LOGS = "/rime.JobLogs/ReadJobLogs"


class Safety(Enum):
    """What a second sending of the same call does."""

    REPEATABLE = "nothing that the first didn't do"
    ONCE = "perhaps something more"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One unary call: full method name, request, how the encoded answer becomes a value, and its own metadata."""

    method: str
    request: Message
    read: Callable[[bytes], T]
    safety: Safety
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a listing; no token: it is the last one."""

    items: tuple[T, ...]
    next_page_token: str


def create_image(
    name: str,
    pips: Iterable[PipRequirement],
    packages: Iterable[PackageRequirement],
    python_version: str,
    request_id: str,
) -> Call[CreateImageResult]:
    """CreateImage, which its id makes idempotent."""
    request = pb.CreateImageRequest(
        name=name,
        pip_requirements=[convert.pip_requirement_message(pip) for pip in pips],
        package_requirements=[convert.package_requirement_message(package) for package in packages],
        python_version=python_version,
    )

    def read(data: bytes) -> CreateImageResult:
        answer = pb.CreateImageResponse.FromString(data)
        return CreateImageResult(convert.image_from(answer.image), convert.job_from(answer.job))

    metadata = ((REQUEST_ID, request_id),)
    return Call("/rime.ImageRegistry/CreateImage", request, read, Safety.REPEATABLE, metadata)


def find_images(
    pips: Iterable[PipRequirement], packages: Iterable[PackageRequirement], python_version: str, max_results: int
) -> Call[list[FoundImage]]:
    """FindImages."""
    request = image_finder_pb2.FindImagesRequest(
        pip_requirements=[convert.pip_requirement_message(pip) for pip in pips],
        package_requirements=[convert.package_requirement_message(package) for package in packages],
        python_version=python_version,
        max_results=max_results,
    )

    def read(data: bytes) -> list[FoundImage]:
        return [convert.found_from(found) for found in image_finder_pb2.FindImagesResponse.FromString(data).images]

    return Call("/rime.ImageFinder/FindImages", request, read, Safety.REPEATABLE)


def get_image(name: str) -> Call[ManagedImage]:
    """GetImage."""

    def read(data: bytes) -> ManagedImage:
        return convert.image_from(pb.GetImageResponse.FromString(data).image)

    return Call("/rime.ImageRegistry/GetImage", pb.GetImageRequest(name=name), read, Safety.REPEATABLE)


def get_image_lock(name: str) -> Call[ImageLock]:
    """GetImageLock."""

    def read(data: bytes) -> ImageLock:
        return convert.lock_from(image_lock_pb2.GetImageLockResponse.FromString(data))

    request = image_lock_pb2.GetImageLockRequest(name=name)
    return Call("/rime.ImageLocks/GetImageLock", request, read, Safety.REPEATABLE)


def list_images(filters: Iterable[PipLibraryFilter], page_size: int, page_token: str) -> Call[Page[ManagedImage]]:
    """ListImages: one page. The token carries the filter."""
    conditions = [] if page_token else [convert.filter_message(one) for one in filters]
    request = pb.ListImagesRequest(page_token=page_token, page_size=page_size, pip_libraries=conditions)

    def read(data: bytes) -> Page[ManagedImage]:
        answer = pb.ListImagesResponse.FromString(data)
        return Page(tuple(map(convert.image_from, answer.images)), _next(answer.next_page_token, page_token))

    return Call("/rime.ImageRegistry/ListImages", request, read, Safety.REPEATABLE)


def delete_image(name: str) -> Call[None]:
    """DeleteImage."""
    return Call("/rime.ImageRegistry/DeleteImage", pb.DeleteImageRequest(name=name), _nothing, Safety.ONCE)


def ensure_image_existence() -> Call[None]:
    """EnsureImageExistence, which is idempotent."""
    request = pb.EnsureImageExistenceRequest()
    return Call("/rime.ImageRegistry/EnsureImageExistence", request, _nothing, Safety.REPEATABLE)


def sync_image_tag(name: str, *, force: bool) -> Call[SyncImageTagResult]:
    """SyncImageTag, which is idempotent unless it is forced."""

    def read(data: bytes) -> SyncImageTagResult:
        answer = pb.SyncImageTagResponse.FromString(data)
        job = convert.job_from(answer.job) if answer.HasField("job") else None
        return SyncImageTagResult(convert.image_from(answer.image), job)

    safety = Safety.ONCE if force else Safety.REPEATABLE
    return Call("/rime.ImageRegistry/SyncImageTag", pb.SyncImageTagRequest(name=name, force=force), read, safety)


def update_build_info(name: str, *, built_successfully: bool, libraries: Iterable[PipLibrary]) -> Call[None]:
    """UpdateBuildInfo."""
    request = pb.UpdateBuildInfoRequest(
        name=name,
        built_successfully=built_successfully,
        pip_libraries=[convert.library_message(library) for library in libraries],
    )
    return Call("/rime.ImageRegistry/UpdateBuildInfo", request, _nothing, Safety.ONCE)


def get_job(job_id: str, *, full: bool = True) -> Call[JobMetadata]:
    """GetJob."""

    def read(data: bytes) -> JobMetadata:
        return convert.job_from(jobs_pb2.GetJobResponse.FromString(data).job)

    return Call(
        "/rime.JobReader/GetJob", jobs_pb2.GetJobRequest(job_id=job_id, view=_view(full)), read, Safety.REPEATABLE
    )


def list_jobs(
    statuses: Iterable[JobStatus], image_name: str | None, page_size: int, page_token: str, *, full: bool
) -> Call[Page[JobMetadata]]:
    """ListJobs: one page. The token carries the query."""
    request = jobs_pb2.ListJobsRequest(page_size=page_size, view=_view(full))
    if page_token:
        request.page_token = page_token
    else:
        selected = [job_status_pb2.JobStatus.ValueType(status.value) for status in statuses]
        query = jobs_pb2.ListJobsRequest.Query(selected_statuses=selected, object_id=image_name)
        request.first_page_query.CopyFrom(query)

    def read(data: bytes) -> Page[JobMetadata]:
        answer = jobs_pb2.ListJobsResponse.FromString(data)
        return Page(tuple(map(convert.job_from, answer.jobs)), _next(answer.next_page_token, page_token))

    return Call("/rime.JobReader/ListJobs", request, read, Safety.REPEATABLE)


def cancel_job(job_id: str) -> Call[None]:
    """CancelJob, which is idempotent."""
    request = jobs_pb2.CancelJobRequest(job_id=job_id)
    return Call("/rime.JobReader/CancelJob", request, _nothing, Safety.REPEATABLE)


def read_job_logs(job_id: str, *, follow: bool) -> Message:
    """The request of the streaming call READ_JOB_LOGS."""
    return job_logs_pb2.ReadJobLogsRequest(job_id=job_id, follow=follow)


def is_serving() -> Call[bool]:
    """Health of the server as a whole (grpc.health.v1), which needs no key."""

    def read(data: bytes) -> bool:
        return health_pb2.HealthCheckResponse.FromString(data).status == health_pb2.HealthCheckResponse.SERVING

    return Call("/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(), read, Safety.REPEATABLE)


def encode(request: Message) -> bytes:
    """The request as it is sent."""
    return request.SerializeToString()


def _next(token: str, sent: str) -> str:
    """The next page's token; one that doesn't change marks the end of listings made for older clients."""
    return "" if token == sent else token


def _nothing(_: bytes) -> None:
    return None


def _view(full: bool) -> jobs_pb2.JobView.ValueType:
    return jobs_pb2.JOB_VIEW_FULL if full else jobs_pb2.JOB_VIEW_BASIC
