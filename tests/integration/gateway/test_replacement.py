"""Gateways are replaced one after the other behind a load balancer, while calls go on; none of them fails.

The balancer deals out connections as a Kubernetes Service does: to those that say at /healthz that they are healthy.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from grpc import aio
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry.image_registry_pb2_grpc import ImageRegistryStub

from image_registry.gateway.config import GatewayOptions, render
from image_registry.gateway.process import find_envoy
from image_registry.host.addresses import Address, free_port
from image_registry.local.probes import http_status
from tests.fixtures.part import running_part
from tests.fixtures.proxied import Upstream
from tests.integration.gateway.test_states import eventually

KUBERNETES = Path(__file__).parents[3] / "deploy" / "kubernetes" / "gateway.yaml"
LOOK = 1.0  # seconds between a load balancer's looks at health
LEAVE = "3"  # seconds instead of those of a deployment, whose calls may take longer
CALLS_BETWEEN = 200

Replaceable = Callable[[int, Path], AbstractAsyncContextManager[Address]]


@asynccontextmanager
async def as_a_command(upstream: int, folder: Path) -> AsyncIterator[Address]:
    """`image-registry gateway`, stopped with SIGTERM."""
    address = f"127.0.0.1:{free_port()}"
    part = running_part(
        "gateway",
        GRPC_ADDRESS=f"127.0.0.1:{upstream}",
        HTTP_ADDRESS=address,
        SHUTDOWN_DELAY=LEAVE,
        DATA_DIR=str(folder),
    )
    await asyncio.to_thread(part.__enter__)
    try:
        yield Address("127.0.0.1", int(address.rpartition(":")[2]))
    finally:
        await asyncio.to_thread(part.__exit__, None, None, None)


@asynccontextmanager
async def as_a_pod(upstream: int, folder: Path) -> AsyncIterator[Address]:
    """Envoy as in the pod of deploy/kubernetes: the manifest's own preStop, then SIGTERM."""
    listen, admin = Address("127.0.0.1", free_port()), Address("127.0.0.1", free_port())
    options = GatewayOptions(listen=listen, upstreams=(Address("127.0.0.1", upstream),), admin=admin)
    config = folder / f"envoy-{listen.port}.yaml"
    config.write_text(render(options))
    process = await asyncio.create_subprocess_exec(
        *(find_envoy(), "-c", config, "--log-level", "warning", "--disable-hot-restart")
    )
    try:
        yield listen
        done = await asyncio.to_thread(subprocess.run, pre_stop(admin), capture_output=True, text=True, check=False)
        assert done.stdout.startswith("HTTP/1.1 200"), done.stdout + done.stderr
        process.terminate()
        await asyncio.wait_for(process.wait(), 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def pre_stop(admin: Address) -> list[str]:
    deployment = next(one for one in yaml.safe_load_all(KUBERNETES.read_text()) if one["kind"] == "Deployment")
    [envoy] = deployment["spec"]["template"]["spec"]["containers"]
    command = envoy["lifecycle"]["preStop"]["exec"]["command"]
    for theirs, ours in (("127.0.0.1/9901", f"{admin.host}/{admin.port}"), ("sleep 35", f"sleep {LEAVE}")):
        assert theirs in command[-1]
        command[-1] = command[-1].replace(theirs, ours)
    return list(command)


@dataclass
class Balancer:
    """Passes connections on; asks its backends for their health now and then."""

    backends: list[Address] = field(default_factory=list)
    healthy: list[Address] = field(default_factory=list)
    address: Address = field(default_factory=lambda: Address("127.0.0.1", free_port()))
    turn: int = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve."""
        server = await asyncio.start_server(self._pass_on, self.address.host, self.address.port)
        looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            looking.cancel()
            server.close()

    async def _look(self) -> None:
        while True:
            self.healthy = [one for one in self.backends if await http_status(one, "/healthz") == 200]
            await asyncio.sleep(LOOK)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.turn += 1
        chosen = self.healthy[self.turn % len(self.healthy)]
        with contextlib.suppress(OSError):
            back, forth = await asyncio.open_connection(chosen.host, chosen.port)
            await asyncio.gather(_copy(reader, forth), _copy(back, writer))
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


@dataclass
class Calls:
    """Callers that keep their connections, never repeat a call, and remember what failed."""

    address: Address
    answers: dict[str, int] = field(default_factory=lambda: {"rest": 0, "grpc": 0})
    failures: list[str] = field(default_factory=list)
    begin: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def under_way(self) -> AsyncIterator[None]:
        """Call from `begin` on, until the block ends."""
        over = asyncio.Event()
        callers = [asyncio.create_task(caller(over)) for caller in (self._rest, self._grpc) for _ in range(4)]
        try:
            yield
        finally:
            over.set()
            self.begin.set()
            await asyncio.gather(*callers)

    async def more(self) -> None:
        """Wait until there were many more answers over either."""
        wanted = {kind: count + CALLS_BETWEEN for kind, count in self.answers.items()}

        async def there() -> bool:
            return all(self.answers[kind] >= count for kind, count in wanted.items())

        await eventually(there, 60)

    async def _rest(self, over: asyncio.Event) -> None:
        async with httpx.AsyncClient(base_url=f"http://{self.address}", timeout=30, trust_env=False) as client:
            await self.begin.wait()
            while not over.is_set():
                await self._made("rest", self._create(client))

    async def _create(self, client: httpx.AsyncClient) -> None:
        (await client.post("/v1/images", json={"name": "x"})).raise_for_status()

    async def _grpc(self, over: asyncio.Event) -> None:
        async with aio.insecure_channel(str(self.address), [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub: Any = ImageRegistryStub(channel)
            await self.begin.wait()
            while not over.is_set():
                await self._made("grpc", stub.CreateImage(pb.CreateImageRequest(name="x")))

    async def _made(self, kind: str, call: Awaitable[Any]) -> None:
        try:
            await call
        except (httpx.HTTPError, aio.AioRpcError) as error:
            self.failures.append(f"{kind}: {error!r}")
            await asyncio.sleep(0.1)
        else:
            self.answers[kind] += 1


@pytest.mark.parametrize("replaceable", [as_a_command, as_a_pod])
async def test_no_call_fails_while_gateways_are_replaced(replaceable: Replaceable, tmp_path: Path) -> None:
    upstream, balancer = Upstream(), Balancer()
    await upstream.start()
    calls = Calls(balancer.address)

    async def healthy(*gateways: Address) -> None:
        async def seen() -> bool:
            return set(balancer.healthy) == set(gateways)

        await eventually(seen, 30)

    try:
        async with replaceable(upstream.port, tmp_path) as third, balancer.running(), calls.under_way():
            async with replaceable(upstream.port, tmp_path) as second:
                async with replaceable(upstream.port, tmp_path) as first:
                    balancer.backends = [first, second]
                    await healthy(first, second)
                    calls.begin.set()
                    await calls.more()
                    balancer.backends = [first, second, third]
                    await healthy(first, second, third)
                await healthy(second, third)
                await calls.more()
            await healthy(third)
            await calls.more()
    finally:
        await upstream.stop()
    assert calls.failures == []
