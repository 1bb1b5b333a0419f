"""Writing, reading and expiring the logs of builds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from uuid import UUID

from image_registry.errors import Reason, RegistryError, Resource, job_not_found
from image_registry.models import StoredJob
from image_registry.storage import job_logs
from image_registry.storage.database import Database

FOLLOW_INTERVAL = 0.5  # seconds between two looks at a log that is followed


class JobLogs:
    """The logs of builds. Those of jobs that ended `retention` seconds ago are removed."""

    def __init__(self, db: Database, retention: float) -> None:
        self._db = db
        self.retention = retention

    async def append(self, job: StoredJob, text: str) -> None:
        """Add text to the log of a job that this worker owns."""
        storable = text.replace("\0", "")
        await self._db.write(lambda conn: job_logs.append(conn, job, storable))

    async def read(self, uuid: UUID, *, follow: bool) -> AsyncIterator[str]:
        """The log from its beginning, in pieces; with `follow` until the job ends.

        Raises RegistryError JOB_NOT_FOUND, and JOB_LOG_NOT_FOUND for a job that has none and will get none.
        """
        part = 0
        while True:
            state = await self._db.read(lambda conn: job_logs.state(conn, uuid))
            if state is None:
                raise job_not_found(str(uuid))
            if state.parts == 0 and (state.finished or not follow):
                raise _no_log(uuid)
            while part < state.parts:
                last, text = await self._db.read(partial(job_logs.parts_after, job_id=state.job_id, part=part))
                if last == part:  # expired while it was read
                    return
                part = last
                yield text
            if state.finished or not follow:
                if state.lost:
                    yield f"… {state.lost} bytes more were not kept: a log holds {job_logs.LOG_LIMIT}\n"
                return
            await asyncio.sleep(FOLLOW_INTERVAL)

    async def expire(self) -> int:
        """Remove logs that are over their time; returns how many."""
        return await self._db.write(lambda conn: job_logs.expire(conn, self.retention))


def _no_log(uuid: UUID) -> RegistryError:
    return RegistryError(Reason.JOB_LOG_NOT_FOUND, f"job {uuid} has no log", resource=Resource("job log", str(uuid)))
