"""Handlers of rime.JobReader: validate, one use case, convert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from grpc import aio
from ri.api.imageregistry import jobs_pb2 as pb
from ri.api.imageregistry.jobs_pb2_grpc import JobReaderServicer

from image_registry.api import validation
from image_registry.api.job_logs import LogLinks
from image_registry.api.tokens import PageTokens
from image_registry.codec import fill_job
from image_registry.errors import Fault, invalid
from image_registry.models import JobStatus, JobType, StoredJob
from image_registry.registry.jobs import Jobs

_Context = aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class _Query:
    statuses: tuple[JobStatus, ...]
    types: tuple[int, ...]
    image_name: str | None

    @property
    def finds_nothing(self) -> bool:
        """Only types were asked for that this service doesn't launch."""
        return bool(self.types) and JobType.IMAGE_BUILDER not in self.types


class JobReader(JobReaderServicer):
    """The service. Jobs outlive their images; repository removals are not shown."""

    def __init__(self, jobs: Jobs, *, tokens: PageTokens, links: LogLinks) -> None:
        self._jobs = jobs
        self._tokens = tokens
        self._links = links

    async def GetJob(self, request: pb.GetJobRequest, context: _Context) -> pb.GetJobResponse:
        """One job."""
        job = await self._jobs.get(validation.job_id(request.job_id))
        response = pb.GetJobResponse()
        self._fill(response.job, job, request.view)
        return response

    async def ListJobs(self, request: pb.ListJobsRequest, context: _Context) -> pb.ListJobsResponse:
        """A page of jobs, newest first."""
        size = validation.page_size(request.page_size)
        before, query = self._position(request)
        response = pb.ListJobsResponse()
        if query.finds_nothing:
            return response
        found, more = await self._jobs.page(
            before=before, size=size, statuses=query.statuses, image_name=query.image_name
        )
        for job in found:
            self._fill(response.jobs.add(), job, request.view)
        response.has_more = more
        if more:
            kept = [list(query.statuses), list(query.types), query.image_name]
            response.next_page_token = self._tokens.make(found[-1].id, kept)
        return response

    async def CancelJob(self, request: pb.CancelJobRequest, context: _Context) -> pb.CancelJobResponse:
        """Stop a job."""
        await self._jobs.cancel(validation.job_id(request.job_id))
        return pb.CancelJobResponse()

    def _fill(self, message: pb.JobMetadata, job: StoredJob, view: pb.JobView.ValueType) -> None:
        fill_job(message, job, full=view == pb.JOB_VIEW_FULL)
        self._links.fill(message, job)

    def _position(self, request: pb.ListJobsRequest) -> tuple[int | None, _Query]:
        if request.page_token:
            before, (statuses, types, image_name) = self._tokens.read(request.page_token)
            return before, _Query(tuple(JobStatus(s) for s in statuses), tuple(types), image_name)
        return None, _query(request.first_page_query)


def _query(wanted: pb.ListJobsRequest.Query) -> _Query:
    faults = [
        Fault(f"firstPageQuery.selectedStatuses[{number}]", "must be a status that a job can have")
        for number, status in enumerate(wanted.selected_statuses)
        if int(status) not in set(JobStatus)
    ]
    image_name = wanted.object_id if wanted.HasField("object_id") else None
    if image_name == "":
        faults.append(Fault("firstPageQuery.objectId", "must be an image's name; leave it out for any"))
    if faults:
        raise invalid(faults)
    statuses = tuple(JobStatus(status) for status in sorted(set(wanted.selected_statuses)))
    return _Query(statuses, tuple(sorted(set(wanted.selected_types))), image_name)
