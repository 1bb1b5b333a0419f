"""Several servers behind a gateway: who is away, or leaves, is stood in for by the others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from grpc import aio
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry.image_registry_pb2_grpc import ImageRegistryStub

from image_registry.gateway.config import GatewayOptions
from image_registry.gateway.process import Gateway
from image_registry.host.addresses import Address, free_port
from tests.fixtures.proxied import Upstream
from tests.integration.gateway.test_states import eventually, status_is


@asynccontextmanager
async def two_servers() -> AsyncIterator[tuple[Address, Upstream, Upstream]]:
    """The gateway's address, and the servers behind it."""
    first, second = Upstream(), Upstream()
    await first.start()
    await second.start()
    listen = Address("127.0.0.1", free_port())
    upstreams = (Address("localhost", first.port), Address("127.0.0.1", second.port))
    gateway = Gateway(GatewayOptions(listen=listen, upstreams=upstreams))
    await gateway.start()
    try:
        yield listen, first, second
    finally:
        await gateway.kill()
        await first.stop()
        await second.stop()


async def test_they_share_the_load_and_stand_in_for_each_other() -> None:
    async with (
        two_servers() as (address, first, second),
        httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client,
    ):
        await eventually(lambda: status_is(client, "/healthz", 200))

        async def both_were_asked() -> bool:
            assert (await client.get("/v1/images/x")).status_code == 200
            return bool(first.images.requests and second.images.requests)

        await eventually(both_were_asked)
        await first.stop()
        for _ in range(20):
            assert (await client.get("/v1/images/x")).status_code == 200
        await eventually(lambda: status_is(client, "/healthz", 200))


async def test_what_a_leaving_one_does_not_begin_goes_to_the_other() -> None:
    names = [f"image-{number}" for number in range(100)]
    async with (
        two_servers() as (address, leaving, staying),
        httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client,
        aio.insecure_channel(str(address)) as channel,
    ):
        await eventually(lambda: status_is(client, "/healthz", 200))
        leaving.images.leaving = True
        stub: Any = ImageRegistryStub(channel)
        await asyncio.gather(*(stub.CreateImage(pb.CreateImageRequest(name=name)) for name in names))
        assert sorted(request.name for request in staying.images.requests) == sorted(names)
        answers = await asyncio.gather(*(client.get(f"/v1/images/{name}") for name in names[:20]))
        assert {answer.status_code for answer in answers} == {200}
