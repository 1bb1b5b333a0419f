"""Logs of builds through both clients."""

import asyncio
from uuid import uuid4

import pytest

from image_registry.client import AsyncImageRegistryClient, ImageRegistryClient, NotFoundError
from image_registry.models import BuildReport, Outcome, StoredJob, TerminationReason
from image_registry.registry.builds import Builds
from image_registry.registry.job_logs import JobLogs
from image_registry.storage.database import Database
from tests.fixtures.service import Service

DONE = BuildReport(Outcome.SUCCEEDED, TerminationReason.COMPLETED, "built")


async def running_job(registry: AsyncImageRegistryClient, database: Database) -> StoredJob:
    await registry.create_image("vision", ["numpy"])
    claim = await Builds(database).claim(agent_id=uuid4(), lease=30)
    assert claim is not None
    assert await Builds(database).start(claim.job) is not None
    return claim.job


async def test_a_log_is_followed_to_the_end_of_its_job(service: Service, database: Database) -> None:
    async with AsyncImageRegistryClient(service.address) as registry:
        job = await running_job(registry, database)
        logs = JobLogs(database, 3600)
        await logs.append(job, "one\ntw")
        lines = registry.read_job_logs(str(job.uuid), follow=True)
        assert await anext(lines) == "one"
        await logs.append(job, "o\nthree")
        await Builds(database).finish(job, DONE)
        assert [line async for line in lines] == ["two", "three"]

        def work() -> list[str]:
            with ImageRegistryClient(service.address) as client:
                return list(client.read_job_logs(str(job.uuid)))

        assert await asyncio.to_thread(work) == ["one", "two", "three"]


async def test_a_job_without_a_log_says_so(service: Service, database: Database) -> None:
    async with AsyncImageRegistryClient(service.address) as registry:
        job = await running_job(registry, database)
        with pytest.raises(NotFoundError) as caught:
            await anext(registry.read_job_logs(str(job.uuid)))
        assert caught.value.reason == "JOB_LOG_NOT_FOUND"
