"""Handlers of rime.JobReader: validate, one use case, convert."""

from __future__ import annotations

from typing import Any

from grpc import aio
from ri.api.imageregistry import jobs_pb2 as pb
from ri.api.imageregistry.jobs_pb2_grpc import JobReaderServicer

from image_registry.api import page_queries, validation
from image_registry.api.job_logs import LogLinks
from image_registry.api.tokens import PageTokens
from image_registry.codec import fill_job
from image_registry.models import StoredJob
from image_registry.registry.jobs import Jobs

_Context = aio.ServicerContext[Any, Any]


class JobReader(JobReaderServicer):
    """The service. Jobs outlive their images; repository removals are not shown."""

    def __init__(self, jobs: Jobs, *, tokens: PageTokens, links: LogLinks) -> None:
        self._jobs = jobs
        self._tokens = tokens
        self._links = links

    async def GetJob(self, request: pb.GetJobRequest, context: _Context) -> pb.GetJobResponse:
        """One job."""
        job_id, full = validation.job_query(request)
        response = pb.GetJobResponse()
        self._fill(response.job, await self._jobs.get(job_id), full=full)
        return response

    async def ListJobs(self, request: pb.ListJobsRequest, context: _Context) -> pb.ListJobsResponse:
        """A page of jobs, newest first."""
        query = page_queries.job_query(request, self._tokens)
        response = pb.ListJobsResponse()
        if query.finds_nothing:
            return response
        found, more = await self._jobs.page(
            before=query.before, size=query.size, statuses=query.statuses, image_name=query.image_name
        )
        for job in found:
            self._fill(response.jobs.add(), job, full=query.full)
        response.has_more = more
        if more:
            response.next_page_token = query.token(self._tokens, found[-1].id)
        return response

    async def CancelJob(self, request: pb.CancelJobRequest, context: _Context) -> pb.CancelJobResponse:
        """Stop a job."""
        await self._jobs.cancel(validation.job_id(request.job_id))
        return pb.CancelJobResponse()

    def _fill(self, message: pb.JobMetadata, job: StoredJob, *, full: bool) -> None:
        fill_job(message, job, full=full)
        self._links.fill(message, job)
