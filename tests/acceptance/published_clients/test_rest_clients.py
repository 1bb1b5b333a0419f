"""rime-sdk 2.0.17 and 2.13.2 from PyPI, unmodified, over REST."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ri.api.imageregistry import jobs_pb2

from tests.acceptance.published_clients.driving import ClientError, Driver, PublishedClient
from tests.acceptance.published_clients.filling import fill, with_numpy
from tests.fixtures.rest import Rest


@pytest.fixture(params=["rest_2_0", "rest_2_13"])
def sdk(request: pytest.FixtureRequest, product: Rest) -> PublishedClient:
    """The published client, talking to the product."""
    return PublishedClient(request.getfixturevalue(request.param), product.url, "some-key")


async def test_create_wait_find_get_delete(product: Rest, sdk: PublishedClient) -> None:
    assert await sdk("has", name="vision") is False
    made = await sdk("create", name="vision", pips=[["numpy", ">=1.26"], ["pillow"]], python_version="3.11")
    assert made.startswith("ImageBuilder {'name': 'vision'")

    assert (await sdk("status", name="vision", wait_until_finish=False))["status"] == "STATUS_BUILDING_FIRST_TIME"
    assert await sdk("has", name="vision") is True
    assert await sdk("has", name="vision", check_status=True) is False

    waiting = asyncio.create_task(sdk("status", name="vision", wait_until_finish=True))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await product.service.report("vision", "numpy==1.26.4", "pillow==10.0")
    image = await waiting
    assert "Status: STATUS_READY" in sdk.printed
    assert image["status"] == "STATUS_READY"
    assert image["pip_libraries"] == [
        {"name": "numpy", "version": "1.26.4"},
        {"name": "pillow", "version": "10.0"},
    ]
    assert image["pip_requirements"] == [
        {"name": "numpy", "version_specifier": ">=1.26"},
        {"name": "pillow", "version_specifier": ""},
    ]
    assert image["python_version"] == "3.11"
    assert image["role_type"] == "ROLE_TYPE_USER_DEFINED"
    assert image["base_image"] == {"name": "system-python-3-11", "reference_type": "REFERENCE_TYPE_MANAGED"}
    assert image["repo_uri"] == "oci:/images/managed/vision"
    assert image["rime_tag"] == "v1"
    assert image["child_images"] == []
    assert image["package_requirements"] == []

    assert await sdk("has", name="vision", check_status=True) is True
    assert await sdk("get", name="vision") == image
    assert [one["name"] for one in await sdk("list", filters=[["Pillow", "10"]])] == ["vision"]
    await sdk("delete", name="vision")
    assert "successfully deleted" in sdk.printed
    assert await sdk("has", name="vision") is False


async def test_waiting_ends_when_a_build_fails(product: Rest, sdk: PublishedClient) -> None:
    await sdk("create", name="vision", pips=[["numpy"]])
    await product.service.report("vision", ok=False)
    assert (await sdk("status", name="vision", wait_until_finish=True))["status"] == "STATUS_FAILED"


@pytest.mark.parametrize("count", [0, 1, 20, 21, 45])
async def test_listing_ends_and_holds_every_image_once(product: Rest, sdk: PublishedClient, count: int) -> None:
    names = await fill(product.service, count)
    assert [one["name"] for one in await sdk("list")] == names
    assert [one["name"] for one in await sdk("list", filters=[])] == names


@pytest.mark.parametrize("count", [1, 40, 45])
async def test_listing_with_filters_ends_too(product: Rest, sdk: PublishedClient, count: int) -> None:
    names = await fill(product.service, count)
    assert [one["name"] for one in await sdk("list", filters=[["NumPy"]])] == with_numpy(names)
    assert [one["name"] for one in await sdk("list", filters=[["numpy", "1.26.4"], ["numpy"]])] == with_numpy(names)
    assert await sdk("list", filters=[["numpy", "2"]]) == []


async def test_the_generated_calls_page_by_get(product: Rest, sdk: PublishedClient) -> None:
    names = await fill(product.service, 21)
    first = await sdk("list_by_get", page_size=20)
    assert [one["name"] for one in first["images"]] == names[:20]
    last = await sdk("list_by_get", page_size=20, page_token=first["next_page_token"])
    assert [one["name"] for one in last["images"]] == names[20:]
    assert last["next_page_token"] == first["next_page_token"]


async def test_jobs_are_looked_up_waited_for_and_cancelled(product: Rest, sdk: PublishedClient) -> None:
    job_id = (await sdk("create_raw", name="vision"))["job"]["job_id"]
    found = await sdk("job", job_id=job_id)
    assert found["class"] == "ImageBuilderJob"
    assert found["status"]["status"] == "JOB_STATUS_REQUESTED"
    assert found["status"]["job_type"] == "JOB_TYPE_IMAGE_BUILDER"
    assert found["status"]["cancellation_requested"] is False
    assert found["status"]["creation_time"]
    assert f"Job '{job_id}' started at" in sdk.printed

    # The client's own rule; its generated call has none.
    with pytest.raises(ClientError, match="Cancelling jobs is only supported for"):
        await sdk("job_cancel", job_id=job_id)
    await sdk("cancel", job_id=job_id)
    await sdk("cancel", job_id=job_id)
    assert (await sdk("job", job_id=job_id, wait_until_finish=True))["status"]["status"] == "JOB_STATUS_CANCELLED"
    assert (await sdk("get", name="vision"))["status"] == "STATUS_FAILED"


async def test_a_failed_job_is_told_without_an_error(product: Rest, sdk: PublishedClient) -> None:
    job_id = (await sdk("create_raw", name="vision"))["job"]["job_id"]
    await product.service.report("vision", ok=False)
    job = await sdk("job", job_id=job_id, wait_until_finish=True)
    assert job["status"]["status"] == "JOB_STATUS_FAILED"
    assert "Debug Logs: " in sdk.printed
    assert await sdk("logs_link", job_id=job_id)


async def test_errors_surface_with_the_servers_message(product: Rest, sdk: PublishedClient) -> None:
    await sdk("create", name="vision", pips=[["numpy"]])
    refused: dict[str, tuple[str, dict[str, Any]]] = {
        "there is already an image|already": ("create", {"name": "vision", "pips": [["numpy"]]}),
        "name: must match": ("create", {"name": "No Name", "pips": [["numpy"]]}),
        "pipRequirements: must hold at least one": ("create", {"name": "other", "pips": []}),
        r"pipRequirements\[0\].versionSpecifier: ": ("create", {"name": "other", "pips": [["numpy", "newest"]]}),
        "pythonVersion: must be one of 3.11": ("create", {"name": "other", "pips": [["a"]], "python_version": "2.7"}),
        "there is no image named 'other'": ("get", {"name": "other"}),
        r"pipLibraries\[0\].version: ": ("list", {"filters": [["numpy", ""]]}),
    }
    for message, (call, arguments) in refused.items():
        with pytest.raises(ClientError, match=f"^ValueError: .*(Bad Request|Conflict|Not Found): .*{message}"):
            await sdk(call, **arguments)


async def test_system_packages_of_the_wrong_kind_are_explained(product: Rest, sdk: PublishedClient) -> None:
    """The client's helper asks for Rocky Linux packages always; the bases of this deployment are Debian's."""
    with pytest.raises(ClientError, match=r"packageRequirements\[0\].packageType: must be PACKAGE_TYPE_APT"):
        await sdk("create", name="vision", pips=[["numpy"]], packages=[["vim"]])


async def test_errors_that_the_client_words_itself(product: Rest, sdk: PublishedClient) -> None:
    with pytest.raises(ClientError, match=r"^ValueError: Docker image with name other does not exist"):
        await sdk("delete", name="other")
    with pytest.raises(ClientError, match=r"^ValueError: job id `some-job` is not a valid job id"):
        await sdk("job", job_id="some-job")
    with pytest.raises(ClientError, match=r"^ValueError: Did not find job id `00000000-"):
        await sdk("job", job_id="00000000-0000-4000-8000-000000000000")
    await product.service.create("vision")
    with pytest.raises(ClientError, match=r"^ValueError: Forbidden$"):
        await sdk("delete", name="system-python-3-11")


async def test_the_gateways_own_refusals_surface_too(product: Rest, sdk: PublishedClient) -> None:
    await product.service.server.grpc.stop(None)
    with pytest.raises(ClientError, match=r"^ValueError: Service Unavailable: the service is not available right now"):
        await sdk("create", name="vision", pips=[["numpy"]])
    with pytest.raises(ClientError, match=r"^ValueError: Bad Request: .*an escape that is not allowed"):
        await sdk("get", name="a/b")


async def test_builders_of_2_13_report(product: Rest, rest_2_13: Driver) -> None:
    sdk = PublishedClient(rest_2_13, product.url)
    await sdk("create", name="vision", pips=[["numpy"]])
    await sdk("report", name="vision", libraries=[{"name": "numpy", "version": "2.0"}])
    assert (await sdk("get", name="vision"))["status"] == "STATUS_READY"
    with pytest.raises(ClientError, match="Bad Request"):
        await sdk("report", name="vision", libraries=[])


async def test_who_ran_a_job(product: Rest, sdk: PublishedClient) -> None:
    """`get_agent_id` reads a field without looking whether it is there, which it is once a worker has the job."""
    job_id = (await sdk("create_raw", name="vision"))["job"]["job_id"]
    with pytest.raises(ClientError, match=r"^AttributeError: 'NoneType' object has no attribute 'uuid'"):
        await sdk("agent", job_id=job_id)
    listed = await product.service.jobs.ListJobs(jobs_pb2.ListJobsRequest())
    assert job_id in [job.job_id for job in listed.jobs]
