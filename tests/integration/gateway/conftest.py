"""A gateway in front of a small gRPC server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from image_registry.gateway.config import GatewayOptions
from image_registry.gateway.process import Gateway
from image_registry.host.addresses import Address, free_port
from tests.fixtures.proxied import Upstream


@dataclass
class Proxied:
    """The gateway, what is behind it, and an HTTP client for it."""

    gateway: Gateway
    upstream: Upstream
    address: Address
    http: httpx.AsyncClient


@asynccontextmanager
async def proxied(**options: Any) -> AsyncIterator[Proxied]:
    """Run a server and a gateway with `options` in front of it."""
    upstream = Upstream()
    await upstream.start()
    address = Address("127.0.0.1", free_port())
    gateway = Gateway(
        GatewayOptions(listen=address, upstreams=(Address("127.0.0.1", upstream.port),), **options),
    )
    await gateway.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=30, trust_env=False) as client:
            yield Proxied(gateway, upstream, address, client)
    finally:
        await gateway.kill()
        await upstream.stop()


@pytest.fixture(scope="module")
def access_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway") / "access.log"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(access_log: Path) -> AsyncIterator[Proxied]:
    """One gateway for all tests of a module that change nothing."""
    async with proxied(request_timeout=4, access_log=access_log) as running:
        yield running
