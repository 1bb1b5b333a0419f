"""A failover or a restore that loses a claim gives its number out again: only one of the two attempts may write."""

import asyncio
from dataclasses import replace
from uuid import uuid4

import psycopg
from ri.api.imageregistry import job_status_pb2 as status

from image_registry.builds.lease import Lease
from image_registry.models import BuildReport, StoredJob
from image_registry.registry.builds import Builds, Claim
from image_registry.registry.job_logs import JobLogs
from image_registry.storage import jobs
from image_registry.storage.database import Database
from tests.fixtures.service import Service
from tests.integration.worker.test_loop import BUILT, FAST, until_job, working


async def lose_claims(dsn: str) -> None:
    """What a standby knows that never heard of the claims."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await conn.execute(
            "update jobs set status = 5, attempt = attempt - 1, agent_id = null, lease_expires_at = null, "
            "started_at = null where status in (1, 2)"
        )


async def claimed(builds: Builds) -> StoredJob:
    claim = await builds.claim(agent_id=uuid4(), lease=30)
    assert claim is not None
    return claim.job


async def test_only_the_second_of_two_claims_with_one_number_writes(
    service: Service, database: Database, dsn: str
) -> None:
    await service.create("one")
    builds, logs = Builds(database), JobLogs(database, 1000)
    lost = await claimed(builds)
    await lose_claims(dsn)
    owned = await claimed(builds)
    assert (lost.id, lost.attempt) == (owned.id, owned.attempt)

    assert await builds.start(lost) is None
    assert await builds.start(owned) is False
    assert await builds.renew(lost, 30) is None
    assert await builds.renew(owned, 30) is False
    for job, text in ((owned, "the owner's"), (lost, "the other's")):
        await builds.set_progress(job, text)
        await logs.append(job, text)
    await database.write(lambda conn: jobs.set_definition(conn, lost, b""))
    await builds.put_back(lost, delay=0, fault=False, progress="put back")
    assert not await builds.finish(lost, replace(BUILT, progress="the other's"))

    seen = await database.read(lambda conn: jobs.lock_attempt(conn, owned))
    assert seen is not None
    assert (seen.progress, seen.definition) == ("the owner's", owned.definition)
    assert [text async for text in logs.read(owned.uuid, follow=False)] == ["the owner's"]
    assert await builds.finish(owned, BUILT)


async def test_an_attempt_that_lost_its_job_ends_before_its_worker_takes_the_job_again(
    service: Service, database: Database, dsn: str
) -> None:
    await service.create("one")
    started = asyncio.Event()
    under_way: list[int] = []
    met: list[int] = []

    async def work(claim: Claim, lease: Lease) -> BuildReport:
        job_id = claim.job.id
        if job_id in under_way:
            met.append(job_id)
        under_way.append(job_id)
        try:
            if not started.is_set():
                started.set()
                await asyncio.sleep(60)
        finally:
            under_way.remove(job_id)
        return BUILT

    async with working(database, work, replace(FAST, lease=3.0, poll=0.05)):
        await asyncio.wait_for(started.wait(), 60)
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            [[uuid]] = await (await conn.execute("select uuid from jobs where status = 2")).fetchall()
        await lose_claims(dsn)
        await until_job(service, str(uuid), status.JOB_STATUS_SUCCEEDED)
    assert not met
