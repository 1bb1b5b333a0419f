"""The handler of rime.JobLogs, and the signed addresses under which logs of ended jobs can be read."""

from __future__ import annotations

import base64
import hmac
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from google.api.httpbody_pb2 import HttpBody
from grpc import aio
from ri.api.imageregistry import job_logs_pb2 as pb
from ri.api.imageregistry import jobs_pb2
from ri.api.imageregistry.job_logs_pb2_grpc import JobLogsServicer

from image_registry.api import validation
from image_registry.errors import Reason, RegistryError
from image_registry.models import StoredJob
from image_registry.registry.job_logs import JobLogs

LINK_SECONDS = 3600  # validity of a signed address

_Context = aio.ServicerContext[Any, Any]


class LogLinks:
    """Signs and checks addresses of logs: whoever has one may read that log, for an hour, without a key."""

    def __init__(self, secret: bytes, *, public_url: str, retention: float) -> None:
        self._key = hmac.digest(secret, b"job logs", "sha256")
        self._public_url = public_url.rstrip("/")
        self._retention = timedelta(seconds=retention)

    def fill(self, message: jobs_pb2.JobMetadata, job: StoredJob) -> None:
        """Say where the log of an ended job can be read, if it has one, and when it will be removed."""
        if job.finished_at is None or not job.has_log:
            return
        expires = int(time.time()) + LINK_SECONDS
        query = f"expires={expires}&signature={self._sign(str(job.uuid), expires)}"
        message.archived_job_logs.url.url = f"{self._public_url}/v1/jobs/{job.uuid}/logs?{query}"
        message.archived_job_logs.expiration_time.FromDatetime(job.finished_at + self._retention)

    def check(self, job_id: str, expires: int, signature: str) -> None:
        """Raises RegistryError INVALID_SIGNATURE unless the address was signed here and is still valid."""
        genuine = hmac.compare_digest(signature.encode(), self._sign(job_id, expires).encode())
        if not genuine or expires < time.time():
            raise RegistryError(Reason.INVALID_SIGNATURE, "the address of this log is not valid, or no longer so")

    def _sign(self, job_id: str, expires: int) -> str:
        mac = hmac.digest(self._key, f"{job_id}:{expires}".encode(), "sha256")
        return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


class JobLogsService(JobLogsServicer):
    """The service."""

    def __init__(self, logs: JobLogs, links: LogLinks) -> None:
        self._logs = logs
        self._links = links

    async def ReadJobLogs(self, request: pb.ReadJobLogsRequest, context: _Context) -> AsyncIterator[HttpBody]:
        """The log as plain text, piece by piece."""
        uuid = validation.job_id(request.job_id)
        if request.signature:
            self._links.check(str(uuid), request.expires, request.signature)
        async for text in self._logs.read(uuid, follow=request.follow):
            yield HttpBody(content_type="text/plain; charset=utf-8", data=text.encode())
