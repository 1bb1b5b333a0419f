"""Logs of builds: read while running, followed to the end, limited, signed addresses, expiry."""

import asyncio
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import grpc
import psycopg
import pytest
from grpc import aio
from ri.api.imageregistry import job_logs_pb2 as pb
from ri.api.imageregistry.job_logs_pb2_grpc import JobLogsStub

from image_registry.models import BuildReport, Outcome, StoredJob, TerminationReason
from image_registry.registry.builds import Builds
from image_registry.registry.job_logs import JobLogs
from image_registry.storage.database import Database
from image_registry.storage.job_logs import LOG_LIMIT
from tests.fixtures.service import Service

RETENTION = 30 * 86400.0
DONE = BuildReport(Outcome.SUCCEEDED, TerminationReason.COMPLETED, "built")


async def running_job(service: Service, database: Database) -> StoredJob:
    await service.create("one")
    claim = await Builds(database).claim(agent_id=uuid4(), lease=30)
    assert claim is not None
    assert await Builds(database).start(claim.job) is not None
    return claim.job


async def read(service: Service, job_id: object, **fields: Any) -> str:
    stub = JobLogsStub(service.channel)
    parts = stub.ReadJobLogs(pb.ReadJobLogsRequest(job_id=str(job_id), **fields), timeout=20)
    return "".join([part.data.decode() async for part in parts])


async def test_a_log_is_read_while_the_job_runs(service: Service, database: Database) -> None:
    job = await running_job(service, database)
    await JobLogs(database, RETENTION).append(job, "resolve\n")
    await JobLogs(database, RETENTION).append(job, "fetch\n")
    assert await read(service, job.uuid) == "resolve\nfetch\n"


async def test_following_shows_new_lines_until_the_job_ends(service: Service, database: Database) -> None:
    job = await running_job(service, database)
    following = asyncio.create_task(read(service, job.uuid, follow=True))
    await asyncio.sleep(0)
    await JobLogs(database, RETENTION).append(job, "one\n")
    await JobLogs(database, RETENTION).append(job, "two\n")
    await Builds(database).finish(job, DONE)
    assert await following == "one\ntwo\n"


async def test_a_log_keeps_its_first_part_and_says_what_it_left_out(service: Service, database: Database) -> None:
    job = await running_job(service, database)
    logs = JobLogs(database, RETENTION)
    await logs.append(job, "x" * (LOG_LIMIT - 10) + "\n")
    await logs.append(job, "y" * 100)
    await logs.append(job, "z")
    text = await read(service, job.uuid)
    assert text.startswith("xxx")
    assert set(text.splitlines()[0]) == {"x"}
    assert text.endswith(f"… 101 bytes more were not kept: a log holds {LOG_LIMIT}\n")


async def test_a_worker_that_lost_the_job_writes_no_log(service: Service, database: Database, dsn: str) -> None:
    job = await running_job(service, database)
    logs = JobLogs(database, RETENTION)
    await logs.append(job, "mine\n")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await conn.execute("update jobs set attempt = attempt + 1 where uuid = %s", [job.uuid])
    await logs.append(job, "the zombie's\n")
    assert await read(service, job.uuid) == "mine\n"


async def test_the_address_of_an_ended_jobs_log_is_signed_and_expires(service: Service, database: Database) -> None:
    job = await running_job(service, database)
    await JobLogs(database, RETENTION).append(job, "all of it\n")
    assert not (await service.job(str(job.uuid))).HasField("archived_job_logs")
    await Builds(database).finish(job, DONE)
    archived = (await service.job(str(job.uuid))).archived_job_logs
    address = urlsplit(archived.url.url)
    assert address.path == f"/v1/jobs/{job.uuid}/logs"
    query = {key: value[0] for key, value in parse_qs(address.query).items()}
    expires, signature = int(query["expires"]), query["signature"]
    assert await read(service, job.uuid, expires=expires, signature=signature) == "all of it\n"
    for wrong in ({"expires": expires + 1}, {"signature": signature[::-1]}, {"signature": "é"}):
        with pytest.raises(aio.AioRpcError) as caught:
            await read(service, job.uuid, **({"expires": expires, "signature": signature} | wrong))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_an_expired_log_is_gone_and_its_job_is_not(service: Service, database: Database, dsn: str) -> None:
    job = await running_job(service, database)
    logs = JobLogs(database, RETENTION)
    await logs.append(job, "old\n")
    await Builds(database).finish(job, DONE)
    assert await logs.expire() == 0
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await conn.execute("update jobs set finished_at = now() - interval '31 days' where uuid = %s", [job.uuid])
    assert await logs.expire() == 1
    assert not (await service.job(str(job.uuid))).HasField("archived_job_logs")
    with pytest.raises(aio.AioRpcError) as caught:
        await read(service, job.uuid)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("job_id", "code"),
    [
        ("nonsense", grpc.StatusCode.INVALID_ARGUMENT),
        ("0198c0de-0000-7000-8000-000000000000", grpc.StatusCode.NOT_FOUND),
    ],
)
async def test_errors_of_a_stream_are_complete_statuses(service: Service, job_id: str, code: grpc.StatusCode) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await read(service, job_id)
    assert caught.value.code() is code
    assert any(key == "grpc-status-details-bin" for key, _ in caught.value.trailing_metadata() or ())
