"""WatchImage: every change of status reaches every watcher, whatever happens to the connection that tells of it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import psycopg
import pytest
from grpc import aio
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import image_watch_pb2
from ri.api.imageregistry.image_watch_pb2_grpc import ImageWatchStub

from tests.fixtures.service import Service

Image = pb.ManagedImage


def watch(service: Service, name: str, channel: aio.Channel | None = None, **fields: Any) -> AsyncIterator[Any]:
    stub: Any = ImageWatchStub(channel or service.channel)
    return aiter(stub.WatchImage(image_watch_pb2.WatchImageRequest(name=name, **fields)))


async def statuses(call: AsyncIterator[Any]) -> list[int]:
    return [answer.image.status async for answer in call]


async def test_a_build_is_seen_to_its_end(service: Service) -> None:
    await service.create("vision", python_version="3.11")
    call = watch(service, "vision", until_built=True)
    first = await anext(call)
    assert (first.image.name, first.image.status) == ("vision", Image.STATUS_BUILDING_FIRST_TIME)
    await service.report("vision", "numpy==1.0")
    rest = [answer.image async for answer in call]
    assert [image.status for image in rest] == [Image.STATUS_READY]
    assert [library.name for library in rest[0].pip_libraries] == ["numpy"]


async def test_what_is_built_already_ends_at_once(service: Service) -> None:
    await service.create("vision", python_version="3.11")
    await service.report("vision", ok=False)
    assert await statuses(watch(service, "vision", until_built=True)) == [Image.STATUS_FAILED]


async def test_an_image_that_is_missing_or_deleted(service: Service) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await statuses(watch(service, "nothing"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    await service.create("vision", python_version="3.11")
    call = watch(service, "vision")
    await anext(call)
    await service.images.DeleteImage(pb.DeleteImageRequest(name="vision"))
    with pytest.raises(aio.AioRpcError) as caught:
        await anext(call)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_broken_connection_loses_no_news(service: Service, dsn: str) -> None:
    await service.create("vision", python_version="3.11")
    call = watch(service, "vision", until_built=True)
    await anext(call)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
    await service.report("vision", "numpy==1.0")
    assert await asyncio.wait_for(statuses(call), 10) == [Image.STATUS_READY]


async def test_a_thousand_watchers(service: Service) -> None:
    """All are told; how soon is measured by the benchmarks, here it is bounded generously."""
    await service.create("vision", python_version="3.11")
    own_connection = [("grpc.use_local_subchannel_pool", 1)]  # a connection carries 200 streams at most
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(aio.insecure_channel(service.address, own_connection)) for _ in range(10)
        ]
        calls = [watch(service, "vision", channels[n % 10], until_built=True) for n in range(1000)]
        await asyncio.gather(*(anext(call) for call in calls))
        began = time.monotonic()
        await service.report("vision", "numpy==1.0")
        told = await asyncio.gather(*(statuses(call) for call in calls))
    assert told == [[Image.STATUS_READY]] * 1000
    assert time.monotonic() - began < 10


async def test_watches_end_when_the_server_stops(service: Service) -> None:
    await service.create("vision", python_version="3.11")
    call = watch(service, "vision")
    await anext(call)
    stopping = asyncio.create_task(service.server.grpc.stop(5))
    service.server.watches.leave()
    assert await asyncio.wait_for(statuses(call), 20) == []
    await stopping
