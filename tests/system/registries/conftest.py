"""A service, a worker and a registry: parts that the tests of registries share."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import job_status_pb2 as status
from ri.api.imageregistry import jobs_pb2

from image_registry.builds.credentials import Keyring
from image_registry.builds.packages.wanted import Confinement
from image_registry.builds.plan import Limits
from image_registry.builds.plan import PackageIndex as IndexSettings
from image_registry.builds.repositories.opening import open_home
from image_registry.registry.builds import Builds
from image_registry.registry.job_logs import JobLogs
from image_registry.storage import images
from image_registry.storage.database import Database
from image_registry.worker.execution import BuilderConfig, Executor
from image_registry.worker.loop import Worker, WorkerConfig
from tests.fixtures.package_index import PackageIndex, make_wheel, package_index
from tests.fixtures.service import Service, make_settings, running_service
from tests.integration.builds.test_platforms import BASES, write_base

__all__ = ["package_index"]
OVER = {status.JOB_STATUS_SUCCEEDED, status.JOB_STATUS_FAILED, status.JOB_STATUS_CANCELLED}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them need Debian's docker-registry."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.system)


@pytest.fixture
def index(package_index: PackageIndex) -> PackageIndex:
    """A package index that holds one library, `good`."""
    package_index.add(make_wheel("good"))
    return package_index


class Deployment:
    """A service and what its worker needs to build into a registry."""

    def __init__(self, service: Service, database: Database, folder: Path, index: PackageIndex, owner: UUID) -> None:
        self.service = service
        self.database = database
        self.registry_id = owner
        self.folder = folder
        self._index = index

    @asynccontextmanager
    async def worker(self, root: str, keyring: Keyring, confinement: Confinement | None = None) -> AsyncIterator[None]:
        """A worker while the block lasts; with a confinement it installs system packages too."""
        config = BuilderConfig(
            registry_id=self.registry_id,
            home=open_home(root, keyring),
            keyring=keyring,
            cache_dir=self.folder / "cache",
            work_dir=self.folder / "work",
            index=IndexSettings(url=self._index.url),
            limits=Limits(),
            confinement=confinement or Confinement(),
        )
        executor = Executor(config, Builds(self.database), JobLogs(self.database, 3600.0))
        pace = WorkerConfig(concurrency=1, lease=30, poll=0.5, drain=1, packages=confinement is not None)
        worker, stop = Worker(self.database, executor, pace), asyncio.Event()
        task = asyncio.create_task(worker.run(stop))
        try:
            yield
        finally:
            stop.set()
            await asyncio.wait_for(task, 60)

    async def built(self, name: str) -> jobs_pb2.JobMetadata:
        """Create an image with the library `good` and wait until its build is over."""
        created = await self.service.create(name, "good")
        return await self.ended(created.job.job_id)

    async def ended(self, job_id: str) -> jobs_pb2.JobMetadata:
        """The job, once it is over."""
        async with asyncio.timeout(120):
            while (await self.service.job(job_id)).status not in OVER:  # noqa: ASYNC110 (a process works)
                await asyncio.sleep(0.05)
        return await self.service.job(job_id)

    async def deleted(self, name: str) -> None:
        """Delete an image; its repository is still to be removed then."""
        await self.service.images.DeleteImage(pb.DeleteImageRequest(name=name))


async def until_removed(dsn: str) -> None:
    """Wait until no repository is to be removed any more."""
    async with asyncio.timeout(120):
        while True:
            with psycopg.connect(dsn) as connection:
                query = "select from jobs where kind = 2 and status <> 4"
                if connection.execute(query).fetchone() is None:
                    return
            await asyncio.sleep(0.05)


Deploy = Callable[[str], AbstractAsyncContextManager[Deployment]]


@pytest.fixture
def base(tmp_path: Path) -> str:
    """The reference of a base image of a few hundred bytes: builds read what it is, and run nothing of it."""
    return write_base(tmp_path / "base", BASES["glibc"]("3.11"))


@pytest.fixture
def deploy(dsn: str, database: Database, base: str, tmp_path: Path, index: PackageIndex) -> Deploy:
    """Runs a service whose images go to a registry."""

    @asynccontextmanager
    async def run(repository: str) -> AsyncIterator[Deployment]:
        settings = make_settings(base_images={"3.11": base}, repository=repository)
        identity = await database.read(images.identity)
        async with running_service(settings, dsn) as service:
            yield Deployment(service, database, tmp_path, index, identity.id)

    return run
