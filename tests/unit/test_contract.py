"""The published contract, element by element.

Names and numbers are fixed: clients in the field carry them compiled in. The tables below say what they are; the
tests compare them with the generated descriptors in both directions, so that nothing can be lost, added or changed
without a change here.
"""

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from textwrap import dedent

import pytest
from google.api import annotations_pb2, field_behavior_pb2, http_pb2
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    SourceCodeInfo,
)
from google.protobuf.message import Message
from ri.api.imageregistry import (
    image_finder_pb2,
    image_finder_pb2_grpc,
    image_lock_pb2,
    image_lock_pb2_grpc,
    image_registry_pb2,
    image_registry_pb2_grpc,
    image_watch_pb2,
    image_watch_pb2_grpc,
    job_logs_pb2,
    job_logs_pb2_grpc,
    job_status_pb2,
    jobs_pb2,
    jobs_pb2_grpc,
)

REPOSITORY = Path(__file__).parents[2]
FOLDER = "ri/api/imageregistry"

# number, label if any, type, name, and the oneof that the field belongs to
MESSAGES = """
    rime.ManagedImage reserved 11
        1 string name
        2 string rime_tag
        3 string repo_uri
        4 rime.ManagedImage.Status status
        5 repeated rime.ManagedImage.PipRequirement pip_requirements
        6 repeated rime.ManagedImage.PipLibrary pip_libraries
        7 rime.ImageReference base_image
        8 rime.ManagedImage.RoleType role_type
        9 repeated rime.ImageReference child_images
        10 repeated rime.ManagedImage.PackageRequirement package_requirements
        12 string python_version
    rime.ManagedImage.PipRequirement
        1 string name
        2 string version_specifier
    rime.ManagedImage.PipLibrary
        1 string name
        2 string version
    rime.ManagedImage.PackageRequirement
        1 string name
        2 string version_specifier
        3 rime.ManagedImage.PackageType package_type
    rime.ImageReference
        1 string name
        2 rime.ImageReference.ReferenceType reference_type
    rime.CreateImageRequest reserved 3
        1 string name
        2 repeated rime.ManagedImage.PipRequirement pip_requirements
        4 repeated rime.ManagedImage.PackageRequirement package_requirements
        5 string python_version
    rime.CreateImageResponse
        1 rime.ManagedImage image
        2 rime.JobMetadata job
    rime.GetImageRequest
        1 string name
    rime.GetImageResponse
        1 rime.ManagedImage image
    rime.ListImagesRequest
        1 string page_token
        2 int64 page_size
        3 repeated rime.ListImagesRequest.PipLibraryFilter pip_libraries
    rime.ListImagesRequest.PipLibraryFilter
        1 string name
        2 optional string version
    rime.ListImagesResponse
        1 repeated rime.ManagedImage images
        2 string next_page_token
    rime.DeleteImageRequest
        1 string name
    rime.DeleteImageResponse
    rime.EnsureImageExistenceRequest
    rime.EnsureImageExistenceResponse
    rime.SyncImageTagRequest
        1 string name
        2 bool force
    rime.SyncImageTagResponse
        1 rime.ManagedImage image
        2 optional rime.JobMetadata job
    rime.UpdateBuildInfoRequest
        1 string name
        2 bool built_successfully
        5 repeated rime.ManagedImage.PipLibrary pip_libraries
    rime.UpdateBuildInfoResponse

    rime.JobMetadata
        2 rime.statedb.JobStatus status
        4 double running_time_secs
        5 rime.JobType job_type
        6 string job_id
        7 rime.TerminationReason termination_reason
        8 rime.JobData job_data
        9 string job_progress_str
        10 google.protobuf.Timestamp start_time
        11 google.protobuf.Timestamp creation_time
        12 bool cancellation_requested
        13 rime.UUID agent_id
        14 rime.ArchivedJobLogs archived_job_logs
    rime.JobData reserved 3
        1 rime.JobData.StressTest stress (data)
        2 rime.JobData.ContinuousIncrementalTest continuous_inc (data)
        4 rime.JobData.FileScan file_scan (data)
    rime.JobData.StressTest reserved 1
        2 string test_run_id
        3 rime.StressTestJobProgress progress
        4 rime.UUID project_id
    rime.JobData.ContinuousIncrementalTest
        1 string firewall_id
        2 repeated string ct_test_run_ids
        3 rime.ContinuousTestJobProgress progress
    rime.JobData.FileScan
    rime.TestRunProgress
        1 string test_run_id
        2 rime.TestTaskStatus status
        3 repeated rime.TestRunProgress.TestBatchProgress test_batches
    rime.TestRunProgress.TestBatchProgress
        1 string type
        2 rime.TestTaskStatus status
    rime.StressTestJobProgress
        1 rime.TestRunProgress test_run
    rime.ContinuousTestJobProgress
        1 repeated rime.ContinuousTestRunProgress test_runs
    rime.ContinuousTestRunProgress
        1 rime.TestRunProgress test_run
        2 google.protobuf.Timestamp bin_start_time
        3 google.protobuf.Timestamp bin_end_time
    rime.UUID
        1 string uuid
    rime.SafeURL
        1 string url
    rime.ArchivedJobLogs
        1 rime.SafeURL url
        2 google.protobuf.Timestamp expiration_time

    rime.ListJobsRequest
        1 int64 page_size
        2 string page_token (list_jobs_info)
        3 rime.ListJobsRequest.Query first_page_query (list_jobs_info)
        4 rime.JobView view
    rime.ListJobsRequest.Query
        1 repeated rime.statedb.JobStatus selected_statuses
        2 repeated rime.JobType selected_types
        3 optional string object_id
    rime.ListJobsResponse
        1 repeated rime.JobMetadata jobs
        2 string next_page_token
        3 bool has_more
    rime.GetJobRequest
        2 string job_id
        3 rime.JobView view
    rime.GetJobResponse
        1 rime.JobMetadata job
    rime.CancelJobRequest
        1 string job_id
    rime.CancelJobResponse
    rime.ReadJobLogsRequest
        1 string job_id
        2 bool follow
        3 int64 expires
        4 string signature
    rime.WatchImageRequest
        1 string name
        2 bool until_built
    rime.WatchImageResponse
        1 rime.ManagedImage image
    rime.GetImageLockRequest
        1 string name
    rime.GetImageLockResponse
        1 string digest
        2 repeated rime.LockedLibrary libraries
        3 string base_digest
    rime.LockedLibrary
        1 string name
        2 string version
        3 string filename
        4 string sha256
        5 int64 size
    rime.FindImagesRequest
        1 repeated rime.ManagedImage.PipRequirement pip_requirements
        2 repeated rime.ManagedImage.PackageRequirement package_requirements
        3 string python_version
        4 int64 max_results
    rime.FindImagesResponse
        1 repeated rime.FindImagesResponse.FoundImage images
    rime.FindImagesResponse.FoundImage
        1 rime.ManagedImage image
        2 repeated rime.ManagedImage.PipLibrary matching_libraries
        3 int64 further_libraries
"""

# number and name
ENUMS = """
    rime.ManagedImage.PackageType
        0 PACKAGE_TYPE_UNSPECIFIED
        1 PACKAGE_TYPE_APT
        2 PACKAGE_TYPE_ROCKYLINUX
    rime.ManagedImage.RoleType
        0 ROLE_TYPE_UNSPECIFIED
        1 ROLE_TYPE_SYSTEM
        2 ROLE_TYPE_USER_DEFINED
    rime.ManagedImage.Status
        0 STATUS_UNSPECIFIED
        1 STATUS_BUILDING_FIRST_TIME
        2 STATUS_REBUILDING
        3 STATUS_READY
        4 STATUS_FAILED
        5 STATUS_OUTDATED
    rime.ImageReference.ReferenceType
        0 REFERENCE_TYPE_UNSPECIFIED
        1 REFERENCE_TYPE_RIME_DOCKERHUB
        2 REFERENCE_TYPE_MANAGED
        3 REFERENCE_TYPE_EXTERNAL_ECR
        4 REFERENCE_TYPE_EXTERNAL_GAR
    rime.statedb.JobStatus
        0 JOB_STATUS_UNSPECIFIED
        1 JOB_STATUS_PENDING
        2 JOB_STATUS_RUNNING
        3 JOB_STATUS_FAILED
        4 JOB_STATUS_SUCCEEDED
        5 JOB_STATUS_REQUESTED
        6 JOB_STATUS_CANCELLED
        7 JOB_STATUS_RECONCILING
    rime.JobType reserved 4
        0 JOB_TYPE_UNSPECIFIED
        1 JOB_TYPE_MODEL_STRESS_TEST
        2 JOB_TYPE_IMAGE_BUILDER
        3 JOB_TYPE_FIREWALL_BATCH_TEST
        5 JOB_TYPE_FILE_SCAN
    rime.TerminationReason
        0 TERMINATION_REASON_UNSPECIFIED
        1 TERMINATION_REASON_NOT_TERMINATED
        2 TERMINATION_REASON_OOMKILLED
        3 TERMINATION_REASON_COMPLETED
        4 TERMINATION_REASON_GENERIC_ERROR
        5 TERMINATION_REASON_INTERNAL_ERROR
    rime.JobView
        0 JOB_VIEW_UNSPECIFIED
        1 JOB_VIEW_BASIC
        2 JOB_VIEW_FULL
    rime.TestTaskStatus
        0 TEST_TASK_STATUS_UNSPECIFIED
        1 TEST_TASK_STATUS_PENDING
        2 TEST_TASK_STATUS_RUNNING
        3 TEST_TASK_STATUS_COMPLETED
        4 TEST_TASK_STATUS_FAILED
        5 TEST_TASK_STATUS_CANCELLED
        6 TEST_TASK_STATUS_GARBAGE_COLLECTED
"""

# name, request, response, and the REST bindings: none means gRPC only
RPCS = """
    rime.ImageRegistry
        CreateImage rime.CreateImageRequest rime.CreateImageResponse | POST /v1/images body *
        GetImage rime.GetImageRequest rime.GetImageResponse | GET /v1/images/{name}
        ListImages rime.ListImagesRequest rime.ListImagesResponse | GET /v1/images | POST /v1/images/list body *
        DeleteImage rime.DeleteImageRequest rime.DeleteImageResponse | DELETE /v1/images/{name}
        EnsureImageExistence rime.EnsureImageExistenceRequest rime.EnsureImageExistenceResponse
        SyncImageTag rime.SyncImageTagRequest rime.SyncImageTagResponse
        UpdateBuildInfo rime.UpdateBuildInfoRequest rime.UpdateBuildInfoResponse \
| POST /internal/images/update-info body *
    rime.JobReader
        ListJobs rime.ListJobsRequest rime.ListJobsResponse | GET /v1/jobs
        GetJob rime.GetJobRequest rime.GetJobResponse | GET /v1/jobs/{job_id}
        CancelJob rime.CancelJobRequest rime.CancelJobResponse | POST /v1/jobs/cancel/{job_id}
    rime.JobLogs
        ReadJobLogs rime.ReadJobLogsRequest google.api.HttpBody stream | GET /v1/jobs/{job_id}/logs
    rime.ImageWatch
        WatchImage rime.WatchImageRequest rime.WatchImageResponse stream
    rime.ImageLocks
        GetImageLock rime.GetImageLockRequest rime.GetImageLockResponse | GET /v1/images/{name}/lock
    rime.ImageFinder
        FindImages rime.FindImagesRequest rime.FindImagesResponse | POST /v1/images/find body *
"""

REQUIRED = """
    rime.CreateImageRequest
        name
        pip_requirements
    rime.GetImageRequest
        name
    rime.DeleteImageRequest
        name
    rime.SyncImageTagRequest
        name
    rime.UpdateBuildInfoRequest
        name
    rime.GetJobRequest
        job_id
    rime.CancelJobRequest
        job_id
    rime.ReadJobLogsRequest
        job_id
    rime.WatchImageRequest
        name
    rime.GetImageLockRequest
        name
"""

Table = dict[str, set[str]]


def table(text: str) -> Table:
    """Reads the tables above: a heading for each element, its members indented below."""
    entries: Table = {}
    members: set[str] = set()
    for line in dedent(text).splitlines():
        if line.startswith(" "):
            members.add(line.strip())
        elif line:
            members = entries[line] = set()
    return entries


def heading(name: str, element: DescriptorProto | EnumDescriptorProto) -> str:
    numbers: set[int] = set()
    for span in element.reserved_range:
        # The end is exclusive in messages, inclusive in enums.
        numbers.update(range(span.start, span.end + isinstance(element, EnumDescriptorProto)))
    words = [name, *(["reserved"] if numbers or element.reserved_name else [])]
    return " ".join([*words, *map(str, sorted(numbers)), *element.reserved_name])


def field_line(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    label = ""
    oneof = ""
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        label = "repeated "
    elif field.proto3_optional:
        label = "optional "
    elif field.HasField("oneof_index"):
        oneof = f" ({message.oneof_decl[field.oneof_index].name})"
    kind = field.type_name.lstrip(".") or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    return f"{field.number} {label}{kind} {field.name}{oneof}"


def rule_text(rule: http_pb2.HttpRule) -> str:
    verb = rule.WhichOneof("pattern")
    assert verb in {"get", "post", "delete"}
    body = f" body {rule.body}" if rule.body else ""
    return f"{verb.upper()} {getattr(rule, verb)}{body}{rule.response_body}"


def rpc_line(method: MethodDescriptorProto) -> str:
    assert not method.client_streaming
    bindings: list[http_pb2.HttpRule] = []
    if method.options.HasExtension(annotations_pb2.http):
        first = method.options.Extensions[annotations_pb2.http]
        bindings = [first, *first.additional_bindings]
    stream = " stream" if method.server_streaming else ""
    parts = [f"{method.name} {method.input_type.lstrip('.')} {method.output_type.lstrip('.')}{stream}"]
    return " | ".join([*parts, *map(rule_text, bindings)])


def messages_of(file: FileDescriptorProto) -> Iterator[tuple[str, DescriptorProto]]:
    def walk(scope: str, messages: list[DescriptorProto]) -> Iterator[tuple[str, DescriptorProto]]:
        for message in messages:
            name = f"{scope}.{message.name}"
            yield name, message
            yield from walk(name, list(message.nested_type))

    return walk(file.package, list(file.message_type))


def enums_of(file: FileDescriptorProto) -> Iterator[tuple[str, EnumDescriptorProto]]:
    for enum in file.enum_type:
        yield f"{file.package}.{enum.name}", enum
    for name, message in messages_of(file):
        for enum in message.enum_type:
            yield f"{name}.{enum.name}", enum


def elements_of(file: FileDescriptorProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every element that can carry a comment, with its path as `SourceCodeInfo.Location` defines it."""

    def enum(scope: str, element: EnumDescriptorProto, path: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{scope}.{element.name}", path
        for index, value in enumerate(element.value):
            yield f"{scope}.{value.name}", (*path, 2, index)

    def message(scope: str, element: DescriptorProto, path: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
        name = f"{scope}.{element.name}"
        yield name, path
        synthetic = {field.oneof_index for field in element.field if field.proto3_optional}
        for index, field in enumerate(element.field):
            yield f"{name}.{field.name}", (*path, 2, index)
        for index, nested in enumerate(element.nested_type):
            yield from message(name, nested, (*path, 3, index))
        for index, enum_type in enumerate(element.enum_type):
            yield from enum(name, enum_type, (*path, 4, index))
        for index, oneof in enumerate(element.oneof_decl):
            if index not in synthetic:
                yield f"{name}.{oneof.name}", (*path, 8, index)

    for index, message_type in enumerate(file.message_type):
        yield from message(file.package, message_type, (4, index))
    for index, enum_type in enumerate(file.enum_type):
        yield from enum(file.package, enum_type, (5, index))
    for index, service in enumerate(file.service):
        yield f"{file.package}.{service.name}", (6, index)
        for number, method in enumerate(service.method):
            yield f"{file.package}.{service.name}.{method.name}", (6, index, 2, number)


@pytest.fixture(scope="module")
def descriptor_bytes() -> bytes:
    return resources.files("ri.api.imageregistry").joinpath("descriptor_set.binpb").read_bytes()


@pytest.fixture(scope="module")
def descriptor_set(descriptor_bytes: bytes) -> FileDescriptorSet:
    return FileDescriptorSet.FromString(descriptor_bytes)


@pytest.fixture(scope="module")
def ours(descriptor_set: FileDescriptorSet) -> list[FileDescriptorProto]:
    """The files of the contract, without what they import."""
    return [file for file in descriptor_set.file if file.name.startswith("ri/")]


def test_the_files_and_their_packages(ours: list[FileDescriptorProto]) -> None:
    assert {file.name: file.package for file in ours} == {
        f"{FOLDER}/job_logs.proto": "rime",
        f"{FOLDER}/image_watch.proto": "rime",
        f"{FOLDER}/image_lock.proto": "rime",
        f"{FOLDER}/image_finder.proto": "rime",
        f"{FOLDER}/image_registry.proto": "rime",
        f"{FOLDER}/jobs.proto": "rime",
        f"{FOLDER}/job_status.proto": "rime.statedb",
    }
    assert {file.syntax for file in ours} == {"proto3"}


def test_messages(ours: list[FileDescriptorProto]) -> None:
    found = {
        heading(name, message): {field_line(message, field) for field in message.field}
        for file in ours
        for name, message in messages_of(file)
    }
    assert found == table(MESSAGES)


def test_enums(ours: list[FileDescriptorProto]) -> None:
    found = {
        heading(name, enum): {f"{value.number} {value.name}" for value in enum.value}
        for file in ours
        for name, enum in enums_of(file)
    }
    assert found == table(ENUMS)


def test_rpcs_and_their_rest_bindings(ours: list[FileDescriptorProto]) -> None:
    found = {
        f"{file.package}.{service.name}": {rpc_line(method) for method in service.method}
        for file in ours
        for service in file.service
    }
    assert found == table(RPCS)


def test_required_fields_are_marked(ours: list[FileDescriptorProto]) -> None:
    found: Table = {}
    for file in ours:
        for name, message in messages_of(file):
            for field in message.field:
                marks = field.options.Extensions[field_behavior_pb2.field_behavior]
                if field_behavior_pb2.REQUIRED in marks:
                    found.setdefault(name, set()).add(field.name)
    assert found == table(REQUIRED)


def test_json_names_are_the_default_ones(ours: list[FileDescriptorProto]) -> None:
    def camel(name: str) -> str:
        return re.sub("_(.)", lambda match: match[1].upper(), name)

    fields = [field for file in ours for _, message in messages_of(file) for field in message.field]
    assert fields
    assert [field.name for field in fields if field.json_name != camel(field.name)] == []


def test_every_element_has_a_comment(ours: list[FileDescriptorProto]) -> None:
    def commented(locations: SourceCodeInfo) -> set[tuple[int, ...]]:
        return {tuple(place.path) for place in locations.location if place.leading_comments.strip()}

    silent = [name for file in ours for name, path in elements_of(file) if path not in commented(file.source_code_info)]
    assert silent == []


def test_the_generated_modules_are_of_the_same_protos(ours: list[FileDescriptorProto]) -> None:
    compiled = {
        module.DESCRIPTOR.name: FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
        for module in (
            image_finder_pb2,
            image_lock_pb2,
            image_registry_pb2,
            image_watch_pb2,
            job_logs_pb2,
            job_status_pb2,
            jobs_pb2,
        )
    }
    for file in ours:
        plain = FileDescriptorProto.FromString(file.SerializeToString())
        plain.ClearField("source_code_info")
        for _, message in messages_of(plain):
            for field in message.field:
                field.ClearField("json_name")
        assert compiled[file.name] == plain


def test_the_services_can_be_served_and_called() -> None:
    for module, service in (
        (image_registry_pb2_grpc, "ImageRegistry"),
        (jobs_pb2_grpc, "JobReader"),
        (job_logs_pb2_grpc, "JobLogs"),
        (image_watch_pb2_grpc, "ImageWatch"),
        (image_lock_pb2_grpc, "ImageLocks"),
        (image_finder_pb2_grpc, "ImageFinder"),
    ):
        assert {f"{service}Stub", f"{service}Servicer", f"add_{service}Servicer_to_server"} <= set(vars(module))


def test_the_descriptor_set_stands_alone(descriptor_set: FileDescriptorSet) -> None:
    """A proxy loads it without any other file: imports come first, and error details can be decoded."""
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_set.file:
        pool.Add(file)
    assert {"google/rpc/error_details.proto", "google/rpc/status.proto"} <= {file.name for file in descriptor_set.file}

    def decode(name: str, data: bytes) -> Message:
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(name)).FromString(data)

    for name in ("ErrorInfo", "BadRequest", "ResourceInfo", "PreconditionFailure", "QuotaFailure", "RetryInfo"):
        assert decode(f"google.rpc.{name}", b"").DESCRIPTOR.full_name == f"google.rpc.{name}"
    assert decode("google.rpc.Status", b"\x08\x05").ListFields()[0][1] == 5


def test_the_generated_files_name_no_place_of_the_machine_that_made_them(
    descriptor_bytes: bytes, descriptor_set: FileDescriptorSet
) -> None:
    assert all(re.fullmatch(r"(google|ri)/[a-z_/]+\.proto", file.name) for file in descriptor_set.file)
    for path in resources.files("ri.api.imageregistry").iterdir():
        if path.is_file():
            content = path.read_bytes()
            for trace in (str(REPOSITORY).encode(), b"site-packages", b".venv", b"third_party/"):
                assert trace not in content, path.name
    assert b"/home/" not in descriptor_bytes
