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
from tests.system.packages.test_endings import nothing_is_left


@pytest.fixture(scope="module")
def yum_base(tmp_path_factory: pytest.TempPathFactory, small_base: TestBase, yum: YumRepository) -> TestBase:
    yum.add("hello", "1.0")
    yum.add("hello", "2.0")
    yum.add("broken", before="echo 'it is Tuesday' >&2; exit 3")
    yum.add("half-broken", script="echo 'it is Wednesday' >&2; exit 3")
    yum.add("endless", script="echo begun; setsid sleep 10000 & sleep 10000")
    yum.add("hungry", script="all=$(head -c 900000000 /dev/zero | tr '\\0' x); echo ${#all}")
    yum.add("large", script="head -c 900000000 /dev/zero > /var/lib/large; sleep 60")
    yum.add("filler", script="head -c 2000000000 /dev/zero > /var/lib/filler")
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


async def test_a_script_that_fails(yum_builder: PackageBuilder) -> None:
    failure = await yum_builder.refused(packages=["broken"])
    assert failure.reason is FailureReason.USER_ERROR, yum_builder.log
    assert failure.message.startswith("A package's own script failed: "), f"{failure.message}\n{yum_builder.log}"
    assert "broken" in failure.message
    assert "\n" not in failure.message
    assert "it is Tuesday" in yum_builder.log


async def test_a_script_whose_failure_rpm_lets_pass(yum_builder: PackageBuilder, tmp_path: Path) -> None:
    """To rpm a package whose last script failed is installed; the log says what happened."""
    await yum_builder.build(packages=["half-broken"])
    assert "it is Wednesday" in yum_builder.log
    assert "scriptlet failed" in yum_builder.log, yum_builder.log
    rootfs = unpack_image(yum_builder.root / "image", "latest", tmp_path / "rootfs")
    assert rootfs.run("rpm", "--query", "half-broken") == "half-broken-1.0-1.noarch\n"


async def test_a_script_that_never_ends(yum_builder: PackageBuilder) -> None:
    failure = await yum_builder.refused(packages=["endless"], confinement={"seconds": 20.0})
    assert failure.reason is FailureReason.USER_ERROR
    assert failure.message == "Installing the packages took longer than 20 s: a script may never end."
    await nothing_is_left(yum_builder.folder)


async def test_a_script_that_takes_all_memory(yum_builder: PackageBuilder) -> None:
    failure = await yum_builder.refused(packages=["hungry"], confinement={"memory_bytes": 320 << 20})
    assert failure.reason is FailureReason.OUT_OF_MEMORY, yum_builder.log
    assert failure.message == "Installing the packages needs more memory than its 335 MB."


async def test_a_script_that_writes_too_much(yum_builder: PackageBuilder) -> None:
    failure = await yum_builder.refused(packages=["large"], confinement={"disk_bytes": 800 << 20})
    assert failure.reason is FailureReason.USER_ERROR, yum_builder.log
    assert failure.message == "The packages, unpacked on their base, take more than 838 MB."


async def test_a_full_disk_passes(yum_builder: PackageBuilder, small_disk: Path) -> None:
    yum_builder.work.mkdir()
    failure = await yum_builder.refused(packages=["filler"], work_dir=small_disk)
    assert failure.reason is FailureReason.RETRYABLE, yum_builder.log
    assert failure.message == "The builder's disk is full."
