"""The main job over gRPC: create, build result, list by library, get, delete."""

import grpc
import pytest
from grpc import aio
from grpc_status import rpc_status
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import job_status_pb2, jobs_pb2

from tests.fixtures.service import Service

Image = pb.ManagedImage


async def test_create_report_find_get_delete(service: Service) -> None:
    created = await service.create("vision", "numpy", python_version="3.11")
    assert created.image.status == Image.STATUS_BUILDING_FIRST_TIME
    assert created.image.base_image.name == "system-python-3-11"
    assert created.image.base_image.reference_type == pb.ImageReference.REFERENCE_TYPE_MANAGED
    assert created.image.repo_uri == "oci:/images/managed/vision"
    assert created.image.rime_tag == "v1"
    assert created.job.status == job_status_pb2.JOB_STATUS_REQUESTED
    assert created.job.job_type == jobs_pb2.JOB_TYPE_IMAGE_BUILDER

    await service.report("vision", "numpy==1.26.4", "Pillow==10.0")
    image = await service.get("vision")
    assert image.status == Image.STATUS_READY
    assert [(x.name, x.version) for x in image.pip_libraries] == [("numpy", "1.26.4"), ("Pillow", "10.0")]
    job = await service.job(created.job.job_id)
    assert job.status == job_status_pb2.JOB_STATUS_SUCCEEDED
    assert job.termination_reason == jobs_pb2.TERMINATION_REASON_COMPLETED

    wanted = pb.ListImagesRequest(pip_libraries=[{"name": "PILLOW", "version": "10"}])
    listed = await service.images.ListImages(wanted)
    assert [one.name for one in listed.images] == ["vision"]

    await service.images.DeleteImage(pb.DeleteImageRequest(name="vision"))
    with pytest.raises(aio.AioRpcError) as caught:
        await service.get("vision")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    status = rpc_status.from_call(caught.value)
    assert status is not None
    assert [detail.TypeName() for detail in status.details] == ["google.rpc.ErrorInfo", "google.rpc.ResourceInfo"]


async def test_the_system_image_is_made_with_the_first_image_and_listed(service: Service) -> None:
    await service.create("one")
    listed = await service.images.ListImages(pb.ListImagesRequest())
    assert [(one.name, one.role_type) for one in listed.images] == [
        ("one", Image.ROLE_TYPE_USER_DEFINED),
        ("system-python-3-12", Image.ROLE_TYPE_SYSTEM),
    ]
    assert [child.name for child in (await service.get("system-python-3-12")).child_images] == ["one"]
