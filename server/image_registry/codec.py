"""Between the models and the published messages. Definitions are stored as these bytes and served as they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache

from google.protobuf.timestamp_pb2 import Timestamp
from ri.api.imageregistry import image_finder_pb2, job_status_pb2, jobs_pb2
from ri.api.imageregistry import image_registry_pb2 as pb

from image_registry.models import (
    CreatedImage,
    FoundImage,
    ImageDefinition,
    ImageReference,
    ImageStatus,
    PackageRequirement,
    PackageType,
    PipLibrary,
    PipRequirement,
    PublishedImage,
    ReferenceType,
    RoleType,
    StoredImage,
    StoredJob,
)

_Image = pb.ManagedImage
_MANAGED = pb.ImageReference.REFERENCE_TYPE_MANAGED
_STATUS_FIELDS: dict[int, bytes] = {
    s: _Image(status=_Image.Status.ValueType(s)).SerializeToString() for s in ImageStatus
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_IMAGE_TAG = bytes([1 << 3 | 2])  # a field with a length: `image` of GetImageResponse and CreateImageResponse
_JOB_TAG = bytes([pb.CreateImageResponse.JOB_FIELD_NUMBER << 3 | 2])
_NEW_JOB = jobs_pb2.JobMetadata(
    job_type=jobs_pb2.JOB_TYPE_IMAGE_BUILDER,
    status=job_status_pb2.JOB_STATUS_REQUESTED,
    termination_reason=jobs_pb2.TERMINATION_REASON_NOT_TERMINATED,
).SerializeToString()
_IMAGES_TAG = bytes([pb.ListImagesResponse.IMAGES_FIELD_NUMBER << 3 | 2])


def encode_definition(definition: ImageDefinition) -> bytes:
    """The definition as an encoded ManagedImage without status and children."""
    head = _Image(
        name=definition.name,
        rime_tag=definition.platform_tag,
        repo_uri=definition.repo_uri,
        role_type=_Image.RoleType.ValueType(definition.role),
        python_version=definition.python_version,
        package_requirements=[
            _Image.PackageRequirement(
                name=r.name, version_specifier=r.version, package_type=_Image.PackageType.ValueType(r.package_type)
            )
            for r in definition.package_requirements
        ],
        pip_libraries=[_Image.PipLibrary(name=x.name, version=x.version) for x in definition.pip_libraries],
    ).SerializeToString(deterministic=True)
    base = _encode_base(definition.base_image)
    return b"".join((head, base, *map(_encode_requirement, definition.pip_requirements)))


@lru_cache(64)
def _encode_base(base: ImageReference) -> bytes:
    """`base_image`, as it stands in an encoded ManagedImage."""
    kind = pb.ImageReference.ReferenceType.ValueType(base.reference_type)
    return _Image(base_image=pb.ImageReference(name=base.name, reference_type=kind)).SerializeToString()


@lru_cache(2048)  # the same few are sent again and again
def _encode_requirement(requirement: PipRequirement) -> bytes:
    """One entry of `pip_requirements`, as it stands in an encoded ManagedImage."""
    name, specifier = requirement
    return _Image(pip_requirements=[_Image.PipRequirement(name=name, version_specifier=specifier)]).SerializeToString()


def decode_definition(encoded: bytes) -> ImageDefinition:
    """The definition that `encode_definition` wrote."""
    image = _Image.FromString(encoded)
    return ImageDefinition(
        name=image.name,
        role=RoleType(image.role_type),
        python_version=image.python_version,
        base_image=ImageReference(image.base_image.name, ReferenceType(image.base_image.reference_type)),
        repo_uri=image.repo_uri,
        platform_tag=image.rime_tag,
        pip_requirements=tuple(PipRequirement(r.name, r.version_specifier) for r in image.pip_requirements),
        package_requirements=tuple(
            PackageRequirement(r.name, r.version_specifier, PackageType(r.package_type))
            for r in image.package_requirements
        ),
        pip_libraries=tuple(PipLibrary(x.name, x.version) for x in image.pip_libraries),
    )


def fill_image(message: pb.ManagedImage, image: StoredImage) -> None:
    """Write a stored image into an empty message: its definition as it is, status and children on top."""
    message.MergeFromString(image.definition)
    message.status = _Image.Status.ValueType(image.status)
    for name in image.child_names:
        message.child_images.add(name=name, reference_type=pb.ImageReference.REFERENCE_TYPE_MANAGED)


def encode_get_response(image: PublishedImage) -> bytes:
    """An encoded GetImageResponse: protobuf merges what stands side by side, so nothing is parsed or built anew."""
    encoded = image.definition + _STATUS_FIELDS[image.status]
    if image.child_names:
        references = (pb.ImageReference(name=name, reference_type=_MANAGED) for name in image.child_names)
        encoded += _Image(child_images=references).SerializeToString()
    return _IMAGE_TAG + _varint(len(encoded)) + encoded


def encode_listed(images: Iterable[tuple[int, bytes]]) -> bytes:
    """Images without children, each a status and a definition, as fields of ListImagesResponse that follow each other,
    made as `encode_get_response` does."""
    parts: list[bytes] = []
    for number, definition in images:
        status = _STATUS_FIELDS[number]
        parts += (_IMAGES_TAG, _varint(len(definition) + len(status)), definition, status)
    return b"".join(parts)


def encode_list_response(images: Sequence[bytes], next_page_token: str) -> bytes:
    """An encoded ListImagesResponse of images from `encode_listed`."""
    return b"".join((*images, pb.ListImagesResponse(next_page_token=next_page_token).SerializeToString()))


def encode_created(created: CreatedImage) -> bytes:
    """An encoded CreateImageResponse, made as `encode_get_response` does."""
    image = created.definition + _STATUS_FIELDS[ImageStatus.BUILDING_FIRST_TIME]
    moment = _timestamp(created.created_at)
    job = _NEW_JOB + jobs_pb2.JobMetadata(job_id=str(created.job_uuid), creation_time=moment).SerializeToString()
    return b"".join((_IMAGE_TAG, _varint(len(image)), image, _JOB_TAG, _varint(len(job)), job))


def fill_found(message: image_finder_pb2.FindImagesResponse.FoundImage, found: FoundImage) -> None:
    """Write an image that was found into an empty message."""
    message.image.MergeFromString(found.definition)
    message.image.status = _Image.Status.ValueType(found.status)
    message.matching_libraries.extend(_Image.PipLibrary(name=x.name, version=x.version) for x in found.matching)
    message.further_libraries = found.further


def fill_job(message: jobs_pb2.JobMetadata, job: StoredJob, *, full: bool) -> None:
    """Write a stored job into an empty message; progress only in the `full` view."""
    message.job_id = str(job.uuid)
    message.job_type = jobs_pb2.JOB_TYPE_IMAGE_BUILDER
    message.status = job_status_pb2.JobStatus.ValueType(job.status)
    message.termination_reason = jobs_pb2.TerminationReason.ValueType(job.termination_reason)
    message.running_time_secs = job.running_seconds
    message.cancellation_requested = job.cancel_requested
    message.creation_time.CopyFrom(_timestamp(job.created_at))
    if job.started_at:
        message.start_time.CopyFrom(_timestamp(job.started_at))
    if job.agent_id:
        message.agent_id.uuid = str(job.agent_id)
    if full:
        message.job_progress_str = job.progress


@lru_cache(4096)
def _varint(value: int) -> bytes:
    """A length as protobuf writes it: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _timestamp(moment: datetime) -> Timestamp:
    since = moment - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1_000)
