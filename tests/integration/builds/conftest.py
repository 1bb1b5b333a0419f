"""Parts that the tests of builds share."""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from image_registry.builds.plan import BuildFailed, BuildPlan, BuildResult
from image_registry.builds.plan import PackageIndex as IndexSettings
from image_registry.builds.runner import BuildEvent, LogLine, StageBegan, run_build
from tests.fixtures.base_image import TestBase, debian_base
from tests.fixtures.container_registry import container_registry
from tests.fixtures.docker_registry import docker_registry
from tests.fixtures.package_index import PackageIndex, package_index

__all__ = ["container_registry", "debian_base", "docker_registry", "package_index"]


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Whichever test comes first may have to make the base image."""
    for item in items:
        if "debian_base" in getattr(item, "fixturenames", ()) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(600))


@dataclass
class Builder:
    """Builds images in a folder of its own; `events` are those of the last build."""

    folder: Path
    base: TestBase
    index: IndexSettings = field(default_factory=IndexSettings)
    events: list[BuildEvent] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.folder / "repositories"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def log(self) -> str:
        return "\n".join(event.line for event in self.events if isinstance(event, LogLine))

    @property
    def stages(self) -> list[str]:
        return [event.stage.value for event in self.events if isinstance(event, StageBegan)]

    def plan(self, *requirements: str, name: str = "image", **changes: Any) -> BuildPlan:
        plan = BuildPlan(
            image_id=f"life of {name}",
            python_version=self.base.python_version,
            base=self.base.reference,
            requirements=requirements,
            destination=f"oci:{self.root / name}",
            destination_root=f"oci:{self.root}",
            tags=("v1", "latest"),
            cache_dir=self.cache,
            work_dir=self.work,
            index=self.index,
        )
        return dataclasses.replace(plan, **changes)

    async def build(self, *requirements: str, name: str = "image", **changes: Any) -> BuildResult:
        self.events = []
        return await run_build(self.plan(*requirements, name=name, **changes), self.events.append)

    async def refused(self, *requirements: str, **changes: Any) -> BuildFailed:
        """Build what must fail; nothing of it may be left."""
        before = set(self.root.rglob("*"))
        with pytest.raises(BuildFailed) as caught:
            await self.build(*requirements, **changes)
        assert not list(self.work.iterdir())
        assert set(self.root.rglob("*")) == before
        return caught.value

    def elsewhere(self, name: str = "elsewhere") -> "Builder":
        """A builder with the same base and index, but with folders and caches of its own."""
        folder = _new_folder(self.folder, name, (self.cache / "bases").resolve())
        return dataclasses.replace(self, folder=folder, events=[])


@pytest.fixture(scope="session")
def known_bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is known of base images, which takes seconds to find out, is shared by the tests of this process."""
    return tmp_path_factory.mktemp("bases")


@pytest.fixture
def new_builder(tmp_path: Path, debian_base: TestBase, known_bases: Path) -> Callable[..., Builder]:
    """Makes builders in folders of their own, with separate caches."""

    def make(name: str, index: IndexSettings | None = None) -> Builder:
        return Builder(_new_folder(tmp_path, name, known_bases), debian_base, index or IndexSettings())

    return make


def _new_folder(parent: Path, name: str, known_bases: Path) -> Path:
    folder = parent / name
    (folder / "cache").mkdir(parents=True)
    (folder / "cache" / "bases").symlink_to(known_bases)
    return folder


@pytest.fixture
def builder(new_builder: Callable[..., Builder], package_index: PackageIndex) -> Builder:
    """A builder that takes libraries from the test's own index."""
    return new_builder("builder", IndexSettings(url=package_index.url))


@pytest.fixture
def pypi_builder(new_builder: Callable[..., Builder]) -> Builder:
    """A builder that takes libraries from PyPI."""
    return new_builder("builder")


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for something that other processes or threads bring about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        await asyncio.sleep(0.01)
