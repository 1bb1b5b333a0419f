"""rime-sdk 0.18.0 from PyPI, unmodified: its client and its generated stubs, directly and through the gateway."""

from __future__ import annotations

import asyncio

import pytest

from tests.acceptance.published_clients.driving import ClientError, Driver, PublishedClient
from tests.acceptance.published_clients.filling import fill, with_numpy
from tests.fixtures.rest import Rest


@pytest.fixture(params=["directly", "through the gateway"])
def sdk(request: pytest.FixtureRequest, grpc_0_18: Driver, product: Rest) -> PublishedClient:
    """The published client, talking to the product."""
    address = product.service.address if request.param == "directly" else str(product.address)
    return PublishedClient(grpc_0_18, address, "some-key")


async def test_create_wait_find_get_delete(product: Rest, sdk: PublishedClient) -> None:
    assert await sdk("has", name="vision") is False
    await sdk("create", name="vision", pips=[["numpy", ">=1.26"], ["pillow"]])
    waiting = asyncio.create_task(sdk("status", name="vision", wait_until_finish=True))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await product.service.report("vision", "numpy==1.26.4", "pillow==10.0")
    image = await waiting
    assert "Status: STATUS_READY" in sdk.printed
    assert image["pip_libraries"] == [{"name": "numpy", "version": "1.26.4"}, {"name": "pillow", "version": "10.0"}]
    assert image["repo_uri"] == "oci:/images/managed/vision"
    assert await sdk("has", name="vision", check_status=True) is True
    assert (await sdk("get", name="vision"))["base_image"]["reference_type"] == "REFERENCE_TYPE_MANAGED"
    await sdk("delete", name="vision")
    with pytest.raises(ClientError, match=r"^ValueError: Docker image with name vision does not exist"):
        await sdk("delete", name="vision")


@pytest.mark.parametrize("count", [0, 1, 20, 21, 45])
async def test_listing_ends_and_holds_every_image_once(product: Rest, sdk: PublishedClient, count: int) -> None:
    """With `legacy_page_echo`; the client repeats the filter beside each token."""
    names = await fill(product.service, count)
    assert [one["name"] for one in await sdk("list")] == names
    assert [one["name"] for one in await sdk("list", filters=[["NumPy", "1.26.4"], ["numpy"]])] == with_numpy(names)


async def test_jobs(product: Rest, sdk: PublishedClient) -> None:
    wanted = {"name": "vision", "pip_requirements": [{"name": "numpy"}]}
    job = (await sdk("stub", service="images", method="CreateImage", request=wanted))["job"]
    assert job["status"] == "JOB_STATUS_REQUESTED"
    assert job["job_type"] == "JOB_TYPE_IMAGE_BUILDER"
    found = await sdk("job", job_id=job["job_id"])
    assert found["class"] == "ImageBuilderJob"
    assert found["status"]["terminationReason"] == "TERMINATION_REASON_NOT_TERMINATED"
    await product.service.report("vision", "numpy==1.0")
    found = await sdk("job", job_id=job["job_id"], wait_until_finish=True)
    assert found["status"]["status"] == "JOB_STATUS_SUCCEEDED"
    with pytest.raises(ClientError, match=r"^ValueError: Did not find job id"):
        await sdk("job", job_id="00000000-0000-4000-8000-000000000000")
    listed = await sdk("stub", service="jobs", method="ListJobs", request={"page_size": 1})
    assert len(listed["jobs"]) == 1
    assert listed["has_more"] is True
    rest = {"page_size": 10, "page_token": listed["next_page_token"]}
    more = await sdk("stub", service="jobs", method="ListJobs", request=rest)
    assert listed["jobs"] != more["jobs"]
    assert more["has_more"] is False


async def test_the_internal_methods(product: Rest, sdk: PublishedClient) -> None:
    await sdk("stub", service="images", method="EnsureImageExistence", request={})
    report = {
        "name": "system-python-3-11",
        "built_successfully": True,
        "pip_libraries": [{"name": "pip", "version": "25.0"}],
    }
    await sdk("stub", service="images", method="UpdateBuildInfo", request=report)
    synced = await sdk("stub", service="images", method="SyncImageTag", request={"name": "system-python-3-11"})
    assert synced["image"]["status"] == "STATUS_READY"
    assert "job" not in synced
    again = {"name": "system-python-3-11", "force": True}
    assert (await sdk("stub", service="images", method="SyncImageTag", request=again))["job"]["job_id"]


async def test_errors_surface_with_the_servers_message(product: Rest, sdk: PublishedClient) -> None:
    with pytest.raises(ClientError, match=r"^ValueError: name: must match "):
        await sdk("create", name="No Name", pips=[["numpy"]])
    with pytest.raises(ClientError, match=r"^ValueError: there is no image named 'other'"):
        await sdk("get", name="other")
    with pytest.raises(ClientError, match=r"^ValueError: INVALID_ARGUMENT: .*page token"):
        await sdk("stub", service="images", method="ListImages", request={"page_token": "forged"})
    await product.service.create("vision")
    with pytest.raises(ClientError, match=r"^ValueError: .*system"):
        await sdk("delete", name="system-python-3-11")
