"""Definitions are put together out of encoded parts; what comes of it is the message that they describe."""

from datetime import UTC, datetime
from uuid import UUID

from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import jobs_pb2

from image_registry.codec import decode_definition, encode_created, encode_definition
from image_registry.models import (
    CreatedImage,
    ImageDefinition,
    ImageReference,
    PackageRequirement,
    PackageType,
    PipLibrary,
    PipRequirement,
    ReferenceType,
    RoleType,
)

DEFINITION = ImageDefinition(
    name="vision",
    role=RoleType.USER_DEFINED,
    python_version="3.12",
    base_image=ImageReference("system-python-3-12", ReferenceType.MANAGED),
    repo_uri="oci:/images/vision",
    platform_tag="v1",
    pip_requirements=(PipRequirement("numpy", ">=1,<2"), PipRequirement("é[x]"), PipRequirement("numpy", ">=1,<2")),
    package_requirements=(PackageRequirement("tree", "1.0", PackageType.APT),),
    pip_libraries=(PipLibrary("numpy", "1.26.4"), PipLibrary("x", "1")),
)
MESSAGE = pb.ManagedImage(
    name="vision",
    role_type=pb.ManagedImage.ROLE_TYPE_USER_DEFINED,
    python_version="3.12",
    base_image=pb.ImageReference(
        name="system-python-3-12", reference_type=pb.ImageReference.REFERENCE_TYPE_MANAGED
    ),
    repo_uri="oci:/images/vision",
    rime_tag="v1",
    pip_requirements=[
        {"name": "numpy", "version_specifier": ">=1,<2"},
        {"name": "é[x]"},
        {"name": "numpy", "version_specifier": ">=1,<2"},
    ],
    package_requirements=[
        {"name": "tree", "version_specifier": "1.0", "package_type": pb.ManagedImage.PACKAGE_TYPE_APT}
    ],
    pip_libraries=[{"name": "numpy", "version": "1.26.4"}, {"name": "x", "version": "1"}],
)  # fmt: skip


def test_a_definition_is_its_message_and_comes_back() -> None:
    encoded = encode_definition(DEFINITION)
    assert pb.ManagedImage.FromString(encoded) == MESSAGE
    assert decode_definition(encoded) == DEFINITION


def test_what_a_create_is_answered() -> None:
    job, moment = UUID(int=7), datetime(2026, 11, 28, 17, 0, 0, 250_000, tzinfo=UTC)
    found = pb.CreateImageResponse.FromString(encode_created(CreatedImage(encode_definition(DEFINITION), job, moment)))
    image = pb.ManagedImage(status=pb.ManagedImage.STATUS_BUILDING_FIRST_TIME)
    image.MergeFrom(MESSAGE)
    assert found.image == image
    assert found.job.job_id == str(job)
    assert found.job.job_type == jobs_pb2.JOB_TYPE_IMAGE_BUILDER
    assert found.job.termination_reason == jobs_pb2.TERMINATION_REASON_NOT_TERMINATED
    assert found.job.creation_time.ToDatetime(UTC) == moment
