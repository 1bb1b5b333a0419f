"""What a worker does when it is cut off or stopped, and whom it serves first when there is much to do."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from ri.api.imageregistry import job_status_pb2 as status

from image_registry.builds.lease import Lease, clock
from image_registry.builds.oci.layout import LayoutRepository
from image_registry.builds.plan import BuildFailed, BuildPlan, FailureReason, PackageIndex
from image_registry.builds.processes import group_works
from image_registry.builds.runner import remove_leftovers, run_build
from image_registry.models import BuildReport, Priority
from image_registry.registry.builds import Claim
from image_registry.storage.database import Database
from image_registry.worker.loop import WorkerConfig
from tests.faults.hosts import Host, relay
from tests.fixtures import package_index as wheels
from tests.fixtures.base_image import TestBase
from tests.fixtures.service import Service
from tests.integration.worker.test_loop import BUILT, build_at_once, until, until_job, working

LEASE = 2.0


@asynccontextmanager
async def cut_off_by(host: Host, dsn: str) -> AsyncIterator[Database]:
    """A pool whose connections lead through a relay that can lose everything without a word."""
    parts = conninfo_to_dict(dsn)
    host.mend()
    async with relay(host, int(str(parts["port"]))) as port:
        own = Database(make_conninfo(dsn, host="127.0.0.1", port=port), size=4, wait=5, statement_timeout=10)
        await own.open()
        yield own
        await own.close()


async def test_a_worker_whose_packets_are_lost_stops_the_job_before_the_lease_is_over(
    service: Service, dsn: str
) -> None:
    host = Host("here")
    began, stopped = asyncio.Event(), asyncio.Event()
    ends: list[tuple[float, float]] = []

    async def work(claim: Claim, lease: Lease) -> BuildReport:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            ends.append((clock(), lease.until))
            stopped.set()
        return BUILT

    await service.create("one")
    config = WorkerConfig(concurrency=1, lease=LEASE, poll=5.0, drain=0.1)
    async with cut_off_by(host, dsn) as own, working(own, work, config):
        await asyncio.wait_for(began.wait(), 10)
        await asyncio.sleep(LEASE)  # long enough to see that the lease is renewed
        assert not stopped.is_set()
        cut_at = clock()
        host.cut()
        await asyncio.wait_for(stopped.wait(), 10)
        host.mend()
    [(stopped_at, lease_until)] = ends
    assert stopped_at - cut_at < LEASE
    assert stopped_at - lease_until < LEASE * 0.3  # what is left of the database's lease


@pytest.mark.xdist_group("base")
async def test_a_build_whose_worker_is_stopped_ends_itself_with_its_lease(
    debian_base: TestBase, package_index: wheels.PackageIndex, tmp_path: Path
) -> None:
    package_index.add(wheels.make_wheel("slow"))
    package_index.faults["/simple/slow/"] = [503] * 10_000
    plan = BuildPlan(
        image_id="test/1",
        python_version=debian_base.python_version,
        base=debian_base.reference,
        requirements=("slow",),
        destination=f"oci:{tmp_path}/images/one",
        destination_root=f"oci:{tmp_path}/images",
        tags=("latest",),
        cache_dir=tmp_path / "cache",
        work_dir=tmp_path / "work",
        index=PackageIndex(url=package_index.url),
    )
    with Lease(clock() + 0.5) as lease, pytest.raises(BuildFailed) as caught:
        await run_build(plan, lambda _: None, lease)
    assert caught.value.reason is FailureReason.RETRYABLE
    assert "killed by signal 9" in caught.value.message
    assert list((tmp_path / "work").iterdir()) == []
    assert not (tmp_path / "images").exists()


def test_a_build_that_still_waits_for_its_plan_ends_itself_with_its_lease(tmp_path: Path) -> None:
    """Its worker may be stopped between the start of the process and the plan's last byte."""
    folder = tmp_path / "build-1"
    folder.mkdir()
    with Lease(clock() + 0.5) as lease:
        child = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "image_registry.builds.child"),
                *(str(os.getpid()), str(folder), str(lease.descriptor)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[lease.descriptor],
            start_new_session=True,
        )
        try:
            assert child.wait(20) == -signal.SIGKILL
        finally:
            child.kill()
            child.communicate()
    assert not folder.exists()


def test_what_was_killed_works_no_more_though_nobody_has_reaped_it() -> None:
    """A build's orphans are for the machine's first process to reap, which may take seconds."""
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    assert group_works(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    os.killpg(process.pid, 0)  # it is still there
    assert not group_works(process.pid)
    process.wait()
    assert not group_works(process.pid)


def test_folders_of_killed_builds_are_removed_and_those_of_others_are_not(tmp_path: Path) -> None:
    abandoned, young = tmp_path / "build-1", tmp_path / "build-2"
    for folder in (abandoned, young):
        folder.mkdir()
    (abandoned / ".lock").touch()
    assert remove_leftovers(tmp_path) == 1
    assert list(tmp_path.iterdir()) == [young]


async def test_a_platform_update_of_a_thousand_images_delays_a_users_build_by_one_slot_at_most(
    service: Service, database: Database, dsn: str
) -> None:
    created = await service.create("one")
    async with working(database, build_at_once):
        await until_job(service, created.job.job_id, status.JOB_STATUS_SUCCEEDED)
    await _rebuild_copies(dsn, 1000)
    order: list[str] = []
    slots = asyncio.Semaphore(0)

    async def work(claim: Claim, lease: Lease) -> BuildReport:
        order.append(claim.job.image_name)
        await slots.acquire()
        return BUILT

    async def busy(count: int) -> None:
        async def reached() -> bool:
            return len(order) >= count

        await until(reached)

    async with working(database, work, WorkerConfig(concurrency=2, lease=30, poll=60, drain=0.1)):
        await busy(2)
        await service.create("mine")
        began = time.monotonic()
        slots.release()
        await busy(3)
        assert order[2] == "mine"
        assert time.monotonic() - began < 20
        slots.release()
        await busy(4)
    assert all(name.startswith("one-") for name in (*order[:2], order[3]))


async def _rebuild_copies(dsn: str, count: int) -> None:
    """The state that a platform update leaves: many images REBUILDING, their jobs queued."""
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        await conn.execute(
            "with copies as (insert into images (name, role, status, status_before_rebuild, python_version, "
            "platform_tag, base_image_id, definition) select name || '-' || n, role, 2, 3, python_version, "
            "platform_tag, base_image_id, definition from images, generate_series(1, %s) as n where name = 'one' "
            "returning *) insert into jobs (kind, priority, image_id, image_name, repository, definition) "
            "select 1, %s, id, name, 'oci:/images/managed/' || name, definition from copies",
            [count, int(Priority.PLATFORM)],
        )


def test_a_deletion_that_was_killed_is_completed_by_the_next_attempt(tmp_path: Path) -> None:
    (tmp_path / ".trash" / "half-removed" / "blobs").mkdir(parents=True)
    assert not LayoutRepository(tmp_path / "one", tmp_path).delete("registry/1")
    assert list((tmp_path / ".trash").iterdir()) == []
