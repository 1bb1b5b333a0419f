"""Builds under faults, with real processes: short in every run, long with `make test-faults`.

IMAGE_REGISTRY_FAULT_SEED repeats the order of a run, as far as processes on a machine can be repeated;
IMAGE_REGISTRY_FAULT_BUILDS makes the long form shorter or longer.
"""

import asyncio
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import checks, evidence
from tests.faults.chaos import Chaos
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.repositories import Layouts, Registry, Repositories
from tests.faults.traffic import Traffic, fill_index
from tests.fixtures.base_image import TestBase
from tests.fixtures.package_index import PackageIndex

pytestmark = pytest.mark.xdist_group("faults")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that goes in the end, however much is in it, on the same file system as the base image."""
    path = Path(tempfile.mkdtemp(prefix="faults-", dir=os.environ.get("TMPDIR", "/var/tmp")))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.timeout(300)
async def test_twenty_builds_survive_every_kind_of_fault(
    folder: Path, debian_base: TestBase, package_index: PackageIndex
) -> None:
    await _survives(folder, debian_base, package_index, Layouts(folder / "repositories"), builds=20, sample=2)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("home", [Layouts, Registry])
async def test_two_hundred_builds_survive_faults(
    folder: Path, debian_base: TestBase, package_index: PackageIndex, home: type[Layouts | Registry]
) -> None:
    if home is Registry and not Registry.can_run():
        pytest.fail("docker-registry is not installed: apt-get install docker-registry")
    builds = int(os.environ.get("IMAGE_REGISTRY_FAULT_BUILDS") or 200)
    repositories = home(folder / "repositories")
    await _survives(folder, debian_base, package_index, repositories, builds=builds, sample=builds)


async def _survives(
    folder: Path, base: TestBase, index: PackageIndex, repositories: Repositories, *, builds: int, sample: int
) -> None:
    seed = int(os.environ.get("IMAGE_REGISTRY_FAULT_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"IMAGE_REGISTRY_FAULT_SEED={seed}", flush=True)
    fill_index(index)
    began = time.monotonic()
    async with running_cluster(folder, base, index, repositories) as cluster:
        chaos, traffic = Chaos(cluster, seed), Traffic(cluster.http_address, builds, seed)
        done = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(chaos.run(done))
                await traffic.run()
                done.set()
            await _calm(cluster, traffic)
        finally:
            await traffic.close()
            _keep_logs(cluster)
        lasted = time.monotonic() - began
        dsn = cluster.database.dsn
        found = evidence.runs(cluster, chaos.frozen)
        ready, unpullable = checks.check_pulls(cluster, dsn)
        at_once = [f"two builds at once: {one}, {other}" for one, other in evidence.overlaps(found)]
        wrong = [*at_once, *checks.check_books(dsn, traffic.images), *checks.check_remains(cluster, dsn), *unpullable]
        assert not wrong, "\n".join(wrong)
        ran = checks.check_runs(cluster, traffic.images, dsn, sample)
        [jobs] = checks.rows(dsn, "select count(*) as jobs, sum(attempt) as attempts, max(faults) as most from jobs")
        print(
            f"{builds} builds under {chaos.injected.total()} faults in {lasted:.0f} s: {jobs['jobs']} jobs in "
            f"{jobs['attempts']} attempts ({len(found)} build processes), {evidence.takeovers(cluster)} takeovers, "
            f"at most {jobs['most']} lost attempts of one job; {ready} images READY and pullable, {ran} run; "
            f"faults {dict(sorted(chaos.injected.items()))}; callers {traffic.counts}",
            flush=True,
        )


async def _calm(cluster: Cluster, traffic: Traffic) -> None:
    """Everything up again, every job over, every worker stopped and started once more."""
    async with asyncio.timeout(240):
        while await traffic.unfinished() or _unfinished(cluster):  # noqa: ASYNC110 (other processes work)
            await asyncio.sleep(0.3)
    for worker in cluster.workers:
        await worker.part.stop()
        worker.part.start()
    async with asyncio.timeout(60):
        while any([*worker.work_dir.glob("build-*")] for worker in cluster.workers):  # noqa: ASYNC110
            await asyncio.sleep(0.2)


def _unfinished(cluster: Cluster) -> int:
    """Jobs that aren't over, those that remove repositories among them."""
    return len(checks.rows(cluster.database.dsn, "select id from jobs where status not in (3, 4, 6)"))


def _keep_logs(cluster: Cluster) -> None:
    """Put the logs where IMAGE_REGISTRY_FAULT_LOGS says, for a look at what went wrong."""
    if kept := os.environ.get("IMAGE_REGISTRY_FAULT_LOGS"):
        shutil.copytree(cluster.folder / "logs", kept, dirs_exist_ok=True)
