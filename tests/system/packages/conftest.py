"""Repositories, bases and builders for the tests of system packages."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from image_registry.builds.packages.wanted import Confinement, Manager, SystemPackages
from image_registry.builds.plan import BuildPlan
from image_registry.builds.plan import PackageIndex as IndexSettings
from tests.fixtures.base_image import TestBase, debian_base
from tests.fixtures.package_index import PackageIndex, package_index
from tests.integration.builds.conftest import Builder
from tests.system.packages import bases
from tests.system.packages.repositories import ADDRESS, AptRepository, YumRepository, address, served

__all__ = ["debian_base", "package_index"]

NEEDED = ("buildah", "slirp4netns", "nft", "dpkg-deb", "rpmbuild", "createrepo_c", "dnf")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """All of them need the tools, and may have to make a base."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.system)
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session", autouse=True)
def tools() -> None:
    """Fail, rather than skip, where something is missing: `make test-system` installs it."""
    assert os.geteuid() == 0, "run as root"
    assert not (missing := [tool for tool in NEEDED if shutil.which(tool) is None]), f"install {missing}"


@pytest.fixture(scope="session")
def apt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AptRepository]:
    """An apt repository on an address of this machine."""
    folder = tmp_path_factory.mktemp("apt") / "repository"
    folder.mkdir()
    with address(ADDRESS), served(folder) as location:
        yield AptRepository(folder, location)


@pytest.fixture(scope="session")
def yum(tmp_path_factory: pytest.TempPathFactory, apt: AptRepository) -> Iterator[YumRepository]:
    """A yum repository on the same address."""
    folder = tmp_path_factory.mktemp("yum") / "repository"
    folder.mkdir()
    with served(folder) as location:
        yield YumRepository(folder, location)


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory, debian_base: TestBase, apt: AptRepository) -> TestBase:
    """A small Debian whose only source is the test's."""
    folder = tmp_path_factory.mktemp("small") / "base"
    return bases.small_base(debian_base, folder, {"etc/apt/sources.list.d/tests.list": apt.source})


@dataclasses.dataclass
class PackageBuilder(Builder):
    """Builds images with system packages. What its sandboxes may reach is `reach`."""

    reach: tuple[str, ...] = ()
    manager: Manager = Manager.APT

    def plan(self, *requirements: str, name: str = "image", **changes: Any) -> BuildPlan:
        """As for other builds; `packages` are `name` or `name=version`, `confinement` is a change of the default."""
        wanted = [package.partition("=")[::2] for package in changes.pop("packages", ())]
        confinement = Confinement(egress_allowed=self.reach)
        return dataclasses.replace(
            super().plan(
                *requirements, name=name, **{key: value for key, value in changes.items() if key != "confinement"}
            ),
            packages=SystemPackages(manager=self.manager, packages=tuple(wanted)),
            confinement=dataclasses.replace(confinement, **changes.get("confinement", {})),
        )


@pytest.fixture(scope="session")
def known_bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is known of base images."""
    return tmp_path_factory.mktemp("bases")


def new_builder(folder: Path, known: Path, base: TestBase, index: str, **changes: Any) -> PackageBuilder:
    """A builder in a folder of its own."""
    (folder / "cache").mkdir(parents=True)
    (folder / "cache" / "bases").symlink_to(known)
    return PackageBuilder(folder, base, IndexSettings(url=index), **changes)


@pytest.fixture
def builder(
    tmp_path: Path, small_base: TestBase, known_bases: Path, package_index: PackageIndex, apt: AptRepository
) -> PackageBuilder:
    """Builds on the small base, with the test's repository within reach."""
    return new_builder(tmp_path / "builder", known_bases, small_base, package_index.url, reach=(apt.location,))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that is soon full."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)
