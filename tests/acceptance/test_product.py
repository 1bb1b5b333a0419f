"""The product as a user meets it: `up`, then the main job over both doors, with a real worker and real builds."""

import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry.image_registry_pb2_grpc import ImageRegistryStub

from tests.fixtures.base_image import TestBase
from tests.fixtures.product import Product, clean_environment, running_product
from tests.fixtures.rootfs import unpack_image

BUILD_SECONDS = 90.0


@pytest.fixture(scope="module")
def product(debian_base: TestBase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    bases = f"{debian_base.python_version}={debian_base.reference}"
    with running_product(tmp_path_factory.mktemp("product") / "data", BASE_IMAGES=bases) as running:
        yield running


@pytest.fixture(scope="module")
def channel(product: Product) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(product.grpc_address) as open_channel:
        yield open_channel


@pytest.fixture
def images(channel: grpc.Channel) -> ImageRegistryStub:
    return ImageRegistryStub(channel)


def rest(product: Product, method: str, path: str, body: Any = None) -> Any:
    """One call over REST; its JSON, or the text of another type."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{product.http_address}{path}", data, method=method)
    with urllib.request.urlopen(request, timeout=20) as answer:
        text = answer.read().decode()
        return json.loads(text) if answer.headers["content-type"] == "application/json" else text


def until(condition: Callable[[], Any], product: Product) -> Any:
    """The first true value of `condition`; with the product's logs if there is none in time."""
    give_up = time.monotonic() + BUILD_SECONDS
    while time.monotonic() < give_up:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError(product.logs())


def test_the_main_job_over_both_doors(product: Product, images: ImageRegistryStub, tmp_path: Path) -> None:
    created = images.CreateImage(
        pb.CreateImageRequest(
            name="vision", pip_requirements=[{"name": "numpy", "version_specifier": ">=1.26"}, {"name": "rich"}]
        )
    )
    assert created.image.status == pb.ManagedImage.STATUS_BUILDING_FIRST_TIME

    def over() -> Any:
        image = images.GetImage(pb.GetImageRequest(name="vision")).image
        return image if image.status != pb.ManagedImage.STATUS_BUILDING_FIRST_TIME else None

    image = until(over, product)
    assert image.status == pb.ManagedImage.STATUS_READY, product.logs()
    installed = {library.name: library.version for library in image.pip_libraries}
    assert {"numpy", "rich", "pip"} <= set(installed)

    found = images.ListImages(pb.ListImagesRequest(pip_libraries=[{"name": "NumPy", "version": installed["numpy"]}]))
    assert [one.name for one in found.images] == ["vision"]
    listed = rest(product, "POST", "/v1/images/list", {"pipLibraries": [{"name": "rich"}]})
    assert [one["name"] for one in listed["images"]] == ["vision"]
    assert rest(product, "GET", "/v1/images/vision")["image"]["status"] == "STATUS_READY"

    job = rest(product, "GET", f"/v1/jobs/{created.job.job_id}?view=JOB_VIEW_FULL")["job"]
    assert job["status"] == "JOB_STATUS_SUCCEEDED"
    assert job["jobProgressStr"].startswith("resolve ")
    assert "push: done in" in rest(product, "GET", f"/v1/jobs/{created.job.job_id}/logs")

    layout = Path(image.repo_uri.removeprefix("oci:"))
    rootfs = unpack_image(layout, "latest", tmp_path / "rootfs")
    said = rootfs.run("python", "-c", "import numpy, rich; print(numpy.__version__, numpy.arange(4).sum())")
    assert said.split() == [installed["numpy"], "6"]
    shown = json.loads(rootfs.run("python", "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"))
    assert {entry["name"]: entry["version"] for entry in shown} == installed
    shutil.rmtree(tmp_path / "rootfs")

    rest(product, "DELETE", "/v1/images/vision")
    with pytest.raises(urllib.error.HTTPError) as caught:
        rest(product, "GET", "/v1/images/vision")
    with caught.value as refusal:
        assert (refusal.code, json.loads(refusal.read())["code"]) == (404, 5)
    until(lambda: not layout.exists(), product)


def test_requirements_that_cannot_be_met_fail_with_the_resolvers_words(
    product: Product, images: ImageRegistryStub
) -> None:
    created = images.CreateImage(
        pb.CreateImageRequest(name="never", pip_requirements=[{"name": "numpy", "version_specifier": "==1.99.99"}])
    )

    def over() -> Any:
        job = rest(product, "GET", f"/v1/jobs/{created.job.job_id}?view=JOB_VIEW_FULL")["job"]
        return job if job["status"] in {"JOB_STATUS_FAILED", "JOB_STATUS_SUCCEEDED"} else None

    job = until(over, product)
    assert job["status"] == "JOB_STATUS_FAILED"
    assert job["terminationReason"] == "TERMINATION_REASON_GENERIC_ERROR"
    assert "failed in resolve" in job["jobProgressStr"]
    assert "numpy==1.99.99" in job["jobProgressStr"]
    assert rest(product, "GET", "/v1/images/never")["image"]["status"] == "STATUS_FAILED"


def test_health_per_service_and_over_rest(product: Product, channel: grpc.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    for name in ("", "rime.ImageRegistry", "rime.JobReader", "rime.JobLogs"):
        assert stub.Check(health_pb2.HealthCheckRequest(service=name)).status == 1, name
    with urllib.request.urlopen(f"http://{product.http_address}/healthz", timeout=5) as answer:
        assert answer.status == 200


def test_reflection_names_the_services(channel: grpc.Channel) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    [answer] = stub.ServerReflectionInfo(asked)
    names = {service.name for service in answer.list_services_response.service}
    assert {"rime.ImageRegistry", "rime.JobReader", "rime.JobLogs", "grpc.health.v1.Health"} <= names


def test_a_second_up_on_the_same_folder_names_the_first(product: Product) -> None:
    again = [sys.executable, "-m", "image_registry", "up", "--data-dir", str(product.data_dir)]
    addresses = ["--grpc-address", product.grpc_address, "--http-address", product.http_address]
    done = subprocess.run(
        [*again, *addresses], env=clean_environment(), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert str(product.process.pid) in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["up", "--no-such-flag"], "No such option"),
        (["up", "--grpc-address", "nowhere"], "'nowhere' is no address: write host:port"),
        (["up", "--http-address", "0.0.0.0:80"], "can be reached from other machines"),
        (["serve"], "can't be used"),
        (["migrate"], "can't be used"),
    ],
)
def test_a_slip_is_answered_in_one_sentence(tmp_path: Path, arguments: list[str], says: str) -> None:
    nowhere = {"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:9/d", "DATA_DIR": str(tmp_path / "data")}
    done = subprocess.run(
        [sys.executable, "-m", "image_registry", *arguments],
        env=clean_environment(**nowhere),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode != 0
    assert says in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data" / "postgres").exists()
