"""How jobs end when a real worker builds real images: every termination reason, and the faults of a machine."""

import asyncio
import contextlib
import hashlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from ri.api.imageregistry import image_lock_pb2, jobs_pb2
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import job_status_pb2 as status
from ri.api.imageregistry.image_lock_pb2_grpc import ImageLocksStub

from image_registry.builds.credentials import Keyring
from image_registry.builds.lease import Lease, clock
from image_registry.builds.oci.layout import Layout
from image_registry.builds.plan import Limits, PackageIndex
from image_registry.builds.repositories.opening import open_home
from image_registry.client import AsyncImageRegistryClient
from image_registry.models import Outcome, StoredJob
from image_registry.registry.builds import MAX_FAULTS, Builds
from image_registry.registry.job_logs import JobLogs
from image_registry.storage.database import Database
from image_registry.worker import loop as worker_loop
from image_registry.worker.execution import BuilderConfig, Executor
from image_registry.worker.loop import Worker, WorkerConfig
from tests.fixtures import package_index as wheels
from tests.fixtures.base_image import TestBase
from tests.fixtures.package_index import make_wheel
from tests.fixtures.refusals import refused
from tests.fixtures.service import Service, make_settings, running_service

pytestmark = [pytest.mark.xdist_group("base"), pytest.mark.timeout(180)]
MEGABYTE = 1 << 20
NO_LIMITS = Limits()


@pytest.fixture
async def real(dsn: str, debian_base: TestBase, tmp_path: Path) -> AsyncIterator[Service]:
    """The service with a real base, and repositories in a folder of the test."""
    settings = make_settings(
        base_images={debian_base.python_version: debian_base.reference}, repository=f"oci:{tmp_path}/repositories"
    )
    async with running_service(settings, dsn) as running:
        yield running


def builder_config(
    folder: Path, index: wheels.PackageIndex, limits: Limits = NO_LIMITS, data: Path | None = None
) -> BuilderConfig:
    return BuilderConfig(
        registry_id=uuid4(),
        home=open_home(f"oci:{folder}/repositories/managed", Keyring()),
        keyring=Keyring(),
        cache_dir=(data or folder) / "cache",
        work_dir=(data or folder) / "work",
        index=PackageIndex(url=index.url),
        limits=limits,
    )


@asynccontextmanager
async def building(
    db: Database, folder: Path, index: wheels.PackageIndex, limits: Limits = NO_LIMITS, data: Path | None = None
) -> AsyncIterator[None]:
    config = builder_config(folder, index, limits, data)
    executor = Executor(config, Builds(db), JobLogs(db, 3600.0))
    worker, stop = Worker(db, executor, WorkerConfig(concurrency=1, lease=30, poll=0.5, drain=1)), asyncio.Event()
    task = asyncio.create_task(worker.run(stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, 20)
        assert list(config.work_dir.glob("*")) == []


async def ended(service: Service, job_id: str) -> jobs_pb2.JobMetadata:
    over = {status.JOB_STATUS_SUCCEEDED, status.JOB_STATUS_FAILED, status.JOB_STATUS_CANCELLED}
    async with asyncio.timeout(90):
        while (await service.job(job_id)).status not in over:  # noqa: ASYNC110 (a process works)
            await asyncio.sleep(0.05)
    return await service.job(job_id)


async def test_a_build_that_can_be_made_is_completed(
    real: Service, database: Database, tmp_path: Path, package_index: wheels.PackageIndex
) -> None:
    package_index.add(make_wheel("good"))
    created = await real.create("one", "good")
    async with building(database, tmp_path, package_index):
        job = await ended(real, created.job.job_id)
    assert job.status == status.JOB_STATUS_SUCCEEDED, job.job_progress_str
    assert job.termination_reason == jobs_pb2.TERMINATION_REASON_COMPLETED
    assert "good" in [library.name for library in (await real.get("one")).pip_libraries]


async def test_the_lock_of_a_build_can_be_read(
    real: Service, database: Database, tmp_path: Path, package_index: wheels.PackageIndex
) -> None:
    """Every wheel with its hash; an image that was never built here has none, and says so."""
    filename, data = make_wheel("good")
    package_index.add((filename, data))
    locks: Any = ImageLocksStub(real.channel)
    created = await real.create("one", "good")
    for name, reason in (("one", "IMAGE_HAS_NO_LOCK"), ("nobody", "IMAGE_NOT_FOUND")):
        refusal = await refused(locks.GetImageLock(image_lock_pb2.GetImageLockRequest(name=name)))
        assert refusal.reason == reason
    async with building(database, tmp_path, package_index):
        await ended(real, created.job.job_id)
    lock = await locks.GetImageLock(image_lock_pb2.GetImageLockRequest(name="one"))
    layout = Layout(tmp_path / "repositories" / "managed" / "one")
    assert lock.digest == layout.manifest("latest", "amd64").digest
    system = Layout(tmp_path / "repositories" / "managed" / created.image.base_image.name)
    assert lock.base_digest == system.manifest("latest", "amd64").digest
    assert [(x.name, x.version, x.filename, x.sha256, x.size) for x in lock.libraries] == [
        ("good", "1.0", filename, hashlib.sha256(data).hexdigest(), len(data))
    ]
    async with AsyncImageRegistryClient(real.address) as client:
        read = await client.get_image_lock("one")
    assert (read.digest, read.base_digest, *map(str, read.libraries)) == (
        lock.digest,
        lock.base_digest,
        f"good==1.0 --hash=sha256:{hashlib.sha256(data).hexdigest()}",
    )
    argv = (sys.executable, "-m", "image_registry", "images", "lock", "one", "--server", real.address)
    shown = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    assert (await shown.communicate())[0].decode().splitlines()[2:] == [str(one) for one in read.libraries]
    await real.images.SyncImageTag(pb.SyncImageTagRequest(name="one", force=True))
    await real.report("one", "good==1.0")
    refusal = await refused(locks.GetImageLock(image_lock_pb2.GetImageLockRequest(name="one")))
    assert refusal.reason == "IMAGE_HAS_NO_LOCK", "what was built elsewhere isn't what this service's lock says"


async def test_requirements_that_cannot_be_met_are_the_users_error_and_not_tried_again(
    real: Service, database: Database, tmp_path: Path, package_index: wheels.PackageIndex
) -> None:
    created = await real.create("one", "no-such-library")
    async with building(database, tmp_path, package_index):
        job = await ended(real, created.job.job_id)
    assert job.termination_reason == jobs_pb2.TERMINATION_REASON_GENERIC_ERROR
    assert "no-such-library" in job.job_progress_str
    assert (await real.get("one")).status == pb.ManagedImage.STATUS_FAILED


async def test_a_build_that_needs_more_memory_than_it_may_is_oomkilled(
    real: Service, database: Database, tmp_path: Path, package_index: wheels.PackageIndex
) -> None:
    names = [f"{'x' * 70}{number}" for number in range(20_000)]
    package_index.add(make_wheel("greedy", files={f"greedy/{name}.py": "" for name in names}))
    created = await real.create("one", "greedy")
    async with building(database, tmp_path, package_index, Limits(memory_bytes=64 * MEGABYTE)):
        job = await ended(real, created.job.job_id)
    assert job.status == status.JOB_STATUS_FAILED
    assert job.termination_reason == jobs_pb2.TERMINATION_REASON_OOMKILLED, job.job_progress_str


async def test_a_cancellation_behind_the_push_comes_too_late(
    real: Service, database: Database, tmp_path: Path, package_index: wheels.PackageIndex
) -> None:
    """It comes while the last lines of the log are written, when nothing of the build is left but its result."""
    config = builder_config(tmp_path, package_index)

    class Logs(JobLogs):
        async def append(self, job: StoredJob, text: str) -> None:
            while any(config.work_dir.iterdir()):  # noqa: ASYNC110 (a process works)
                await asyncio.sleep(0.01)
            for _ in range(10):  # it returns
                await asyncio.sleep(0)
            work.cancel()
            await super().append(job, text)

    await real.create("one")
    builds = Builds(database)
    claim = await builds.claim(agent_id=uuid4(), lease=60, packages=False)
    assert claim is not None
    assert await builds.start(claim.job) is False
    with Lease(clock() + 60) as lease:
        work = asyncio.ensure_future(Executor(config, builds, Logs(database, 3600.0))(claim, lease))
        report = await work
    assert report.outcome is Outcome.SUCCEEDED
    folder = claim.job.repository.removeprefix("oci:")
    assert report.digest == Layout(Path(folder)).manifest("latest", "amd64").digest


async def test_a_build_that_takes_too_long_is_stopped(
    real: Service, database: Database, tmp_path: Path, package_index: wheels.PackageIndex
) -> None:
    created = await real.create("one", "good")
    async with building(database, tmp_path, package_index, Limits(seconds=0.05)):
        system = (await real.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs[-1]
        job = await ended(real, system.job_id)
        follower = await ended(real, created.job.job_id)
    assert job.termination_reason == jobs_pb2.TERMINATION_REASON_INTERNAL_ERROR
    assert "The build took longer than its 0.05 s." in job.job_progress_str
    assert follower.termination_reason == jobs_pb2.TERMINATION_REASON_INTERNAL_ERROR
    assert "the base image system-python" in follower.job_progress_str


async def test_an_index_that_is_away_for_good_ends_the_build_with_its_cause(
    real: Service,
    database: Database,
    tmp_path: Path,
    package_index: wheels.PackageIndex,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_loop, "LONGEST_DELAY", 0.05)
    monkeypatch.setattr(worker_loop, "LONGEST_PAUSE", 0.05)
    package_index.add(make_wheel("good"))
    package_index.faults["/simple/good/"] = [503] * 1000
    created = await real.create("one", "good")
    async with building(database, tmp_path, package_index):
        job = await ended(real, created.job.job_id)
    assert job.termination_reason == jobs_pb2.TERMINATION_REASON_INTERNAL_ERROR
    assert f"given up after {MAX_FAULTS} attempts; the last one: failed in resolve:" in job.job_progress_str


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "small-disk", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can't be made here: mounting one needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_full_disk_is_waited_out_and_named_as_the_cause(
    real: Service, database: Database, tmp_path: Path, package_index: wheels.PackageIndex, small_disk: Path
) -> None:
    package_index.add(make_wheel("good", files={"good/data.bin": os.urandom(3 * MEGABYTE).hex()}))
    created = await real.create("one", "good")
    async with building(database, tmp_path, package_index, data=small_disk):
        filler = small_disk / "filler"
        filler.write_bytes(bytes(31 * MEGABYTE))
        async with asyncio.timeout(60):
            while "disk" not in (said := await _anything_said(real)):  # noqa: ASYNC110 (a process works)
                await asyncio.sleep(0.05)
        filler.unlink()
        job = await ended(real, created.job.job_id)
    assert "No space left on device" in said
    assert job.status == status.JOB_STATUS_SUCCEEDED, job.job_progress_str


async def test_a_cache_that_fills_its_disk_makes_room_by_itself(
    real: Service, database: Database, tmp_path: Path, package_index: wheels.PackageIndex, small_disk: Path
) -> None:
    package_index.add(make_wheel("good", files={"good/data.bin": os.urandom(3 * MEGABYTE).hex()}))
    blobs = small_disk / "cache" / "blobs"
    blobs.mkdir(parents=True)
    with contextlib.suppress(OSError):
        for number in range(64):
            (blobs / f"{number:064x}").write_bytes(bytes(MEGABYTE // 2))
    created = await real.create("one", "good")
    async with building(database, tmp_path, package_index, data=small_disk):
        job = await ended(real, created.job.job_id)
    assert job.status == status.JOB_STATUS_SUCCEEDED, job.job_progress_str
    assert 0 < sum(blob.stat().st_size == MEGABYTE // 2 for blob in blobs.iterdir()) < 40


async def _anything_said(service: Service) -> str:
    request = jobs_pb2.ListJobsRequest(view=jobs_pb2.JOB_VIEW_FULL)
    return " ".join(job.job_progress_str for job in (await service.jobs.ListJobs(request)).jobs)
