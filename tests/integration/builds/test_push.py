"""Images into a real container registry (Debian's docker-registry)."""

import dataclasses
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from image_registry.builds.credentials import Keyring
from image_registry.builds.plan import BuildFailed, BuildPlan, BuildResult, FailureReason, RegistryAccess
from image_registry.builds.repositories.opening import open_home
from tests.fixtures.base_image import TestBase
from tests.fixtures.docker_registry import DockerRegistry, breaking_line
from tests.fixtures.moody_line import moody_line
from tests.fixtures.package_index import PackageIndex, make_wheel
from tests.fixtures.rootfs import unpack_image
from tests.integration.builds.conftest import Builder
from tests.integration.builds.test_platforms import BASES, write_base

pytestmark = pytest.mark.system


@pytest.fixture
def small(builder: Builder, tmp_path: Path) -> Builder:
    """A builder whose base image has a few hundred bytes, for what isn't run."""
    builder.base = TestBase(write_base(tmp_path / "base", BASES["glibc"]("3.11")), tmp_path / "base", "3.11")
    return builder


def in_registry(plan: BuildPlan, host: str, name: str = "image", **changes: Any) -> BuildPlan:
    """The plan with a repository in the registry as its destination."""
    return dataclasses.replace(
        plan,
        destination=f"{host}/prefix/{name}",
        destination_root=f"{host}/prefix",
        registries=(RegistryAccess(host=host, endpoint=f"http://{host}"),),
        **changes,
    )


async def build(builder: Builder, plan: BuildPlan) -> BuildResult:
    names = [field.name for field in dataclasses.fields(plan)]
    return await builder.build(
        *plan.requirements, **{name: getattr(plan, name) for name in names if name != "requirements"}
    )


def delete(plan: BuildPlan, owner: str) -> bool:
    keyring = Keyring(endpoints={access.host: access.endpoint for access in plan.registries})
    return open_home(plan.destination_root, keyring).delete(plan.destination, owner)


async def test_image_in_the_registry_is_the_same_and_runs(
    builder: Builder, package_index: PackageIndex, docker_registry: DockerRegistry, tmp_path: Path
) -> None:
    package_index.add(make_wheel("lib"), make_wheel("large", files={"large/data.bin": os.urandom(2_000_000)}))
    local = await builder.build("lib", "large")
    plan = in_registry(builder.plan("lib", "large"), docker_registry.host)
    result = await build(builder, plan)
    assert result.digest == local.digest
    assert docker_registry.tags("prefix/image") == ["_owner", "latest", "v1"]

    back = builder.plan(base=f"{docker_registry.host}/prefix/image:v1", registries=plan.registries)
    copied = await build(builder, dataclasses.replace(back, destination=f"oci:{builder.root}/copy"))
    assert copied.digest == local.digest
    image = unpack_image(builder.root / "copy", "v1", tmp_path / "rootfs")
    assert image.run("python", "-c", "import lib, large; print(lib.name)") == "lib\n"


async def test_nothing_is_uploaded_twice(
    small: Builder, package_index: PackageIndex, docker_registry: DockerRegistry
) -> None:
    package_index.add(make_wheel("lib"))
    host = docker_registry.host
    await build(small, in_registry(small.plan("lib"), host))
    before = docker_registry.count("PATCH", "/blobs/uploads/")
    assert before > 0

    await build(small, in_registry(small.plan("lib"), host, image_id="life of image"))
    assert docker_registry.count("PATCH", "/blobs/uploads/") == before

    await build(small, in_registry(small.plan("lib"), host, "second"))
    assert docker_registry.count("PATCH", "/blobs/uploads/") == before
    assert docker_registry.count("POST", "/prefix/second/blobs/uploads/?mount=sha256") > 0


async def test_base_in_the_same_registry_is_mounted(
    small: Builder, package_index: PackageIndex, docker_registry: DockerRegistry
) -> None:
    package_index.add(make_wheel("lib"))
    host = docker_registry.host
    system = await build(small, in_registry(small.plan(), host, "system"))
    other = small.elsewhere()
    result = await build(other, in_registry(other.plan("lib", base=f"{host}/prefix/system:v1"), host, "user"))
    assert result.base_digest == system.digest
    assert docker_registry.count("POST", "/prefix/user/blobs/uploads/?mount=", "from=prefix%2Fsystem") > 0


async def test_rebuild_and_deletion_follow_the_owner(
    small: Builder, package_index: PackageIndex, docker_registry: DockerRegistry
) -> None:
    package_index.add(make_wheel("lib", "1.0"), make_wheel("lib", "2.0"))
    host = docker_registry.host
    plan = in_registry(small.plan("lib==1.0", image_id="first life"), host)
    await build(small, plan)
    await build(small, dataclasses.replace(plan, requirements=("lib==2.0",), tags=("v2", "latest")))
    assert docker_registry.tags("prefix/image") == ["_owner", "latest", "v1", "v2"]

    newer = dataclasses.replace(plan, image_id="second life")
    failure = await small.refused(
        "lib==1.0",
        **{name: getattr(newer, name) for name in ("image_id", "destination", "destination_root", "registries")},
    )
    assert failure.reason is FailureReason.RETRYABLE
    assert delete(plan, "some other life") is False
    assert delete(plan, "first life") is True
    assert docker_registry.tags("prefix/image") == []
    await build(small, newer)
    assert delete(plan, "first life") is False
    assert docker_registry.tags("prefix/image") == ["_owner", "latest", "v1"]


async def test_a_late_push_of_a_deleted_life_is_refused(
    small: Builder, package_index: PackageIndex, docker_registry: DockerRegistry
) -> None:
    package_index.add(make_wheel("lib"))
    plan = in_registry(small.plan("lib", image_id="a life"), docker_registry.host)
    assert delete(plan, "a life") is False
    with pytest.raises(BuildFailed, match="was deleted meanwhile") as caught:
        await build(small, plan)
    assert caught.value.reason is FailureReason.INTERNAL
    assert docker_registry.tags("prefix/image") == []


async def test_a_deletion_during_the_push_takes_all_of_it_back(
    small: Builder, package_index: PackageIndex, docker_registry: DockerRegistry
) -> None:
    """The deletion comes between the push's last look and its first tag, the worst moment that there is."""
    package_index.add(make_wheel("lib"))
    with moody_line(docker_registry.host) as line:
        plan = in_registry(small.plan("lib", image_id="a life"), line.host)
        here = in_registry(plan, docker_registry.host)
        line.before("PUT", "/prefix/image/manifests/v1", lambda: delete(here, "a life"))
        with pytest.raises(BuildFailed, match="was deleted meanwhile"):
            await build(small, plan)
    assert line.waiting == []
    assert docker_registry.tags("prefix/image") == []
    await build(small, dataclasses.replace(here, image_id="the next life"))


async def test_broken_uploads_go_on_where_they_were(
    small: Builder, package_index: PackageIndex, docker_registry: DockerRegistry
) -> None:
    stored = zipfile.ZipInfo("lib/stored.bin", (2024, 1, 1, 0, 0, 0))
    package_index.add(make_wheel("lib", members=[(stored, os.urandom(40_000_000))]))
    local = await small.build("lib")
    with breaking_line(docker_registry.host, 3_000_000, 10_000_000) as host:
        result = await build(small, in_registry(small.plan("lib"), host))
    assert result.digest == local.digest
    assert docker_registry.count("GET", "/prefix/image/blobs/uploads/") >= 2
    plan = small.plan(base=f"{docker_registry.host}/prefix/image:v1")
    registries = (RegistryAccess(host=docker_registry.host, endpoint=f"http://{docker_registry.host}"),)
    elsewhere = small.elsewhere()
    copied = await elsewhere.build(base=plan.base, registries=registries)
    assert copied.digest == local.digest


@pytest.mark.parametrize(
    ("destination", "root"),
    [
        ("{host}/other/image", "{host}/prefix"),
        ("{host}/prefix", "{host}/prefix"),
        ("{host}/prefix-2/image", "{host}/prefix"),
        ("elsewhere.example/prefix/image", "{host}/prefix"),
        ("oci:/data/image", "{host}/prefix"),
        ("{host}/prefix/image", "oci:/data"),
        ("{host}/prefix/../other/image", "{host}/prefix"),
        ("{host}/prefix/image:v1", "{host}/prefix"),
        ("{host}/prefix/image-registry.deleted", "{host}/prefix"),
    ],
)
async def test_nothing_outside_the_prefix_is_touched(
    small: Builder, docker_registry: DockerRegistry, destination: str, root: str
) -> None:
    host = docker_registry.host
    failure = await small.refused(destination=destination.format(host=host), destination_root=root.format(host=host))
    assert failure.reason is FailureReason.INTERNAL
    assert "destination is wrong" in failure.message
    assert docker_registry.count("PUT", "/v2/") == 0
