"""Creates at once, with ids of their callers' or without: they share statements, and each still has its own answer."""

import asyncio
from typing import Any

import grpc
import psycopg
import pytest
from grpc import aio
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import jobs_pb2

from image_registry.requirements import system_image_name
from image_registry.storage import image_creates, images
from image_registry.storage.create_requests import KnownRequestError, RequestKey
from image_registry.storage.database import Database
from tests.fixtures.invariants import check_invariants, rows
from tests.fixtures.keyed import reason
from tests.fixtures.refusals import refused
from tests.fixtures.service import Service, make_settings


def wanted(name: str, python: str = "") -> pb.CreateImageRequest:
    return pb.CreateImageRequest(name=name, python_version=python, pip_requirements=[{"name": "numpy"}])


def reasons(ends: list[Any]) -> list[str]:
    """Why calls were refused, of those that were."""
    return [reason(end) for end in ends if isinstance(end, aio.AioRpcError)]


def identified(service: Service, name: str, request_id: str, **how: Any) -> Any:
    return service.images.CreateImage(wanted(name), metadata=[("x-request-id", request_id)], **how)


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


async def test_creates_with_ids_share_statements_and_each_is_remembered(
    service: Service, dsn: str, statements: list[int]
) -> None:
    await service.create("first")
    calls = [identified(service, f"image-{n}", f"id-{n}") if n % 3 else service.create(f"image-{n}") for n in range(60)]
    answers = await asyncio.gather(*calls)
    assert [answer.image.name for answer in answers] == [f"image-{n}" for n in range(60)]
    assert sum(statements) > 40, "most went together, whether with an id or not"
    known = [n for n in range(60) if n % 3]
    async with await psycopg.AsyncConnection.connect(dsn) as sql:
        assert await rows(sql, "select count(*) from create_requests") == [(len(known),)]
    again = await asyncio.gather(*(identified(service, f"image-{n}", f"id-{n}") for n in known))
    assert again == [answers[n] for n in known]
    ends = await asyncio.gather(
        *(identified(service, f"another-{n}", f"id-{n}") for n in known), return_exceptions=True
    )
    assert reasons(ends) == ["REQUEST_ID_REUSED"] * len(known)
    await check_invariants(dsn)


async def test_known_ids_among_many_harm_nobody(service: Service, dsn: str, statements: list[int]) -> None:
    """Neither one whose image is gone, which is answered as it was, nor one that came with another request."""
    first = await identified(service, "image-3", "id-3")
    await service.images.DeleteImage(pb.DeleteImageRequest(name="image-3"))
    await identified(service, "other", "id-7")
    calls = (identified(service, f"image-{n}", f"id-{n}") for n in range(40))
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [n for n, end in enumerate(ends) if isinstance(end, BaseException)] == [7]
    assert reasons(ends) == ["REQUEST_ID_REUSED"]
    assert ends[3] == first
    assert max(statements) > 1
    async with await psycopg.AsyncConnection.connect(dsn) as sql:
        made = await rows(sql, "select name from images where name like 'image-%'")
    assert sorted(made) == sorted((f"image-{n}",) for n in range(40) if n not in (3, 7))
    await check_invariants(dsn)


async def test_whose_fault_it_is_is_found_by_halves(
    service: Service, database: Database, statements: list[int]
) -> None:
    await identified(service, "other", "id-7")
    other = await database.read(lambda conn: images.get(conn, "other"))
    assert other
    creates, base = image_creates.ImageCreates(database), system_image_name(other.python_version)

    def create(number: int) -> Any:
        row = images.NewImageRow(
            name=f"image-{number}",
            python_version=other.python_version,
            platform_tag=other.platform_tag,
            definition=other.definition,
            base=base,
            repository=f"oci:/images/{number}",
            creator="",
            request=RequestKey("", f"id-{number}", bytes(32)),
        )
        return creates.create(row)

    ends = await asyncio.gather(*map(create, range(33)), return_exceptions=True)
    assert [(n, type(end)) for n, end in enumerate(ends) if isinstance(end, Exception)] == [(7, KnownRequestError)]
    assert statements == [32, 16, 8, 4, 4, 2, 2, 8, 16], "the first goes alone"


@pytest.mark.parametrize("same_request", [True, False])
async def test_ids_twice_at_once_make_one_image_each(
    service: Service, dsn: str, statements: list[int], same_request: bool
) -> None:
    await service.create("first")
    pairs = [
        (
            identified(service, f"image-{n}", f"id-{n}"),
            identified(service, f"image-{n}" if same_request else f"another-{n}", f"id-{n}"),
        )
        for n in range(20)
    ]
    ends = await asyncio.gather(*(call for pair in pairs for call in pair), return_exceptions=True)
    assert statements
    for one, two in zip(ends[::2], ends[1::2], strict=True):
        if same_request:
            assert one == two
        else:
            assert reasons([one, two]) == ["REQUEST_ID_REUSED"]
    async with await psycopg.AsyncConnection.connect(dsn) as sql:
        assert await rows(sql, "select count(*) from images where role = 2 and name <> 'first'") == [(20,)]
    await check_invariants(dsn)


async def test_another_unique_rule_is_taken_for_no_known_id(service: Service, dsn: str) -> None:
    await service.create("first")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as sql:
        await sql.execute("create unique index one_a_creator on images (creator) where name like 'image-%'")
    answers = await asyncio.gather(
        *(identified(service, f"image-{n}", f"id-{n}", timeout=20) for n in range(5)), return_exceptions=True
    )
    faults = [answer.code() for answer in answers if isinstance(answer, aio.AioRpcError)]
    assert faults == [grpc.StatusCode.INTERNAL] * 4


@pytest.mark.parametrize(
    "taken",
    [
        """insert into images (name, role, status, python_version, platform_tag, definition)
        values ('image-3', 1, 3, '3.12', 'v1', '')""",
        """insert into create_requests (creator, request_id, fingerprint, definition, job_uuid)
        values ('', 'id-3', sha256(''), '', gen_random_uuid())""",
    ],
    ids=["name", "id"],
)
async def test_a_caller_whose_deadline_passed_holds_up_nobody(service: Service, dsn: str, taken: str) -> None:
    """What another transaction is about to take is waited for; those who share its statement are answered."""
    await service.create("first")
    async with await psycopg.AsyncConnection.connect(dsn) as sql:
        await sql.execute(taken)
        calls = [
            asyncio.ensure_future(
                identified(service, f"image-{number}", f"id-{number}", timeout=1 if number == 3 else 60)
            )
            for number in range(10)
        ]
        with pytest.raises(aio.AioRpcError) as late:
            await calls[3]
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await sql.rollback()
    others = await asyncio.gather(*(call for number, call in enumerate(calls) if number != 3))
    assert [answer.image.name for answer in others] == [f"image-{number}" for number in range(10) if number != 3]


@pytest.mark.parametrize("service", [make_settings(statement_timeout=1.0)], indirect=True)
async def test_what_is_held_for_longer_than_a_statement_may_take_fails_alone(
    service: Service, dsn: str, statements: list[int]
) -> None:
    await service.create("first")
    async with await psycopg.AsyncConnection.connect(dsn) as sql:
        await sql.execute(
            """insert into images (name, role, status, python_version, platform_tag, definition)
            values ('image-13', 1, 3, '3.12', 'v1', ''), ('image-17', 1, 3, '3.12', 'v1', '')"""
        )
        await sql.execute(
            """insert into create_requests (creator, request_id, fingerprint, definition, job_uuid)
            values ('', 'id-23', sha256(''), '', gen_random_uuid())"""
        )
        calls = (identified(service, f"image-{n}", f"id-{n}") for n in range(60))
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert [n for n, end in enumerate(ends) if isinstance(end, BaseException)] == [13, 17, 23]
        assert reasons(ends) == ["DEADLINE_EXCEEDED"] * 3
        assert max(statements) > 3
        await sql.rollback()
    again = await asyncio.gather(*(identified(service, f"image-{n}", f"id-{n}") for n in range(60)))
    assert all(again[n] == end for n, end in enumerate(ends) if not isinstance(end, BaseException))
    await check_invariants(dsn)


async def test_who_creates_one_after_the_other_waits_for_nobody(
    monkeypatch: pytest.MonkeyPatch, service: Service, statements: list[int]
) -> None:
    await service.create("first")
    monkeypatch.setattr(image_creates, "EACH", 3600)  # whoever had to wait would do so for ever
    monkeypatch.setattr(image_creates, "LONGEST", 3600)
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
