"""Refusals as they arrive: complete statuses for all that can go wrong, and nothing of the inside."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf import json_format
from grpc import aio
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from ri.api.imageregistry import image_registry_pb2 as pb

from image_registry import app, limits
from tests.fixtures.refusals import read_refusal, refused
from tests.fixtures.service import Service, make_settings

Code = grpc.StatusCode
GET = "/rime.ImageRegistry/GetImage"
ACTIVE = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"


@pytest.fixture
async def sql(dsn: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        yield conn


async def count(sql: psycopg.AsyncConnection[Any], query: Any) -> int:
    row: Any = await (await sql.execute(query)).fetchone()
    return int(row[0])


def delete(service: Service, name: str, **options: float) -> Any:
    return service.images.DeleteImage(pb.DeleteImageRequest(name=name), **options)


async def test_what_nobody_foresaw_is_internal_with_an_id_and_nothing_else(
    service: Service, sql: psycopg.AsyncConnection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    await service.create("one")
    await sql.execute("alter table images rename column definition to secret_column")
    for call in (service.create("two"), delete(service, "one"), service.images.ListImages(pb.ListImagesRequest())):
        with caplog.at_level(logging.ERROR):
            refusal = await refused(call)
        assert refusal.code is Code.INTERNAL
        request_id = refusal.message.rpartition(" ")[2]
        assert refusal.message == f"internal error, request id {request_id}"
        assert refusal.details.keys() == {"ErrorInfo"}
        assert dict(refusal.details["ErrorInfo"].metadata) == {"requestId": request_id}
        assert f"request id {request_id}" in caplog.text
        assert "definition" in caplog.text, "the log has the cause"


async def test_bytes_that_are_no_message_are_the_callers_fault(service: Service) -> None:
    channel: Any = service.channel  # bytes as they are
    for broken in (b"\xff", b"\x0a\xff", b"\x0a\x02\xc3\x28", b"\x00"):
        refusal = await refused(channel.unary_unary(GET)(broken))
        assert (refusal.code, refusal.reason) == (Code.INVALID_ARGUMENT, "MALFORMED_REQUEST")
    refusal = await refused(consumed(channel.unary_stream("/rime.JobLogs/ReadJobLogs")(b"\xff")))
    assert (refusal.code, refusal.reason) == (Code.INVALID_ARGUMENT, "MALFORMED_REQUEST")


async def consumed(stream: Any) -> list[Any]:
    return [message async for message in stream]


async def test_unknown_methods_are_refused_like_everything_else(service: Service) -> None:
    channel: Any = service.channel
    for path in ("/rime.ImageRegistry/Frobnicate", "/rime.Nothing/Get", "/x"):
        refusal = await refused(channel.unary_unary(path)(b"anything"))
        assert (refusal.code, refusal.reason) == (Code.UNIMPLEMENTED, "UNKNOWN_METHOD")
        refusal = await refused(consumed(channel.unary_stream(path)(b"anything")))
        assert (refusal.code, refusal.reason) == (Code.UNIMPLEMENTED, "UNKNOWN_METHOD")


async def test_reflection_passes(service: Service) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    channel: Any = service.channel  # the stubs know a synchronous one only
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    answers = stub.ServerReflectionInfo(iter([request]))
    listed = {one.name for answer in await consumed(answers) for one in answer.list_services_response.service}
    assert {"rime.ImageRegistry", "rime.JobReader"} <= listed


async def test_a_request_above_the_limit_is_refused(service: Service) -> None:
    padding = pb.CreateImageRequest(name="x" * limits.REQUEST_BYTES)
    assert (await refused(service.images.CreateImage(padding))).code is Code.RESOURCE_EXHAUSTED


async def test_details_hold_strings_and_numbers_only(service: Service) -> None:
    await service.create("one")
    calls = [
        service.create("one"),
        service.images.CreateImage(pb.CreateImageRequest(name="A")),
        service.get("none"),
        delete(service, "system-python-3-12"),
        service.images.ListImages(pb.ListImagesRequest(page_token="forged")),
    ]
    for call in calls:
        with pytest.raises(aio.AioRpcError) as caught:
            await call
        status = rpc_status.from_call(caught.value)
        assert status is not None
        assert (status.code, status.message) == (caught.value.code().value[0], caught.value.details())
        assert read_refusal(caught.value).details["ErrorInfo"].domain == "image-registry"
        text = json_format.MessageToJson(status, always_print_fields_with_no_presence=True)
        assert not {"true", "false", "null"} & set(text.replace(",", " ").replace("]", " ").split())
        assert json.loads(text)["details"]


@pytest.fixture
async def locked(service: Service, dsn: str) -> AsyncIterator[Service]:
    """The service with an image `one`, whose row somebody else holds."""
    await service.create("one")
    async with await psycopg.AsyncConnection.connect(dsn) as holder:
        await holder.execute("select from images where name = 'one' for update")
        yield service
        await holder.rollback()


async def test_a_clients_deadline_ends_its_statement(locked: Service, sql: psycopg.AsyncConnection[Any]) -> None:
    began = time.monotonic()
    call = asyncio.create_task(refused(delete(locked, "one", timeout=1.0)))
    while not await count(sql, ACTIVE):  # noqa: ASYNC110 (what happens in the database sets no event here)
        await asyncio.sleep(0.01)
    assert (await call).code is Code.DEADLINE_EXCEEDED
    while await count(sql, ACTIVE):
        assert time.monotonic() - began < 8, "the statement outlived its call"
        await asyncio.sleep(0.01)
    assert (await locked.get("one")).name == "one"


@pytest.mark.parametrize("service", [make_settings(statement_timeout=0.3)], indirect=True)
async def test_without_a_deadline_the_services_own_limit_holds(locked: Service) -> None:
    refusal = await refused(delete(locked, "one"))
    assert (refusal.code, refusal.reason) == (Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")


@pytest.mark.parametrize("service", [make_settings(pool_size=2, pool_wait=0.3)], indirect=True)
async def test_an_exhausted_pool_says_when_to_come_back(locked: Service) -> None:
    holding = [asyncio.create_task(refused(delete(locked, "one", timeout=10))) for _ in range(2)]
    await asyncio.sleep(0.3)
    began = time.monotonic()
    refusals = await asyncio.gather(*(refused(delete(locked, f"x{number}")) for number in range(20)))
    assert time.monotonic() - began < 8
    assert {(one.code, one.reason) for one in refusals} == {(Code.RESOURCE_EXHAUSTED, "OVERLOADED")}
    assert all(one.details["RetryInfo"].retry_delay.ToMilliseconds() > 0 for one in refusals)
    for task in holding:
        task.cancel()


@pytest.mark.parametrize("service", [make_settings(pool_size=1, pool_wait=30.0)], indirect=True)
async def test_more_calls_than_can_wait_are_turned_away_at_once(locked: Service) -> None:
    calls = [asyncio.create_task(refused(delete(locked, "one", timeout=3))) for _ in range(200)]
    done, waiting = await asyncio.wait(calls, timeout=2)
    turned_away = [task.result() for task in done]
    assert {(one.code, one.reason) for one in turned_away} == {(Code.RESOURCE_EXHAUSTED, "OVERLOADED")}
    assert len(turned_away) > 100
    assert {(await task).code for task in waiting} == {Code.DEADLINE_EXCEEDED}


@pytest.mark.parametrize("service", [make_settings(pool_size=1, pool_wait=0.2)], indirect=True)
async def test_a_busy_service_is_still_serving(
    locked: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert (await refused(delete(locked, "one", timeout=2.5))).code is Code.DEADLINE_EXCEEDED
    assert app.HEALTH_INTERVAL < 1.5
    assert "not serving" not in caplog.text
