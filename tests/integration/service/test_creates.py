"""Creates at once: they share statements, and each still has its own answer."""

import asyncio
from typing import Any

import grpc
import psycopg
import pytest
from grpc import aio
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import jobs_pb2

from image_registry.storage import image_creates, images
from tests.fixtures.refusals import refused
from tests.fixtures.service import Service


def wanted(name: str, python: str = "") -> pb.CreateImageRequest:
    return pb.CreateImageRequest(name=name, python_version=python, pip_requirements=[{"name": "numpy"}])


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many creates each shared statement held."""
    seen: list[int] = []
    create = images.create_several

    async def counted(conn: Any, rows: list[Any], **values: Any) -> Any:
        seen.append(len(rows))
        return await create(conn, rows, **values)

    monkeypatch.setattr(images, "create_several", counted)
    return seen


async def test_creates_at_once_share_statements_and_keep_their_own_answers(
    service: Service, statements: list[int]
) -> None:
    await service.create("first")  # with it comes the system image
    names = [f"image-{number % 60}" for number in range(120)]
    calls = (
        service.images.CreateImage(wanted(name, "3.12" if number % 2 else "")) for number, name in enumerate(names)
    )
    answers = await asyncio.gather(*calls, return_exceptions=True)
    created = [answer for answer in answers if not isinstance(answer, BaseException)]
    faults = [answer for answer in answers if isinstance(answer, aio.AioRpcError)]
    assert sorted(answer.image.name for answer in created) == sorted(set(names)), "each name once"
    assert [fault.code() for fault in faults] == [grpc.StatusCode.ALREADY_EXISTS] * 60
    assert statements, "some went together"
    for answer in created:
        job = (await service.jobs.GetJob(jobs_pb2.GetJobRequest(job_id=answer.job.job_id))).job
        assert job.creation_time == answer.job.creation_time
    assert len({answer.job.job_id for answer in created}) == 60


async def test_one_that_the_database_refuses_spoils_no_other(service: Service, dsn: str, statements: list[int]) -> None:
    await service.create("first")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as sql:
        await sql.execute("alter table images add constraint no_seven check (name <> 'image-7')")
    answers = await asyncio.gather(
        *(service.images.CreateImage(wanted(f"image-{number}")) for number in range(30)), return_exceptions=True
    )
    faults = [number for number, answer in enumerate(answers) if isinstance(answer, BaseException)]
    assert faults == [7]
    assert (await refused(service.images.CreateImage(wanted("image-7")))).code is grpc.StatusCode.INTERNAL
    assert statements


async def test_a_caller_whose_deadline_passed_holds_up_nobody(service: Service, dsn: str) -> None:
    """A name that another transaction is about to take is waited for; those who share its statement are answered."""
    await service.create("first")
    async with await psycopg.AsyncConnection.connect(dsn) as sql:
        await sql.execute(
            """insert into images (name, role, status, python_version, platform_tag, definition)
            values ('image-3', 1, 3, '3.12', 'v1', '')"""
        )
        calls = [
            asyncio.ensure_future(
                service.images.CreateImage(wanted(f"image-{number}"), timeout=1 if number == 3 else 60)
            )
            for number in range(10)
        ]
        with pytest.raises(aio.AioRpcError) as late:
            await calls[3]
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await sql.rollback()
    others = await asyncio.gather(*(call for number, call in enumerate(calls) if number != 3))
    assert [answer.image.name for answer in others] == [f"image-{number}" for number in range(10) if number != 3]


async def test_who_creates_one_after_the_other_waits_for_nobody(
    monkeypatch: pytest.MonkeyPatch, service: Service, statements: list[int]
) -> None:
    await service.create("first")
    monkeypatch.setattr(image_creates, "PACE", 3600)  # whoever had to wait would do so for ever
    for number in range(5):
        await service.create(f"image-{number}")
    assert not statements


async def test_few_after_many_wait_no_longer_than_the_pace(service: Service, statements: list[int]) -> None:
    await service.create("first")
    await asyncio.gather(*(service.create(f"many-{number}") for number in range(40)))
    assert max(statements) > 1
    await service.create("one")
    await asyncio.gather(service.create("two"), service.create("three"))


async def test_a_name_that_is_waited_for_holds_up_no_later_statement(service: Service, dsn: str) -> None:
    await service.create("first")
    async with await psycopg.AsyncConnection.connect(dsn) as sql:
        await sql.execute(
            """insert into images (name, role, status, python_version, platform_tag, definition)
            values ('slow', 1, 3, '3.12', 'v1', '')"""
        )
        slow = asyncio.ensure_future(service.create("slow"))
        await _until_somebody_waits(dsn)
        await asyncio.gather(*(service.create(f"image-{number}") for number in range(20)))
        assert not slow.done()
        await sql.rollback()
    assert (await slow).image.name == "slow"


async def _until_somebody_waits(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as sql, asyncio.timeout(10):
        while True:
            cursor = await sql.execute("select exists (select from pg_locks where not granted)")
            if await cursor.fetchone() == (True,):
                return
            await asyncio.sleep(0.01)
