"""Images into a real container registry (Debian's docker-registry)."""

import dataclasses
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from image_registry.builds.destination import Access, delete_repository
from image_registry.builds.plan import BuildPlan, BuildResult, FailureReason, RegistryAccess
from tests.fixtures.docker_registry import DockerRegistry, breaking_line
from tests.fixtures.package_index import PackageIndex, make_wheel
from tests.fixtures.rootfs import unpack_image
from tests.integration.builds.conftest import Builder


def in_registry(plan: BuildPlan, host: str, name: str = "image", **changes: Any) -> BuildPlan:
    """The plan with a repository in the registry as its destination."""
    return dataclasses.replace(
        plan,
        destination=f"{host}/prefix/{name}",
        destination_root=f"{host}/prefix",
        registries=(RegistryAccess(host=host, plain_http=True),),
        **changes,
    )


async def build(builder: Builder, plan: BuildPlan) -> BuildResult:
    names = [field.name for field in dataclasses.fields(plan)]
    return await builder.build(
        *plan.requirements, **{name: getattr(plan, name) for name in names if name != "requirements"}
    )


def delete(plan: BuildPlan, owner: str) -> bool:
    return delete_repository(plan.destination, plan.destination_root, owner, Access(plan.registries))


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
    builder: Builder, package_index: PackageIndex, docker_registry: DockerRegistry
) -> None:
    package_index.add(make_wheel("lib"))
    host = docker_registry.host
    await build(builder, in_registry(builder.plan("lib"), host))
    before = docker_registry.count("PATCH", "/blobs/uploads/")
    assert before > 0

    await build(builder, in_registry(builder.plan("lib"), host, image_id="life of image"))
    assert docker_registry.count("PATCH", "/blobs/uploads/") == before

    await build(builder, in_registry(builder.plan("lib"), host, "second"))
    assert docker_registry.count("PATCH", "/blobs/uploads/") == before
    assert docker_registry.count("POST", "/prefix/second/blobs/uploads/?mount=sha256") > 0


async def test_base_in_the_same_registry_is_mounted(
    builder: Builder, package_index: PackageIndex, docker_registry: DockerRegistry
) -> None:
    package_index.add(make_wheel("lib"))
    host = docker_registry.host
    system = await build(builder, in_registry(builder.plan(), host, "system"))
    other = builder.elsewhere()
    result = await build(other, in_registry(other.plan("lib", base=f"{host}/prefix/system:v1"), host, "user"))
    assert result.base_digest == system.digest
    assert docker_registry.count("POST", "/prefix/user/blobs/uploads/?mount=", "from=prefix%2Fsystem") > 0


async def test_rebuild_and_deletion_follow_the_owner(
    builder: Builder, package_index: PackageIndex, docker_registry: DockerRegistry
) -> None:
    package_index.add(make_wheel("lib", "1.0"), make_wheel("lib", "2.0"))
    host = docker_registry.host
    plan = in_registry(builder.plan("lib==1.0", image_id="first life"), host)
    await build(builder, plan)
    await build(builder, dataclasses.replace(plan, requirements=("lib==2.0",), tags=("v2", "latest")))
    assert docker_registry.tags("prefix/image") == ["_owner", "latest", "v1", "v2"]

    newer = dataclasses.replace(plan, image_id="second life")
    failure = await builder.refused(
        "lib==1.0",
        **{name: getattr(newer, name) for name in ("image_id", "destination", "destination_root", "registries")},
    )
    assert failure.reason is FailureReason.RETRYABLE
    assert delete(plan, "second life") is False
    assert delete(plan, "first life") is True
    assert docker_registry.tags("prefix/image") == []
    await build(builder, newer)
    assert delete(plan, "first life") is False
    assert docker_registry.tags("prefix/image") == ["_owner", "latest", "v1"]


async def test_broken_uploads_go_on_where_they_were(
    builder: Builder, package_index: PackageIndex, docker_registry: DockerRegistry
) -> None:
    stored = zipfile.ZipInfo("lib/stored.bin", (2024, 1, 1, 0, 0, 0))
    package_index.add(make_wheel("lib", members=[(stored, os.urandom(40_000_000))]))
    local = await builder.build("lib")
    with breaking_line(docker_registry.host, 3_000_000, 10_000_000) as host:
        result = await build(builder, in_registry(builder.plan("lib"), host))
    assert result.digest == local.digest
    assert docker_registry.count("GET", "/prefix/image/blobs/uploads/") >= 2
    plan = builder.plan(base=f"{docker_registry.host}/prefix/image:v1")
    registries = (RegistryAccess(host=docker_registry.host, plain_http=True),)
    elsewhere = builder.elsewhere()
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
    ],
)
async def test_nothing_outside_the_prefix_is_touched(
    builder: Builder, docker_registry: DockerRegistry, destination: str, root: str
) -> None:
    host = docker_registry.host
    failure = await builder.refused(destination=destination.format(host=host), destination_root=root.format(host=host))
    assert failure.reason is FailureReason.INTERNAL
    assert "destination is wrong" in failure.message
    assert docker_registry.count("PUT", "/v2/") == 0
