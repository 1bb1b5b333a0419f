"""Both clients against the real service; builds' results come through UpdateBuildInfo."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from grpc import aio

from image_registry.client import (
    AlreadyExistsError,
    AsyncImageRegistryClient,
    BuildCancelledError,
    BuildFailedError,
    CreateImageResult,
    DeadlineExceededError,
    FailedPreconditionError,
    ImageRegistryClient,
    ImageStatus,
    InvalidArgumentError,
    JobStatus,
    NotFoundError,
    PackageRequirement,
    PackageType,
    PermissionDeniedError,
    PipLibrary,
    PipRequirement,
    RetryPolicy,
    RoleType,
    TerminationReason,
    UnavailableError,
    UnimplementedError,
    WaitProgress,
    WaitTimeoutError,
)
from image_registry.host.addresses import free_port
from tests.fixtures.service import Service

READY = ["numpy==1.26.4", "Pillow==10.0"]


@pytest.fixture
async def registry(service: Service) -> AsyncIterator[AsyncImageRegistryClient]:
    async with AsyncImageRegistryClient(service.address) as client:
        yield client


async def test_create_wait_find_get_delete(registry: AsyncImageRegistryClient) -> None:
    created = await registry.create_image(
        "vision", ["numpy>=1.26", "uvicorn[standard]"], ["git"], python_version="3.11"
    )
    assert created.image.status is ImageStatus.BUILDING_FIRST_TIME
    assert created.image.role_type is RoleType.USER_DEFINED
    assert created.image.pip_requirements == (
        PipRequirement("numpy", ">=1.26"),
        PipRequirement("uvicorn[standard]", ""),
    )
    assert created.image.package_requirements == (PackageRequirement("git", "", PackageType.APT),)
    assert created.image.repo_uri == "oci:/images/managed/vision"
    assert created.job.status is JobStatus.REQUESTED
    assert created.job.creation_time is not None
    assert created.job.creation_time.tzinfo is not None
    assert created.job.start_time is None

    seen: list[WaitProgress] = []
    looked = asyncio.Event()

    def look(progress: WaitProgress) -> None:
        seen.append(progress)
        looked.set()

    waiting = asyncio.create_task(registry.wait(created, on_progress=look))
    await looked.wait()
    assert seen[0].base is not None
    assert seen[0].base.name == "system-python-3-11"
    await registry.update_build_info("vision", built_successfully=True, pip_libraries=READY)
    image = await waiting
    assert image.status is ImageStatus.READY
    assert image.library_version("PILLOW") == "10.0"
    assert seen[-1].job is not None
    assert seen[-1].job.termination_reason is TerminationReason.COMPLETED

    assert [one.name async for one in registry.list_images(["pillow==10"])] == ["vision"]
    assert [one.name async for one in registry.list_images(["pillow", "numpy==1.0"])] == []
    base = await registry.get_image("system-python-3-11")
    assert [child.name for child in base.child_images] == ["vision"]
    await registry.delete_image("vision")
    with pytest.raises(NotFoundError) as caught:
        await registry.get_image("vision")
    assert caught.value.reason == "IMAGE_NOT_FOUND"
    assert caught.value.resource is not None
    assert caught.value.resource.name == "vision"


async def test_find_before_build(registry: AsyncImageRegistryClient, service: Service) -> None:
    made = await registry.create_image("vision", ["numpy"], python_version="3.11", reuse=True)
    assert isinstance(made, CreateImageResult)
    await service.report("vision", "numpy==1.26.4", "pandas==2.0")
    (found,) = await registry.find_images(["NumPy>=1.26,<2"])
    assert (found.image.name, found.matching_libraries, found.further_libraries) == (
        "vision",
        (PipLibrary("numpy", "1.26.4"),),
        1,
    )
    assert await registry.create_image("other", ["numpy<2"], reuse=True) == found
    assert await registry.wait(found) == found.image
    assert await registry.find_images(["numpy"], python_version="3.12") == []
    assert isinstance(await registry.create_image("other", ["numpy>=2"], reuse=True), CreateImageResult)
    with pytest.raises(InvalidArgumentError):
        await registry.find_images(["numpy", "NumPy"])

    def work() -> None:
        with ImageRegistryClient(service.address) as sync:
            assert sync.find_images(["NumPy>=1.26,<2"]) == [found]
            assert sync.create_image("more", ["numpy<2"], reuse=True) == found
            assert sync.find_images(["numpy"], ["git"]) == []

    await asyncio.to_thread(work)


async def test_a_create_can_be_repeated_under_an_id(registry: AsyncImageRegistryClient) -> None:
    first = await registry.create_image("vision", ["numpy"], request_id="id-1")
    assert await registry.create_image("vision", ["numpy"], request_id="id-1") == first
    with pytest.raises(FailedPreconditionError) as caught:
        await registry.create_image("vision", ["pandas"], request_id="id-1")
    assert caught.value.reason == "REQUEST_ID_REUSED"
    with pytest.raises(AlreadyExistsError):
        await registry.create_image("vision", ["numpy"])
    with pytest.raises(ValueError, match="request_id"):
        await registry.create_image("vision", ["numpy"], request_id="a b")


async def test_the_sync_client_does_the_same(service: Service) -> None:
    def work() -> list[str]:
        with ImageRegistryClient(service.address) as registry:
            created = registry.create_image("vision", ["numpy"])
            registry.update_build_info("vision", built_successfully=True, pip_libraries=READY)
            image = registry.wait(created)
            assert image.pip_libraries == (PipLibrary("numpy", "1.26.4"), PipLibrary("Pillow", "10.0"))
            assert registry.wait("vision") == image
            assert registry.get_job(created.job.job_id).status is JobStatus.SUCCEEDED
            assert [job.job_id for job in registry.list_jobs([JobStatus.SUCCEEDED])] == [created.job.job_id]
            synced = registry.sync_image_tag("vision")
            assert synced.job is None
            registry.ensure_image_existence()
            names = [one.name for one in registry.list_images(page_size=1)]
            registry.delete_image("vision")
            with pytest.raises(NotFoundError):
                registry.get_image("vision")
            return names

    assert await asyncio.to_thread(work) == ["system-python-3-11", "system-python-3-12", "vision"]


async def test_listings_are_fetched_page_by_page_as_they_are_read(registry: AsyncImageRegistryClient) -> None:
    for number in range(5):
        await registry.create_image(f"image-{number}", ["numpy"])
    listing = registry.list_images(page_size=2)
    assert (await anext(listing)).name == "image-0"
    await registry.delete_image("image-4")  # on a page that is not fetched yet
    assert [one.name async for one in listing] == ["image-1", "image-2", "image-3", "system-python-3-12"]
    jobs = [job async for job in registry.list_jobs(image_name="image-4", page_size=1, full=True)]
    assert [job.job_progress_str for job in jobs] == ["cancelled: image deleted"]


async def test_every_fault_of_a_request_arrives(registry: AsyncImageRegistryClient) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await registry.create_image("No", [PipRequirement("a b"), PipRequirement("x", ">>1")], python_version="2.7")
    assert [fault.field for fault in caught.value.faults] == [
        "name",
        "pipRequirements[0].name",
        "pipRequirements[1].versionSpecifier",
        "pythonVersion",
    ]


async def test_refusals_have_their_classes(registry: AsyncImageRegistryClient) -> None:
    created = await registry.create_image("vision", ["numpy"])
    with pytest.raises(AlreadyExistsError):
        await registry.create_image("vision", ["numpy"])
    with pytest.raises(PermissionDeniedError):
        await registry.delete_image("system-python-3-12")
    await registry.update_build_info("vision", built_successfully=True)
    with pytest.raises(FailedPreconditionError):
        await registry.cancel_job(created.job.job_id)


async def test_a_failed_and_a_cancelled_build_end_the_waiting(registry: AsyncImageRegistryClient) -> None:
    created = await registry.create_image("vision", ["numpy"])
    await registry.update_build_info("vision", built_successfully=False)
    with pytest.raises(BuildFailedError, match="reported FAILED"):
        await registry.wait(created)
    again = await registry.sync_image_tag("vision", force=True)
    assert again.job is not None
    await registry.cancel_job(again.job.job_id)
    await registry.cancel_job(again.job.job_id)
    with pytest.raises(BuildCancelledError):
        await registry.wait(again)


async def test_waiting_can_be_bounded(registry: AsyncImageRegistryClient) -> None:
    created = await registry.create_image("vision", ["numpy"])
    with pytest.raises(WaitTimeoutError):
        await registry.wait(created, timeout=0.3)


@pytest.mark.parametrize("call", ["get_image", "delete_image"])
async def test_an_unreachable_server_is_one_error_soon(call: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    policy = RetryPolicy(attempts=2, first_delay=0.01)
    async with AsyncImageRegistryClient(address, connect_timeout=0.2, retry=policy) as registry:
        with pytest.raises(UnavailableError, match=f"{address} can't be reached: .*refused.*image-registry up"):
            await getattr(registry, call)("vision")

    def work() -> None:
        with ImageRegistryClient(address, connect_timeout=0.2, retry=policy) as registry:
            getattr(registry, call)("vision")

    with pytest.raises(UnavailableError, match=f"{address} can't be reached: .*refused.*image-registry up"):
        await asyncio.to_thread(work)


async def test_a_closed_client_opens_again(registry: AsyncImageRegistryClient) -> None:
    await registry.create_image("vision", ["numpy"])
    await registry.close()
    assert (await registry.get_image("vision")).name == "vision"


async def test_a_write_waits_for_a_server_that_comes_up_late() -> None:
    address = f"127.0.0.1:{free_port()}"
    async with AsyncImageRegistryClient(address, connect_timeout=10) as registry:
        call = asyncio.create_task(registry.delete_image("vision"))
        await asyncio.sleep(0.1)  # so that the first attempt to connect has failed
        server = aio.server()
        server.add_insecure_port(address)
        await server.start()
        try:
            with pytest.raises(UnimplementedError):  # it was sent, to a server without any service
                await call
        finally:
            await server.stop(None)


async def test_the_deadline_of_a_call_is_kept(service: Service, dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as sql:
        await sql.execute("lock table images in access exclusive mode")  # no answer is quick enough
        async with AsyncImageRegistryClient(service.address, timeout=0.3) as registry:
            with pytest.raises(DeadlineExceededError):
                await registry.get_image("vision")


class Recorder(aio.ServerInterceptor):
    """Notes the metadata of every call."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        self.seen.append(dict(handler_call_details.invocation_metadata))
        return await continuation(handler_call_details)


async def test_every_call_carries_the_key_and_the_user_agent() -> None:
    recorder = Recorder()
    server = aio.server(interceptors=[recorder])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with AsyncImageRegistryClient(f"127.0.0.1:{port}", api_key="secret-1") as registry:
            for call in (registry.get_image("x"), registry.delete_image("x"), registry.ensure_image_existence()):
                with pytest.raises(UnimplementedError):
                    await call
            with pytest.raises(UnimplementedError):
                await anext(registry.read_job_logs("x"))
    finally:
        await server.stop(None)
    assert len(recorder.seen) == 5  # a write is preceded by the probe
    assert {seen["rime-api-key"] for seen in recorder.seen} == {"secret-1"}
    assert all(seen["user-agent"].startswith("image-registry-python/") for seen in recorder.seen)
