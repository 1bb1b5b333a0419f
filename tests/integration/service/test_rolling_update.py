"""A rolling update: every replica is stopped and started again under load, and no caller sees it.

Three real server processes behind a real Envoy. REST callers, and gRPC callers that know nothing of retries, go through
the gateway; gRPC callers that go to the replicas directly have the service config of docs/operations/upgrade.md.
"""

import asyncio
import json
import re
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from grpc import StatusCode, aio
from psycopg import AsyncConnection
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry.image_registry_pb2_grpc import ImageRegistryStub

from image_registry.client import AsyncImageRegistryClient
from image_registry.gateway.config import GatewayOptions
from image_registry.gateway.process import Gateway
from image_registry.host.addresses import Address, free_port, parse_address
from tests.fixtures.invariants import check_invariants
from tests.fixtures.server_process import ServerProcess

REPLICAS = 3
CALLERS = 3  # of each kind
# Envoy asks each second in production, and a server says for five that it leaves. Here all of it shares a busy machine.
HEALTH_INTERVAL, SHUTDOWN_DELAY = 0.25, 2.5
WAIT_SECONDS = 60.0
UPGRADE_GUIDE = Path(__file__).parents[3] / "docs" / "operations" / "upgrade.md"


def service_config() -> str:
    """What the guide tells gRPC clients that go to the replicas directly: spread, retry, ask for health."""
    block = re.search(r"```json\n(.*?)```", UPGRADE_GUIDE.read_text(), re.DOTALL)
    assert block, "the upgrade guide has lost its service config"
    return json.dumps(json.loads(block[1]))


@dataclass
class Calls:
    """What one kind of caller did: rounds that went well, and everything that didn't."""

    kind: str
    rounds: int = 0
    faults: list[str] = field(default_factory=list)


Round = Callable[[str], Awaitable[object]]  # create an image of that name, read it, list


class Traffic:
    """Callers of every kind, until `over` is set."""

    def __init__(self) -> None:
        self.kinds: list[Calls] = []
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, kind: str, once: Round) -> None:
        """Start callers that do `once` again and again."""
        calls = Calls(kind)
        self.kinds.append(calls)
        self._tasks += [asyncio.create_task(self._caller(calls, number, once)) for number in range(CALLERS)]

    async def advances(self, rounds: int = 2) -> None:
        """Wait until every kind has done so many rounds more."""
        goals = [calls.rounds + rounds for calls in self.kinds]
        async with asyncio.timeout(WAIT_SECONDS):
            while any(calls.rounds < goal for calls, goal in zip(self.kinds, goals, strict=True)):
                assert self.faults() == []
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Let every caller finish its round."""
        self._over.set()
        await asyncio.gather(*self._tasks)

    def faults(self) -> list[str]:
        """Everything that went wrong."""
        return [f"{calls.kind}: {fault}" for calls in self.kinds for fault in calls.faults]

    async def _caller(self, calls: Calls, number: int, once: Round) -> None:
        count = 0
        while not self._over.is_set():
            count += 1
            try:
                await once(f"{calls.kind}-{number}-{count}")
            except Exception as fault:  # noqa: BLE001 (whatever a caller sees is what the test is about)
                calls.faults.append(f"{type(fault).__name__}: {fault}")
                await asyncio.sleep(0.05)
            else:
                calls.rounds += 1


def rest(http: httpx.AsyncClient) -> Round:
    async def once(name: str) -> None:
        body = {"name": name, "pipRequirements": [{"name": "numpy"}]}
        for answer in (
            await http.post("/v1/images", json=body),
            await http.get(f"/v1/images/{name}"),
            await http.get("/v1/images?pageSize=5"),
        ):
            assert answer.status_code == 200, f"{answer.request.method} {answer.status_code} {answer.text}"

    return once


def grpc(channel: aio.Channel) -> Round:
    stub: Any = ImageRegistryStub(channel)

    async def once(name: str) -> None:
        wanted = pb.CreateImageRequest(name=name, pip_requirements=[{"name": "numpy"}])
        await stub.CreateImage(wanted, timeout=30, metadata=[("x-request-id", str(uuid.uuid4()))])
        await stub.GetImage(pb.GetImageRequest(name=name), timeout=30)
        await stub.ListImages(pb.ListImagesRequest(page_size=5), timeout=30)

    return once


def client(registry: AsyncImageRegistryClient) -> Round:
    async def once(name: str) -> None:
        await registry.create_image(name, ["numpy"])
        await registry.get_image(name)

    return once


@pytest.mark.timeout(300)
async def test_no_request_fails_while_every_replica_is_restarted(dsn: str, tmp_path: Path) -> None:
    settings = {
        "BASE_IMAGES": "3.12=oci:/bases/3.12:latest",
        "SHUTDOWN_DELAY": str(SHUTDOWN_DELAY),
        "KEY_REQUESTS": "0",
        "POOL_SIZE": "4",
    }
    servers = [ServerProcess(dsn, **settings) for _ in range(REPLICAS)]
    listen = Address("127.0.0.1", free_port())
    upstreams = tuple(parse_address(server.address) for server in servers)
    gateway = Gateway(
        GatewayOptions(listen=listen, upstreams=upstreams, health_interval=HEALTH_INTERVAL), run_dir=tmp_path
    )
    async with AsyncExitStack() as stack:
        for server in servers:
            stack.callback(server.kill)
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in servers))
        stack.push_async_callback(gateway.kill)
        await gateway.start()

        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://{listen}", timeout=30, trust_env=False)
        )
        proxied = await stack.enter_async_context(aio.insecure_channel(str(listen)))
        everywhere = "ipv4:" + ",".join(server.address for server in servers)
        direct = await stack.enter_async_context(
            aio.insecure_channel(everywhere, options=[("grpc.service_config", service_config())])
        )
        registry = await stack.enter_async_context(AsyncImageRegistryClient(str(listen)))

        traffic = Traffic()
        for kind, once in (
            ("rest", rest(http)),
            ("grpc", grpc(proxied)),
            ("direct", grpc(direct)),
            ("client", client(registry)),
        ):
            traffic.add(kind, once)
        await traffic.advances()
        for server in servers:
            await asyncio.to_thread(server.terminate)
            await traffic.advances()
            await asyncio.to_thread(server.start)
            await traffic.advances()
        await traffic.stop()

        assert traffic.faults() == []
        await check_invariants(dsn)


async def test_a_call_that_has_begun_is_never_answered_cancelled(dsn: str) -> None:
    """The gateway repeats what is answered CANCELLED, creates too: it must not have begun."""
    server = ServerProcess(dsn, BASE_IMAGES="3.12=oci:/bases/3.12:latest", DRAIN_TIMEOUT="0.5")
    await asyncio.to_thread(server.start)
    try:
        async with aio.insecure_channel(server.address) as channel, await AsyncConnection.connect(dsn) as sql:
            stub: Any = ImageRegistryStub(channel)
            await sql.execute("lock table images in access exclusive mode")
            wanted = pb.CreateImageRequest(name="vision", pip_requirements=[{"name": "numpy"}])
            calls = [
                asyncio.ensure_future(call)
                for call in (stub.CreateImage(wanted), stub.DeleteImage(pb.DeleteImageRequest(name="vision")))
            ]
            async with asyncio.timeout(WAIT_SECONDS):
                while not await (await sql.execute(_WAITING)).fetchone():  # noqa: ASYNC110 (another process decides)
                    await asyncio.sleep(0.02)
            await asyncio.to_thread(server.terminate)
            faults = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(fault, aio.AioRpcError) and fault.code() for fault in faults] == [StatusCode.UNAVAILABLE] * 2
    finally:
        server.kill()


_WAITING = "select pid from pg_locks where not granted and relation = 'images'::regclass offset 1"
