"""The worker's loop on a real queue: leases, cancel, takeover, retries, drain. The work itself is a test's own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import psycopg
import pytest
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import job_status_pb2 as status
from ri.api.imageregistry import jobs_pb2

from image_registry.builds.lease import Lease, clock
from image_registry.models import BuildReport, JobKind, Outcome, PipLibrary, TerminationReason
from image_registry.registry.builds import MAX_ATTEMPTS, MAX_FAULTS, Builds, Claim
from image_registry.storage.database import Connection, Database
from image_registry.storage.jobs import CHANNEL
from image_registry.worker import loop as worker_loop
from image_registry.worker.loop import PassingFaultError, Worker, WorkerConfig
from tests.fixtures.service import Service

Work = Callable[[Claim, Lease], Awaitable[BuildReport]]
BUILT = BuildReport(Outcome.SUCCEEDED, TerminationReason.COMPLETED, "built", (PipLibrary("numpy", "1.26.4"),))
FAST = WorkerConfig(concurrency=2, lease=30.0, poll=0.2, drain=0.2)


async def build_at_once(claim: Claim, lease: Lease) -> BuildReport:
    assert claim.job.kind is JobKind.DELETE_REPOSITORY or claim.definition is not None
    return BUILT


@asynccontextmanager
async def working(db: Database, work: Work, config: WorkerConfig = FAST) -> AsyncIterator[Worker]:
    worker, stop = Worker(db, work, config), asyncio.Event()
    task = asyncio.create_task(worker.run(stop))
    try:
        yield worker
    finally:
        stop.set()
        await asyncio.wait_for(task, 60)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110 (another process answers)
            await asyncio.sleep(0.01)


async def until_job(service: Service, job_id: str, *wanted: int) -> jobs_pb2.JobMetadata:
    async def reached() -> bool:
        return (await service.job(job_id)).status in wanted

    await until(reached)
    return await service.job(job_id)


async def test_the_base_is_built_before_the_image_on_it(service: Service, database: Database) -> None:
    order: list[str] = []

    async def work(claim: Claim, lease: Lease) -> BuildReport:
        order.append(claim.job.image_name)
        if claim.base is not None:
            assert claim.base.name == "system-python-3-12"
        return BUILT

    created = await service.create("one")
    async with working(database, work):
        job = await until_job(service, created.job.job_id, status.JOB_STATUS_SUCCEEDED)
    assert order == ["system-python-3-12", "one"]
    assert job.agent_id.uuid
    assert job.start_time.ToNanoseconds() >= job.creation_time.ToNanoseconds()
    assert (await service.get("one")).status == pb.ManagedImage.STATUS_READY


async def test_a_worker_outlives_strange_notices_and_errors_between_jobs(
    service: Service, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_due, mishaps = Builds.next_due, [psycopg.InternalError("unforeseen")]

    async def stumbling(self: Builds, *, packages: bool) -> float | None:
        if mishaps:
            raise mishaps.pop()
        return await next_due(self, packages=packages)

    monkeypatch.setattr(Builds, "next_due", stumbling)
    async with working(database, build_at_once):
        for notice in ("cancel:", "cancel:x", "cancel:-1", "?"):
            await notify(database, notice)
        await asyncio.sleep(0.3)
        created = await service.create("one")
        await until_job(service, created.job.job_id, status.JOB_STATUS_SUCCEEDED)
    assert not mishaps


async def notify(database: Database, payload: str) -> None:
    async def work(conn: Connection) -> None:
        await conn.execute("select pg_notify(%s, %s)", [CHANNEL, payload])

    await database.read(work)


@pytest.mark.parametrize("faults", [5, 600, 10**6])
async def test_pauses_grow_up_to_a_limit_however_many_faults_there_were(database: Database, faults: int) -> None:
    assert 0 < worker_loop._delay(faults) <= worker_loop.LONGEST_DELAY * 1.2
    worker = Worker(database, build_at_once, FAST)
    worker._faults_in_a_row = faults
    worker._rest()
    assert 0 < worker._rests_until - clock() <= worker_loop.LONGEST_PAUSE


async def test_a_running_job_is_cancelled_at_once(service: Service, database: Database) -> None:
    started = asyncio.Event()
    ended: list[str] = []

    async def work(claim: Claim, lease: Lease) -> BuildReport:
        if claim.base is None:
            return BUILT
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(claim.job.image_name)
        return BUILT

    created = await service.create("one")
    async with working(database, work):
        await asyncio.wait_for(started.wait(), 60)
        await service.jobs.CancelJob(jobs_pb2.CancelJobRequest(job_id=created.job.job_id))
        job = await until_job(service, created.job.job_id, status.JOB_STATUS_CANCELLED)
    assert ended == ["one"]
    assert job.cancellation_requested
    assert (await service.get("one")).status == pb.ManagedImage.STATUS_FAILED


async def test_deleting_an_image_stops_its_build_and_then_removes_its_repository(
    service: Service, database: Database
) -> None:
    started = asyncio.Event()
    seen: list[tuple[JobKind, str]] = []

    async def work(claim: Claim, lease: Lease) -> BuildReport:
        seen.append((claim.job.kind, claim.job.repository))
        if claim.job.kind is JobKind.BUILD and claim.base is not None:
            started.set()
            await asyncio.sleep(60)
        return BUILT

    created = await service.create("one")
    async with working(database, work):
        await asyncio.wait_for(started.wait(), 60)
        await service.images.DeleteImage(pb.DeleteImageRequest(name="one"))
        await until_job(service, created.job.job_id, status.JOB_STATUS_CANCELLED)

        async def removed() -> bool:
            return (JobKind.DELETE_REPOSITORY, "oci:/images/managed/one") in seen

        await until(removed)


async def test_a_recreated_image_is_built_after_the_old_repository_is_gone(
    service: Service, database: Database
) -> None:
    await service.create("one")
    await service.images.DeleteImage(pb.DeleteImageRequest(name="one"))
    again = await service.create("one")
    order: list[JobKind] = []

    async def work(claim: Claim, lease: Lease) -> BuildReport:
        if claim.job.image_name == "one":
            order.append(claim.job.kind)
        return BUILT

    async with working(database, work):
        await until_job(service, again.job.job_id, status.JOB_STATUS_SUCCEEDED)
    assert order == [JobKind.DELETE_REPOSITORY, JobKind.BUILD]


async def test_a_passing_fault_is_tried_again_and_then_given_up(
    service: Service, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_loop, "LONGEST_DELAY", 0.01)
    monkeypatch.setattr(worker_loop, "LONGEST_PAUSE", 0.01)
    attempts: list[int] = []

    async def work(claim: Claim, lease: Lease) -> BuildReport:
        attempts.append(claim.job.attempt)
        raise PassingFaultError("push: connection reset")

    await service.images.EnsureImageExistence(pb.EnsureImageExistenceRequest())
    [job, *_] = (await service.jobs.ListJobs(jobs_pb2.ListJobsRequest(page_size=1))).jobs
    async with working(database, work):
        ended = await until_job(service, job.job_id, status.JOB_STATUS_FAILED)
    assert ended.termination_reason == jobs_pb2.TERMINATION_REASON_INTERNAL_ERROR
    assert ended.job_progress_str == f"given up after {MAX_FAULTS} attempts; the last one: push: connection reset"
    assert max(attempts) == MAX_FAULTS


async def test_an_exception_that_nobody_foresaw_does_not_end_the_worker(
    service: Service, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_loop, "LONGEST_DELAY", 0.01)
    monkeypatch.setattr(worker_loop, "LONGEST_PAUSE", 0.01)
    broken = True

    async def work(claim: Claim, lease: Lease) -> BuildReport:
        nonlocal broken
        if broken:
            broken = False
            raise ZeroDivisionError
        return BUILT

    created = await service.create("one")
    async with working(database, work):
        await until_job(service, created.job.job_id, status.JOB_STATUS_SUCCEEDED)


async def test_the_job_of_a_silent_worker_is_taken_over_and_the_zombie_is_fenced(
    service: Service, database: Database, dsn: str
) -> None:
    claimed, release = asyncio.Event(), asyncio.Event()

    async def stuck(claim: Claim, lease: Lease) -> BuildReport:
        claimed.set()
        await release.wait()
        return BuildReport(Outcome.SUCCEEDED, TerminationReason.COMPLETED, "the zombie's", (PipLibrary("old", "1"),))

    await service.images.EnsureImageExistence(pb.EnsureImageExistenceRequest())
    async with working(database, stuck, WorkerConfig(concurrency=1, lease=30.0, poll=0.2, drain=5.0)) as zombie:
        await asyncio.wait_for(claimed.wait(), 60)
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            over = "update jobs set lease_expires_at = now() - interval '1 s' where status in (1, 2) returning uuid"
            [[uuid]] = await (await conn.execute(over)).fetchall()
        async with working(database, build_at_once) as other:
            job = await until_job(service, str(uuid), status.JOB_STATUS_SUCCEEDED)
            assert job.agent_id.uuid == str(other.agent_id) != str(zombie.agent_id)
        release.set()
    image = (await service.images.ListImages(pb.ListImagesRequest(page_size=1))).images[0]
    assert [x.name for x in image.pip_libraries] == ["numpy"]
    assert (await service.job(str(uuid))).job_progress_str == "built"


@pytest.mark.parametrize(("attempt", "ends"), [(MAX_ATTEMPTS - 1, False), (MAX_ATTEMPTS, True)])
async def test_a_build_that_was_lost_again_and_again_is_given_up(
    service: Service, database: Database, dsn: str, attempt: int, ends: bool
) -> None:
    await service.create("one")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await conn.execute(
            "update jobs set status = 1, attempt = %s, lease_expires_at = now() - interval '1 s' "
            "where image_name <> 'one'",
            [attempt],
        )
    lost = (await service.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs[1]
    async with working(database, build_at_once):
        wanted = status.JOB_STATUS_FAILED if ends else status.JOB_STATUS_SUCCEEDED
        job = await until_job(service, lost.job_id, wanted)
    assert ("given up after 25 attempts; the last one: its worker was lost" in job.job_progress_str) == ends


async def test_nobody_takes_over_a_build_that_was_lost_for_the_last_time(
    service: Service, database: Database, dsn: str
) -> None:
    """Between the end of its lease and the word that it has failed no worker may begin it once more."""
    await service.create("one")
    builds = Builds(database)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        for attempt in (MAX_ATTEMPTS, MAX_ATTEMPTS - 1):
            await conn.execute("update jobs set status = 1, lease_expires_at = now() where image_name <> 'one'")
            await conn.execute(
                "update jobs set status = 7, attempt = %s, lease_expires_at = null where image_name <> 'one'", [attempt]
            )
            claim = await builds.claim(agent_id=uuid4(), lease=30)
            assert (claim is None) == (attempt == MAX_ATTEMPTS)


async def test_a_lost_job_that_was_to_be_cancelled_ends_cancelled(
    service: Service, database: Database, dsn: str
) -> None:
    created = await service.create("one")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await conn.execute(
            "update jobs set status = 1, attempt = 1, lease_expires_at = now() - interval '1 s' "
            "where image_name = 'one'"
        )
    await service.jobs.CancelJob(jobs_pb2.CancelJobRequest(job_id=created.job.job_id))
    async with working(database, build_at_once):
        await until_job(service, created.job.job_id, status.JOB_STATUS_CANCELLED)
    assert (await service.get("one")).status == pb.ManagedImage.STATUS_FAILED


async def test_a_draining_worker_hands_its_job_back_and_another_runs_it(service: Service, database: Database) -> None:
    started = asyncio.Event()

    async def endless(claim: Claim, lease: Lease) -> BuildReport:
        started.set()
        await asyncio.sleep(60)
        return BUILT

    created = await service.create("one")
    async with working(database, endless):
        await asyncio.wait_for(started.wait(), 60)
    async with working(database, build_at_once):
        job = await until_job(service, created.job.job_id, status.JOB_STATUS_SUCCEEDED)
    assert job.termination_reason == jobs_pb2.TERMINATION_REASON_COMPLETED


async def test_a_worker_that_cannot_renew_stops_the_job_before_the_lease_is_over(
    service: Service, database: Database, dsn: str
) -> None:
    lease = 6.0
    stopped_after: list[float] = []
    started = asyncio.Event()

    async def work(claim: Claim, lease: Lease) -> BuildReport:
        began = asyncio.get_running_loop().time()
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            stopped_after.append(asyncio.get_running_loop().time() - began)
        return BUILT

    await service.images.EnsureImageExistence(pb.EnsureImageExistenceRequest())
    own = Database(dsn, size=2, wait=0.2, statement_timeout=1)
    await own.open()
    async with working(own, work, WorkerConfig(concurrency=1, lease=lease, poll=5.0, drain=0.1)):
        await asyncio.wait_for(started.wait(), 60)
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            name = conn.info.dbname
            server = dsn.rpartition("/")[0] + "/postgres"
            async with await psycopg.AsyncConnection.connect(server, autocommit=True) as admin:
                await admin.execute(f'alter database "{name}" with allow_connections false')
                await admin.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s and pid <> %s",
                    [name, conn.info.backend_pid],
                )
                async with asyncio.timeout(60):
                    while not stopped_after:  # noqa: ASYNC110 (a list has no event)
                        await asyncio.sleep(0.01)
                await admin.execute(f'alter database "{name}" with allow_connections true')
    await own.close()
    assert stopped_after[0] < lease


async def test_user_builds_go_before_mass_rebuilds(service: Service, database: Database, dsn: str) -> None:
    for number in range(3):
        await service.create(f"old{number}")
        await service.report(f"old{number}", "numpy==1.0")
    await service.report("system-python-3-12")
    for number in range(3):
        await service.images.SyncImageTag(pb.SyncImageTagRequest(name=f"old{number}", force=True))
    await service.create("mine")
    order: list[str] = []

    async def work(claim: Claim, lease: Lease) -> BuildReport:
        order.append(claim.job.image_name)
        return BUILT

    async with working(database, work, WorkerConfig(concurrency=1, lease=30, poll=0.2, drain=1)):

        async def all_built() -> bool:
            return len(order) == 4

        await until(all_built)
    assert order[0] == "mine"
