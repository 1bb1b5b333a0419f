"""yum packages in images: dnf and rpm, on a stand-in base, from a repository of the test's own.

It proves the commands, the errors, the confinement and the caching, not Rocky Linux's own packages or base images.
"""

from pathlib import Path

import pytest

from image_registry.builds.packages.wanted import Manager
from image_registry.builds.plan import FailureReason
from tests.fixtures.base_image import TestBase
from tests.fixtures.package_index import PackageIndex
from tests.fixtures.rootfs import unpack_image
from tests.system.packages import bases
from tests.system.packages.conftest import PackageBuilder, new_builder
from tests.system.packages.repositories import YumRepository


@pytest.fixture(scope="module")
def yum_base(tmp_path_factory: pytest.TempPathFactory, small_base: TestBase, yum: YumRepository) -> TestBase:
    yum.add("hello", "1.0")
    yum.add("hello", "2.0")
    yum.add("broken", script="echo 'it is Tuesday' >&2; exit 3")
    folder = tmp_path_factory.mktemp("rocky") / "base"
    return bases.yum_base(small_base, folder, {"etc/yum.repos.d/tests.repo": yum.source})


@pytest.fixture
def yum_builder(
    tmp_path: Path, known_bases: Path, yum_base: TestBase, package_index: PackageIndex, yum: YumRepository
) -> PackageBuilder:
    reach = (yum.location,)
    return new_builder(tmp_path / "yum", known_bases, yum_base, package_index.url, reach=reach, manager=Manager.YUM)


async def test_a_pinned_package_is_installed(yum_builder: PackageBuilder, tmp_path: Path) -> None:
    await yum_builder.build(packages=["hello=1.0-1"])
    rootfs = unpack_image(yum_builder.root / "image", "latest", tmp_path / "rootfs")
    assert rootfs.run("hello") == "hello 1.0\n"
    assert rootfs.run("rpm", "--query", "hello") == "hello-1.0-1.noarch\n"
    assert not (rootfs.path / "var/cache/image-registry").exists()
    assert not list((rootfs.path / "var/log").glob("dnf*"))
    await yum_builder.build(packages=["hello=1.0-1"], name="second")
    assert "reused layer" in yum_builder.log


async def test_what_there_is_not_is_refused(yum_builder: PackageBuilder) -> None:
    failure = await yum_builder.refused(packages=["hello=3.0", "nonesuch"])
    assert failure.reason is FailureReason.USER_ERROR, yum_builder.log
    assert "No match for argument: hello-3.0" in failure.message
    assert "No match for argument: nonesuch" in failure.message
