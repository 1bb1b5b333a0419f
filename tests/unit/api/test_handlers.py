"""The thin handlers: what they ask of the use cases, and how they answer."""

import logging
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import grpc
import pytest
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import job_status_pb2, jobs_pb2

from image_registry import deadline
from image_registry.api.images import ImageRegistry
from image_registry.api.job_logs import LogLinks
from image_registry.api.jobs import JobReader
from image_registry.api.tokens import PageTokens
from image_registry.api.validation import Accepts
from image_registry.codec import encode_definition, encode_listed
from image_registry.errors import image_not_found, job_not_found
from image_registry.models import (
    CreatedImage,
    ImageDefinition,
    ImagePage,
    ImageReference,
    ImageStatus,
    JobKind,
    JobStatus,
    LibraryFilter,
    NewImage,
    PackageType,
    PipLibrary,
    PipRequirement,
    PublishedImage,
    ReferenceType,
    RoleType,
    StoredImage,
    StoredJob,
    TerminationReason,
)
from tests.fixtures.thin import Answer, ThinServer

JOB = UUID("0198c0de-0000-7000-8000-000000000000")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BASE = ImageReference("system-python-3-12", ReferenceType.MANAGED)
DEFINITION = ImageDefinition(
    "a",
    RoleType.USER_DEFINED,
    "3.12",
    BASE,
    "oci:/images/a",
    "v1",
    (PipRequirement("numpy"),),
    (),
    (PipLibrary("numpy", "1.0"),),
)
STORED_IMAGE: dict[str, Any] = {
    "id": 1,
    "name": "a",
    "role": RoleType.USER_DEFINED,
    "status": ImageStatus.READY,
    "python_version": "3.12",
    "platform_tag": "v1",
    "base_image_id": 7,
    "definition": encode_definition(DEFINITION),
}
STORED_JOB: dict[str, Any] = {
    "id": 9,
    "uuid": JOB,
    "kind": JobKind.BUILD,
    "image_id": 1,
    "image_name": "a",
    "repository": "oci:/images/a",
    "definition": b"",
    "status": JobStatus.RUNNING,
    "termination_reason": TerminationReason.NOT_TERMINATED,
    "attempt": 1,
    "faults": 0,
    "cancel_requested": True,
    "progress": "resolve …",
    "created_at": NOW,
    "started_at": NOW,
    "finished_at": None,
    "agent_id": JOB,
    "running_seconds": 2.5,
    "has_log": False,
}


def fields_of(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    """What `values` know of a model; what it has besides has a default or is a text."""
    names = kind.__dataclass_fields__
    return {name: values.get(name, "") for name in names if name in values or name == "creator"}


IMAGE = StoredImage(**fields_of(StoredImage, STORED_IMAGE))
RUNNING = StoredJob(**fields_of(StoredJob, STORED_JOB))


class Registry:
    """All use cases, as far as handlers see them: keeps what was asked, and knows one image and one job, both `a`."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.remaining: float | None = None
        self.more = False

    async def create(self, wanted: NewImage, *, request_id: str) -> CreatedImage:
        self.asked.append((wanted, request_id))
        return CreatedImage(IMAGE.definition, JOB, NOW)

    async def get(self, key: str | UUID) -> PublishedImage | StoredJob:
        self.remaining = deadline.remaining()
        if key == "broken":
            raise ZeroDivisionError("a secret")
        if key == JOB:
            return RUNNING
        if key == "a":
            return PublishedImage(IMAGE.definition, IMAGE.status, ("b", "c"))
        raise job_not_found(str(key)) if isinstance(key, UUID) else image_not_found(str(key))

    async def page(self, *, size: int, **conditions: Any) -> Any:
        self.asked.append((size, conditions))
        if "after" in conditions:
            return ImagePage([encode_listed([(IMAGE.status, IMAGE.definition)])], IMAGE.name if self.more else None)
        return [RUNNING], self.more

    async def delete(self, name: str) -> None:
        self.asked.append(name)

    async def cancel(self, uuid: UUID) -> None:
        self.asked.append(uuid)

    async def ensure_images(self) -> None:
        self.asked.append("ensure")

    async def sync_image(self, name: str, *, force: bool) -> tuple[StoredImage, StoredJob | None]:
        self.asked.append((name, force))
        return IMAGE, RUNNING if force else None

    async def record_outside_build(self, name: str, **result: Any) -> None:
        self.asked.append((name, result))


@pytest.fixture
def registry() -> Registry:
    return Registry()


def images(registry: Any, *, echo: bool = False) -> ThinServer:
    accepts = Accepts(("3.11", "3.12"), "3.12", PackageType.APT, "managed")
    tokens = PageTokens(b"secret", "images")
    servicer = ImageRegistry(registry, registry, registry, accepts=accepts, tokens=tokens, echo_last_token=echo)
    return ThinServer(pb.DESCRIPTOR.services_by_name["ImageRegistry"], servicer)


def jobs(registry: Any) -> ThinServer:
    links = LogLinks(b"secret", public_url="http://h", retention=60)
    servicer = JobReader(registry, tokens=PageTokens(b"secret", "jobs"), links=links)
    return ThinServer(jobs_pb2.DESCRIPTOR.services_by_name["JobReader"], servicer)


def details(answer: Answer) -> list[str]:
    return [detail.TypeName().rpartition(".")[2] for detail in answer.status.details]


def test_create(registry: Registry) -> None:
    request = pb.CreateImageRequest(name="a", pip_requirements=[{"name": "numpy", "version_specifier": "1.0"}])
    answer = images(registry).call("CreateImage", request)
    assert registry.asked == [(NewImage("a", "3.12", (PipRequirement("numpy", "1.0"),)), "")]
    assert answer.response.image.status == pb.ManagedImage.STATUS_BUILDING_FIRST_TIME
    assert answer.response.image.base_image.name == BASE.name
    assert answer.response.job.job_id == str(JOB)
    assert answer.response.job.status == job_status_pb2.JOB_STATUS_REQUESTED
    assert answer.response.job.creation_time.ToDatetime(UTC) == NOW


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ((("x-request-id", "a:b/1"),), "a:b/1"),
        ((("x-request-id", "1"), ("x-request-id-generated", "gateway")), ""),
    ],
)
def test_a_create_carries_its_callers_own_id(registry: Registry, metadata: Any, expected: str) -> None:
    request = pb.CreateImageRequest(name="a", pip_requirements=[{"name": "numpy"}])
    assert images(registry).call("CreateImage", request, metadata).code is grpc.StatusCode.OK
    assert registry.asked[0][1] == expected


@pytest.mark.parametrize("ids", [("",), ("a b",), ("x" * 129,), ("é",), ("1", "2")])
def test_ids_of_requests_are_bounded(registry: Registry, ids: tuple[str, ...]) -> None:
    request = pb.CreateImageRequest(name="No", pip_requirements=[{"name": "numpy"}])
    answer = images(registry).call("CreateImage", request, tuple(("x-request-id", one) for one in ids))
    assert (answer.code, registry.asked) == (grpc.StatusCode.INVALID_ARGUMENT, [])
    assert "x-request-id: must be one id of 1 to 128 printable ASCII characters" in answer.message
    assert "name: must match" in answer.message


def test_a_faulty_create_reaches_no_use_case(registry: Registry) -> None:
    answer = images(registry).call("CreateImage", pb.CreateImageRequest(name="A"))
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT
    assert details(answer) == ["ErrorInfo", "BadRequest"]
    assert registry.asked == []


def test_get(registry: Registry) -> None:
    image = images(registry).call("GetImage", pb.GetImageRequest(name="a")).response.image
    assert image.status == pb.ManagedImage.STATUS_READY
    assert [(one.name, one.reference_type) for one in image.child_images] == [("b", 2), ("c", 2)]
    assert [(one.name, one.version) for one in image.pip_libraries] == [("numpy", "1.0")]


def test_get_of_what_is_missing(registry: Registry) -> None:
    answer = images(registry).call("GetImage", pb.GetImageRequest(name="b"))
    assert (answer.code, answer.message) == (grpc.StatusCode.NOT_FOUND, "there is no image named 'b'")
    assert details(answer) == ["ErrorInfo", "ResourceInfo"]


def test_what_nobody_foresaw_ends_as_internal_with_an_id(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        answer = images(registry).call("GetImage", pb.GetImageRequest(name="broken"))
    assert answer.code is grpc.StatusCode.INTERNAL
    request_id = answer.message.rpartition(" ")[2]
    assert answer.message == f"internal error, request id {request_id}"
    assert "secret" not in str(answer.status)
    assert request_id in caplog.text
    assert "ZeroDivisionError: a secret" in caplog.text


def test_the_deadline_reaches_the_use_case(registry: Registry) -> None:
    images(registry).call("GetImage", pb.GetImageRequest(name="a"), timeout=5)
    assert registry.remaining is not None
    assert 0 < registry.remaining <= 5
    images(registry).call("GetImage", pb.GetImageRequest(name="a"))
    assert registry.remaining is None


def test_list(registry: Registry) -> None:
    request = pb.ListImagesRequest(page_size=3, pip_libraries=[{"name": "Py_Yaml"}])
    answer = images(registry).call("ListImages", request)
    assert registry.asked == [(3, {"after": "", "filters": (LibraryFilter("py-yaml"),)})]
    assert [one.name for one in answer.response.images] == ["a"]
    assert answer.response.next_page_token == ""


def listed_twice(registry: Registry, *, echo: bool = False, agent: str = "grpc-python/1.83") -> tuple[str, str]:
    """The tokens of a first page with more behind it, and of the last page asked for with it."""
    server, metadata = images(registry, echo=echo), (("user-agent", agent),)
    registry.more = True
    first = server.call("ListImages", pb.ListImagesRequest(), metadata).response.next_page_token
    registry.more = False
    request = pb.ListImagesRequest(page_token=first)
    return first, server.call("ListImages", request, metadata).response.next_page_token


@pytest.mark.parametrize("agent", ["grpc-python/1.83", "Swagger-Codegen/1.0/java", "curl/8", "x-Swagger-Codegen"])
def test_the_last_page_ends_with_an_empty_token(registry: Registry, agent: str) -> None:
    first, last = listed_twice(registry, agent=agent)
    assert first
    assert last == ""


@pytest.mark.parametrize("agent", ["Swagger-Codegen/1.0.0/python", "Swagger-Codegen/2.13.2/python envoy"])
def test_the_published_rest_client_gets_its_own_token_back(registry: Registry, agent: str) -> None:
    first, last = listed_twice(registry, agent=agent)
    assert last == first != ""


def test_the_setting_gives_everybody_the_token_back(registry: Registry) -> None:
    first, last = listed_twice(registry, echo=True)
    assert last == first != ""


def test_a_list_of_one_page_ends_with_an_empty_token_for_all(registry: Registry) -> None:
    metadata = (("user-agent", "Swagger-Codegen/1.0.0/python"),)
    assert (
        images(registry, echo=True).call("ListImages", pb.ListImagesRequest(), metadata).response.next_page_token == ""
    )


def test_delete_ensure_and_sync(registry: Registry) -> None:
    server = images(registry)
    assert server.call("DeleteImage", pb.DeleteImageRequest(name="a")).code is grpc.StatusCode.OK
    assert server.call("EnsureImageExistence", pb.EnsureImageExistenceRequest()).code is grpc.StatusCode.OK
    assert not server.call("SyncImageTag", pb.SyncImageTagRequest(name="a")).response.HasField("job")
    assert server.call("SyncImageTag", pb.SyncImageTagRequest(name="a", force=True)).response.job.job_id == str(JOB)
    assert registry.asked == ["a", "ensure", ("a", False), ("a", True)]


@pytest.mark.parametrize("method", ["GetImage", "DeleteImage", "SyncImageTag", "UpdateBuildInfo"])
def test_a_name_is_needed(registry: Registry, method: str) -> None:
    request = getattr(pb, f"{method}Request")()
    answer = images(registry).call(method, request)
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT
    assert answer.message == "name: must name an image"


def test_update_build_info(registry: Registry) -> None:
    request = pb.UpdateBuildInfoRequest(
        name="a", built_successfully=True, pip_libraries=[{"name": "numpy", "version": "1"}]
    )
    libraries = (PipLibrary("numpy", "1"),)
    assert images(registry).call("UpdateBuildInfo", request).code is grpc.StatusCode.OK
    images(registry).call("UpdateBuildInfo", request, (("rime-job-id", str(JOB)),))
    assert registry.asked == [
        ("a", {"succeeded": True, "libraries": libraries, "job_id": None}),
        ("a", {"succeeded": True, "libraries": libraries, "job_id": JOB}),
    ]
    answer = images(registry).call("UpdateBuildInfo", request, (("rime-job-id", "x"),))
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(("view", "progress"), [(0, ""), (1, ""), (2, "resolve …")])
def test_get_job(registry: Registry, view: jobs_pb2.JobView.ValueType, progress: str) -> None:
    request = jobs_pb2.GetJobRequest(job_id=str(JOB), view=view)
    job = jobs(registry).call("GetJob", request).response.job
    assert (job.job_id, job.job_type, job.job_progress_str) == (str(JOB), jobs_pb2.JOB_TYPE_IMAGE_BUILDER, progress)
    assert job.start_time.ToDatetime(UTC) == NOW
    assert job.running_time_secs == 2.5
    assert job.agent_id.uuid == str(JOB)
    assert not job.HasField("job_data")


def test_get_of_a_missing_job(registry: Registry) -> None:
    other = str(JOB).replace("1", "2")
    answer = jobs(registry).call("GetJob", jobs_pb2.GetJobRequest(job_id=other))
    assert (answer.code, answer.message) == (grpc.StatusCode.NOT_FOUND, f"there is no job {other!r}")


def test_list_jobs(registry: Registry) -> None:
    registry.more = True
    query = jobs_pb2.ListJobsRequest.Query(selected_statuses=[2], object_id="a")
    request = jobs_pb2.ListJobsRequest(page_size=1, first_page_query=query, view=jobs_pb2.JOB_VIEW_FULL)
    answer = jobs(registry).call("ListJobs", request)
    assert answer.response.has_more
    assert answer.response.jobs[0].job_progress_str == "resolve …"
    registry.more = False
    last = (
        jobs(registry).call("ListJobs", jobs_pb2.ListJobsRequest(page_token=answer.response.next_page_token)).response
    )
    assert not last.has_more
    assert last.next_page_token == ""
    conditions = {"statuses": (JobStatus.RUNNING,), "image_name": "a"}
    assert registry.asked == [(1, {"before": None, **conditions}), (50, {"before": 9, **conditions})]


def test_jobs_of_other_types_are_not_looked_for(registry: Registry) -> None:
    query = jobs_pb2.ListJobsRequest.Query(selected_types=[1])
    answer = jobs(registry).call("ListJobs", jobs_pb2.ListJobsRequest(first_page_query=query))
    assert (len(answer.response.jobs), answer.response.has_more, registry.asked) == (0, False, [])


def test_cancel_job(registry: Registry) -> None:
    assert jobs(registry).call("CancelJob", jobs_pb2.CancelJobRequest(job_id=str(JOB))).code is grpc.StatusCode.OK
    assert registry.asked == [JOB]
