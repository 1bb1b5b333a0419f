"""Builds that want system packages go to workers that can install them, and say so where there is none."""

import asyncio
from dataclasses import replace
from uuid import uuid4

import psycopg
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import job_status_pb2 as status
from ri.api.imageregistry import jobs_pb2

from image_registry.builds.lease import Lease
from image_registry.models import BuildReport, Outcome, Priority, TerminationReason
from image_registry.registry.builds import MAX_ATTEMPTS, WAITS_FOR_ENGINE, Builds, Claim
from image_registry.storage import jobs
from image_registry.storage.database import Database
from tests.fixtures.service import Service
from tests.integration.worker.test_loop import BUILT, FAST, build_at_once, until, until_job, working

GIT = [pb.ManagedImage.PackageRequirement(name="git", package_type=pb.ManagedImage.PACKAGE_TYPE_APT)]
WITH_ENGINE = replace(FAST, packages=True)


async def build_bases(database: Database) -> None:
    """Build all that any worker can build."""
    builds = Builds(database)
    while claim := await builds.claim(agent_id=uuid4(), lease=30):
        await builds.start(claim.job)
        await builds.finish(claim.job, BuildReport(Outcome.SUCCEEDED, TerminationReason.COMPLETED))


async def test_it_goes_to_a_worker_that_can(service: Service, database: Database) -> None:
    created = await service.create("tools", package_requirements=GIT)
    plain = await service.create("plain")
    taken: list[tuple[str, str]] = []

    async def without_engine(claim: Claim, lease: Lease) -> BuildReport:
        taken.append(("without", claim.job.image_name))
        return BUILT

    async def with_engine(claim: Claim, lease: Lease) -> BuildReport:
        taken.append(("with", claim.job.image_name))
        return BUILT

    async with working(database, without_engine):
        await until_job(service, plain.job.job_id, status.JOB_STATUS_SUCCEEDED)
        assert (await service.job(created.job.job_id)).status == status.JOB_STATUS_REQUESTED
        async with working(database, with_engine, WITH_ENGINE) as able:
            job = await until_job(service, created.job.job_id, status.JOB_STATUS_SUCCEEDED)
    assert ("with", "tools") in taken
    assert ("without", "tools") not in taken
    assert job.agent_id.uuid == str(able.agent_id)


async def test_a_rebuild_needs_one_too_and_a_create_on_a_base_that_is_there(
    service: Service, database: Database
) -> None:
    created = await service.create("tools", package_requirements=GIT)
    async with working(database, build_at_once, WITH_ENGINE):
        await until_job(service, created.job.job_id, status.JOB_STATUS_SUCCEEDED)
    await service.images.SyncImageTag(pb.SyncImageTagRequest(name="tools", force=True))
    await asyncio.gather(*(service.create(f"more{number}", package_requirements=GIT) for number in range(3)))
    builds = Builds(database)
    assert await builds.claim(agent_id=uuid4(), lease=30) is None
    claims = [await builds.claim(agent_id=uuid4(), lease=30, packages=True) for _ in range(5)]
    assert {claim.job.image_name for claim in claims if claim} == {"tools", "more0", "more1", "more2"}


async def test_a_build_that_waits_for_one_says_so(service: Service, database: Database) -> None:
    created = await service.create("tools", package_requirements=GIT)

    async def says_so() -> bool:
        return (await service.job(created.job.job_id)).job_progress_str == WAITS_FOR_ENGINE

    async with working(database, build_at_once, replace(FAST, lease=3.0)):
        await until(says_so)
    assert (await service.job(created.job.job_id)).status == status.JOB_STATUS_REQUESTED


async def test_one_that_is_put_off_wakes_only_who_can_do_it_and_is_counted(
    service: Service, database: Database, dsn: str
) -> None:
    await service.create("tools", package_requirements=GIT)
    await build_bases(database)
    await service.create("plain")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await conn.execute("update jobs set run_after = now() + interval '60 s' where image_name = 'tools'")
        await conn.execute("update jobs set run_after = now() + interval '600 s' where image_name = 'plain'")
    builds = Builds(database)
    assert 0 < (await builds.next_due(packages=True) or 0) <= 60
    assert 60 < (await builds.next_due() or 0) <= 600
    state = await database.read(lambda conn: jobs.queue_state(conn, MAX_ATTEMPTS))
    assert (state.waiting[Priority.INTERACTIVE], state.waiting_for_packages, state.running) == (2, 1, 0)
    claim = await claim_now(dsn, builds)
    assert claim.job.image_name == "tools"
    state = await database.read(lambda conn: jobs.queue_state(conn, MAX_ATTEMPTS))
    assert (state.waiting[Priority.INTERACTIVE], state.waiting_for_packages, state.running) == (1, 0, 1)


async def claim_now(dsn: str, builds: Builds) -> Claim:
    """What a worker with an engine gets when what wants system packages is due."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await conn.execute("update jobs set run_after = now() where image_name = 'tools'")
    claim = await builds.claim(agent_id=uuid4(), lease=30, packages=True)
    assert claim is not None
    return claim


async def test_a_build_that_nobody_can_do_fails_in_the_end(service: Service, database: Database, dsn: str) -> None:
    created = await service.create("tools", package_requirements=GIT)
    await build_bases(database)
    builds = Builds(database)
    await builds.report_worker(uuid4(), packages=False)
    assert await builds.judge_waiting(silence=30, patience=600) == 0
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await conn.execute("update jobs set run_after = now() - interval '601 s' where image_name = 'tools'")

    able = uuid4()
    await builds.report_worker(able, packages=True)
    assert await builds.judge_waiting(silence=30, patience=600) == 0, "somebody can: it is busy"
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await conn.execute("update workers set seen_at = now() - interval '601 s' where agent_id = %s", [able])
    ended = await asyncio.gather(*(builds.judge_waiting(silence=30, patience=600) for _ in range(3)))
    assert max(ended) == 1
    job = await service.job(created.job.job_id)
    assert job.status == status.JOB_STATUS_FAILED
    assert job.termination_reason == jobs_pb2.TERMINATION_REASON_INTERNAL_ERROR
    assert job.job_progress_str == (
        "no worker that can install system packages was there for 600 s: see `image-registry doctor`"
    )
    assert (await service.get("tools")).status == pb.ManagedImage.STATUS_FAILED
