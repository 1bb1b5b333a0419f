"""Between the published messages and this package's values."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from ri.api.imageregistry import image_finder_pb2, image_lock_pb2, jobs_pb2
from ri.api.imageregistry import image_registry_pb2 as pb

from image_registry.client.models import (
    ArchivedJobLogs,
    FoundImage,
    ImageLock,
    ImageReference,
    ImageStatus,
    JobMetadata,
    JobStatus,
    JobType,
    LockedLibrary,
    ManagedImage,
    PackageRequirement,
    PackageType,
    PipLibrary,
    PipLibraryFilter,
    PipRequirement,
    ReferenceType,
    RoleType,
    TerminationReason,
)


def image_from(message: pb.ManagedImage) -> ManagedImage:
    """The image that a message holds."""
    return ManagedImage(
        name=message.name,
        base_image=_reference(message.base_image) if message.HasField("base_image") else None,
        role_type=RoleType(message.role_type),
        child_images=tuple(_reference(child) for child in message.child_images),
        rime_tag=message.rime_tag,
        repo_uri=message.repo_uri,
        status=ImageStatus(message.status),
        package_requirements=tuple(
            PackageRequirement(r.name, r.version_specifier, PackageType(r.package_type))
            for r in message.package_requirements
        ),
        pip_requirements=tuple(PipRequirement(r.name, r.version_specifier) for r in message.pip_requirements),
        pip_libraries=tuple(PipLibrary(x.name, x.version) for x in message.pip_libraries),
        python_version=message.python_version,
    )


def found_from(message: image_finder_pb2.FindImagesResponse.FoundImage) -> FoundImage:
    """The image that was found, as a message holds it."""
    matching = tuple(PipLibrary(x.name, x.version) for x in message.matching_libraries)
    return FoundImage(image_from(message.image), matching, message.further_libraries)


def lock_from(message: image_lock_pb2.GetImageLockResponse) -> ImageLock:
    """The lock that a message holds."""
    wheels = (LockedLibrary(x.name, x.version, x.filename, x.sha256, x.size) for x in message.libraries)
    return ImageLock(message.digest, message.base_digest, tuple(wheels))


def job_from(message: jobs_pb2.JobMetadata) -> JobMetadata:
    """The job that a message holds."""
    return JobMetadata(
        job_id=message.job_id,
        status=JobStatus(message.status),
        termination_reason=TerminationReason(message.termination_reason),
        job_type=JobType(message.job_type),
        creation_time=_time(message, "creation_time"),
        start_time=_time(message, "start_time"),
        running_time_secs=message.running_time_secs,
        job_progress_str=message.job_progress_str,
        cancellation_requested=message.cancellation_requested,
        agent_id=message.agent_id.uuid if message.HasField("agent_id") else None,
        archived_job_logs=_logs(message.archived_job_logs) if message.HasField("archived_job_logs") else None,
    )


def pip_requirement_message(requirement: PipRequirement) -> pb.ManagedImage.PipRequirement:
    """The message for a pip requirement."""
    return pb.ManagedImage.PipRequirement(name=requirement.name, version_specifier=requirement.version_specifier)


def package_requirement_message(requirement: PackageRequirement) -> pb.ManagedImage.PackageRequirement:
    """The message for a system package."""
    return pb.ManagedImage.PackageRequirement(
        name=requirement.name,
        version_specifier=requirement.version_specifier,
        package_type=pb.ManagedImage.PackageType.ValueType(requirement.package_type.value),
    )


def filter_message(condition: PipLibraryFilter) -> pb.ListImagesRequest.PipLibraryFilter:
    """The message for a filter; a version of None stays absent."""
    return pb.ListImagesRequest.PipLibraryFilter(name=condition.name, version=condition.version)


def library_message(library: PipLibrary) -> pb.ManagedImage.PipLibrary:
    """The message for an installed library."""
    return pb.ManagedImage.PipLibrary(name=library.name, version=library.version)


def _reference(message: pb.ImageReference) -> ImageReference:
    return ImageReference(message.name, ReferenceType(message.reference_type))


def _logs(message: jobs_pb2.ArchivedJobLogs) -> ArchivedJobLogs:
    return ArchivedJobLogs(message.url.url, _time(message, "expiration_time"))


def _time(message: Message, field: str) -> datetime | None:
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    return stamp.ToDatetime(tzinfo=UTC)
