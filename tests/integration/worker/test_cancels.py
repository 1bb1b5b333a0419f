"""A cancel that comes in the moment of a job's claim."""

import asyncio
from typing import Any

import pytest
from ri.api.imageregistry import job_status_pb2 as status
from ri.api.imageregistry import jobs_pb2

from image_registry.builds.lease import Lease
from image_registry.models import BuildReport
from image_registry.registry.builds import Builds, Claim
from image_registry.storage.database import Database
from image_registry.worker.loop import Worker
from tests.fixtures.service import Service
from tests.integration.worker.test_loop import BUILT, until_job, working


async def test_a_job_that_was_cancelled_in_the_moment_of_its_claim_does_not_begin(
    service: Service, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The notice comes before the worker knows that the job is its own."""
    began: list[str] = []
    claim_job, heard = Builds.claim, asyncio.Event()
    on_notice = Worker._on_notice

    async def claim(builds: Builds, **how: Any) -> Claim | None:
        claimed = await claim_job(builds, **how)
        if claimed is not None and claimed.job.image_name == "one":
            await service.jobs.CancelJob(jobs_pb2.CancelJobRequest(job_id=created.job.job_id))
            await asyncio.wait_for(heard.wait(), 60)
        return claimed

    def hear(worker: Worker, notice: str) -> None:
        on_notice(worker, notice)
        if notice.startswith("cancel:"):
            heard.set()

    async def work(claim: Claim, lease: Lease) -> BuildReport:
        began.append(claim.job.image_name)
        return BUILT

    monkeypatch.setattr(Builds, "claim", claim)
    monkeypatch.setattr(Worker, "_on_notice", hear)
    created = await service.create("one")
    async with working(database, work):
        await until_job(service, created.job.job_id, status.JOB_STATUS_CANCELLED, status.JOB_STATUS_SUCCEEDED)
    assert (await service.job(created.job.job_id)).status == status.JOB_STATUS_CANCELLED
    assert began == ["system-python-3-12"]
