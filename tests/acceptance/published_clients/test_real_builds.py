"""The published clients against `image-registry up` as a user runs it, where a real worker builds real images."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.acceptance.published_clients.driving import Driver, PublishedClient
from tests.fixtures.base_image import TestBase
from tests.fixtures.product import Product, running_product

RELEASES = ("rest_2_0", "rest_2_13", "grpc_0_18")


@pytest.fixture(scope="module")
def up(debian_base: TestBase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """The whole product in processes of its own, for clients of every age."""
    bases = f"{debian_base.python_version}={debian_base.reference}"
    folder = tmp_path_factory.mktemp("up") / "data"
    with running_product(folder, BASE_IMAGES=bases, LEGACY_PAGE_ECHO="true") as running:
        yield running


@pytest.mark.timeout(300)
@pytest.mark.parametrize("release", RELEASES)
async def test_an_image_is_made_waited_for_found_and_deleted(
    up: Product, request: pytest.FixtureRequest, release: str
) -> None:
    driver: Driver = await asyncio.to_thread(request.getfixturevalue, release)
    sdk = PublishedClient(driver, up.http_address if release == "grpc_0_18" else f"http://{up.http_address}")
    name = release.replace("_", "-")
    await sdk("create", name=name, pips=[["rich"], ["numpy", ">=1.26"]])
    image = await sdk("status", name=name, wait_until_finish=True)
    assert image["status"] == "STATUS_READY", up.logs()
    installed = {library["name"]: library["version"] for library in image["pip_libraries"]}
    assert {"numpy", "rich", "pip"} <= set(installed)
    assert image["repo_uri"] == f"oci:{up.data_dir}/images/managed/{name}"

    found = await sdk("list", filters=[["NumPy", installed["numpy"]], ["rich"]])
    assert name in [one["name"] for one in found]
    assert await sdk("has", name=name, check_status=True) is True
    await sdk("delete", name=name)
    assert await sdk("has", name=name) is False


@pytest.mark.timeout(300)
@pytest.mark.parametrize("release", RELEASES[:2])
async def test_a_build_that_cannot_succeed_ends_the_waiting(
    up: Product, request: pytest.FixtureRequest, release: str
) -> None:
    driver: Driver = await asyncio.to_thread(request.getfixturevalue, release)
    sdk = PublishedClient(driver, f"http://{up.http_address}")
    name = f"never-{release.replace('_', '-')}"
    job_id = (await sdk("create_raw", name=name, specifier="==1.99.99"))["job"]["job_id"]
    assert (await sdk("status", name=name, wait_until_finish=True))["status"] == "STATUS_FAILED"
    job = (await sdk("job", job_id=job_id, wait_until_finish=True))["status"]
    assert job["status"] == "JOB_STATUS_FAILED"
    assert "numpy==1.99.99" in job["job_progress_str"]
    assert await sdk("agent", job_id=job_id)
    assert f"Debug logs for the job can found in your blob storage for your job {job_id}" in await sdk(
        "logs_link", job_id=job_id
    )
