"""Creates that carry their caller's id: repeated, they are answered as the first one was."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from grpc import aio
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import jobs_pb2

from image_registry import limits
from image_registry.models import Role
from image_registry.storage import create_requests
from image_registry.storage.database import Database
from image_registry.worker import main as worker
from tests.fixtures.invariants import check_invariants, rows
from tests.fixtures.keyed import person, reason
from tests.fixtures.rest import Rest
from tests.fixtures.service import Service, make_settings, running_service


@pytest.fixture
async def replicas(dsn: str) -> AsyncIterator[list[Service]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(running_service(make_settings(), dsn)) for _ in range(2)]


async def create(service: Service, name: str, request_id: str, *pips: str) -> Any:
    wanted = [pb.ManagedImage.PipRequirement(name=pip) for pip in pips or ("numpy",)]
    request = pb.CreateImageRequest(name=name, pip_requirements=wanted)
    return await service.images.CreateImage(request, metadata=[("x-request-id", request_id)])


async def refused(call: Any) -> str:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return reason(caught.value)


@pytest.mark.parametrize("base_is_there", [False, True])
async def test_fifty_at_once_make_one_image_and_get_one_answer(
    replicas: list[Service], dsn: str, base_is_there: bool
) -> None:
    if base_is_there:
        await replicas[0].create("other")
    answers = await asyncio.gather(*(create(replicas[n % 2], "one", "id-1") for n in range(50)))
    assert Counter(answer.SerializeToString(deterministic=True) for answer in answers).most_common(1)[0][1] == 50
    assert answers[0].image.status == pb.ManagedImage.STATUS_BUILDING_FIRST_TIME
    query = jobs_pb2.ListJobsRequest(first_page_query=jobs_pb2.ListJobsRequest.Query(object_id="one"))
    assert [job.job_id for job in (await replicas[0].jobs.ListJobs(query)).jobs] == [answers[0].job.job_id]
    await check_invariants(dsn)


async def test_fifty_other_requests_under_one_id_make_one_image(replicas: list[Service], dsn: str) -> None:
    await replicas[0].create("other")
    calls = (create(replicas[n % 2], f"image-{n}", "id-1") for n in range(50))
    ends = await asyncio.gather(*calls, return_exceptions=True)
    made = [end for end in ends if not isinstance(end, BaseException)]
    assert len(made) == 1
    assert {reason(end) for end in ends if isinstance(end, aio.AioRpcError)} == {"REQUEST_ID_REUSED"}
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        assert await rows(conn, "select name from images where name like 'image-%'") == [(made[0].image.name,)]
    await check_invariants(dsn)


@pytest.mark.parametrize("base_is_there", [False, True])
async def test_the_first_answer_outlives_the_image(service: Service, base_is_there: bool) -> None:
    if base_is_there:
        await service.create("other")
    first = await create(service, "one", "id-1")
    await service.report("one", "numpy==1.0")
    assert await create(service, "one", "id-1") == first
    await service.images.DeleteImage(pb.DeleteImageRequest(name="one"))
    assert await create(service, "one", "id-1") == first
    assert (await create(service, "one", "id-2")).job.job_id != first.job.job_id


async def test_the_same_id_with_another_request_is_refused(service: Service) -> None:
    await create(service, "one", "id-1")
    assert await refused(create(service, "one", "id-1", "pandas")) == "REQUEST_ID_REUSED"
    assert await refused(create(service, "two", "id-1")) == "REQUEST_ID_REUSED"
    assert await refused(create(service, "one", "id-2")) == "IMAGE_ALREADY_EXISTS"
    assert await refused(service.create("one")) == "IMAGE_ALREADY_EXISTS"
    assert await refused(service.get("two")) == "IMAGE_NOT_FOUND"


async def test_each_caller_has_ids_of_its_own_and_a_full_quota_is_no_obstacle(dsn: str) -> None:
    async with running_service(make_settings(auth="keys", key_queued_builds=1), dsn) as service:
        one, other = await person(service, Role.MEMBER), await person(service, Role.MEMBER)
        first = await one.create("one", request_id="id-1")
        assert await one.create("one", request_id="id-1") == first
        assert await refused(one.create("three", request_id="id-3")) == "QUEUE_LIMIT"
        assert await refused(other.create("one", request_id="id-1")) == "IMAGE_ALREADY_EXISTS"
        assert (await other.create("two", request_id="id-1")).image.name == "two"


async def test_ids_are_forgotten_after_a_day_by_the_caretaker(
    service: Service, database: Database, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(create_requests, "EXPIRED_AT_ONCE", 2)
    await service.create("other")
    for number in range(6):
        await create(service, f"image-{number}", f"id-{number}")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        age = "update create_requests set created_at = now() - make_interval(secs => %s) where request_id <> %s"
        await conn.execute(age, [limits.REQUEST_ID_SECONDS + 1, "id-5"])
        stop = asyncio.Event()
        work = worker.work(make_settings(data_dir=tmp_path), database, stop=stop, ready=lambda _: None)
        task = asyncio.create_task(work)
        async with asyncio.timeout(30):
            while await rows(conn, "select request_id from create_requests") != [("id-5",)]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        stop.set()
        await task
    assert await refused(create(service, "image-5", "id-5", "pandas")) == "REQUEST_ID_REUSED"
    assert await refused(create(service, "image-4", "id-4")) == "IMAGE_ALREADY_EXISTS"


async def test_over_rest_the_callers_own_id_counts_and_the_gateways_does_not(rest: Rest, dsn: str) -> None:
    body = {"name": "one", "pipRequirements": [{"name": "numpy"}]}
    own = {"x-request-id": "id-1"}
    first = await rest.http.post("/v1/images", json=body, headers=own)
    again = await rest.http.post("/v1/images", json=body, headers=own)
    assert (first.status_code, again.status_code, again.json()) == (200, 200, first.json())
    assert again.headers["x-request-id"] == "id-1"
    other = await rest.http.post("/v1/images", json=body | {"name": "two"}, headers=own)
    assert (other.status_code, other.json()["details"][0]["reason"]) == (400, "REQUEST_ID_REUSED")

    without = await rest.http.post("/v1/images", json=body | {"name": "three"})
    assert without.headers["x-request-id"]  # Envoy's
    forged = own | {"x-request-id-generated": "gateway"}
    assert (await rest.http.post("/v1/images", json=body, headers=forged)).json() == first.json()
    empty = await rest.http.post("/v1/images", json=body | {"name": "four"}, headers={"x-request-id": ""})
    assert empty.status_code == 200  # nothing is no id
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        assert await rows(conn, "select request_id from create_requests") == [("id-1",)]


async def test_native_grpc_through_the_gateway_is_the_same(rest: Rest, dsn: str) -> None:
    async with aio.insecure_channel(str(rest.address)) as channel:
        call = channel.unary_unary(
            "/rime.ImageRegistry/CreateImage",
            request_serializer=pb.CreateImageRequest.SerializeToString,
            response_deserializer=pb.CreateImageResponse.FromString,
        )
        request = pb.CreateImageRequest(name="one", pip_requirements=[{"name": "numpy"}])
        first = await call(request, metadata=[("x-request-id", "id-1")])
        assert await call(request, metadata=[("x-request-id", "id-1")]) == first
        await call(pb.CreateImageRequest(name="two", pip_requirements=[{"name": "numpy"}]))
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        assert await rows(conn, "select request_id from create_requests") == [("id-1",)]
