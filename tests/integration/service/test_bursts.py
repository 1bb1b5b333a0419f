"""Many calls at once, from many connections: they wait for their turn."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import grpc
from grpc import aio
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry.image_registry_pb2_grpc import ImageRegistryStub

from tests.fixtures.service import Service

CONNECTIONS, EACH = 10, 150  # no connection has more than the server lets it have


async def test_a_burst_of_calls_is_answered_whole(service: Service) -> None:
    async with AsyncExitStack() as stack:
        stubs: list[Any] = []
        for _ in range(CONNECTIONS):
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = await stack.enter_async_context(aio.insecure_channel(service.address, options))
            await asyncio.wait_for(channel.channel_ready(), 10)
            stubs.append(ImageRegistryStub(channel))

        async def code(stub: Any) -> grpc.StatusCode:
            try:
                await stub.GetImage(pb.GetImageRequest(name="x"), timeout=60)
            except aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        codes = Counter(await asyncio.gather(*(code(stub) for stub in stubs for _ in range(EACH))))
    assert codes == {grpc.StatusCode.NOT_FOUND: CONNECTIONS * EACH}
