"""The published clients' key: the header, or the metadata, `rime-api-key`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from image_registry.models import Role
from image_registry.registry.keys import Keys
from tests.acceptance.published_clients.driving import ClientError, Driver, PublishedClient
from tests.fixtures.rest import Rest, running_rest
from tests.fixtures.service import make_settings


@pytest.fixture
async def product(dsn: str, tmp_path: Path) -> AsyncIterator[Rest]:
    """The product, which asks for keys."""
    async with running_rest(make_settings(auth="keys"), dsn, tmp_path) as running:
        yield running


async def keys_of(product: Rest) -> tuple[str, str]:
    """A member's key and an admin's."""
    keys = Keys(product.service.server.database)
    return (await keys.create(Role.MEMBER)).secret, (await keys.create(Role.ADMIN)).secret


@pytest.mark.parametrize("release", ["rest_2_0", "rest_2_13"])
async def test_over_rest(product: Rest, request: pytest.FixtureRequest, release: str) -> None:
    driver: Driver = request.getfixturevalue(release)
    member, admin = await keys_of(product)
    with pytest.raises(ClientError, match=r"^ValueError: Unauthorized: Your API token is either invalid"):
        await PublishedClient(driver, product.url)("get", name="vision")
    await PublishedClient(driver, product.url, member)("create", name="vision", pips=[["numpy"]])
    with pytest.raises(ClientError, match=r"^ValueError: Forbidden$"):
        await PublishedClient(driver, product.url, member)("delete", name="vision")
    await PublishedClient(driver, product.url, admin)("delete", name="vision")


async def test_over_grpc(product: Rest, grpc_0_18: Driver) -> None:
    """By the generated stubs: the client itself sends its key over TLS only."""
    member, _ = await keys_of(product)
    get = {"service": "images", "method": "GetImage", "request": {"name": "vision"}}
    with pytest.raises(ClientError, match=r"^ValueError: UNAUTHENTICATED: .*rime-api-key"):
        await PublishedClient(grpc_0_18, str(product.address))("stub", **get)
    with pytest.raises(ClientError, match=r"^ValueError: NOT_FOUND: there is no image named 'vision'"):
        await PublishedClient(grpc_0_18, str(product.address), member)("stub", **get)
