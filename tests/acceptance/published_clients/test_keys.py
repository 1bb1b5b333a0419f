"""The published clients' key: the header, or the metadata, `rime-api-key`."""

from __future__ import annotations

from pathlib import Path

import pytest

from image_registry.models import Role
from image_registry.registry.keys import Keys
from tests.acceptance.published_clients.driving import ClientError, Driver, PublishedClient
from tests.fixtures.rest import running_rest
from tests.fixtures.service import make_settings


@pytest.mark.parametrize("release", ["rest_2_0", "rest_2_13", "grpc_0_18"])
async def test_a_key_decides(dsn: str, tmp_path: Path, request: pytest.FixtureRequest, release: str) -> None:
    driver: Driver = request.getfixturevalue(release)
    async with running_rest(make_settings(auth="keys"), dsn, tmp_path) as product:
        keys = Keys(product.service.server.database)
        member, admin = [(await keys.create(role)).secret for role in (Role.MEMBER, Role.ADMIN)]
        # The gRPC release sends its key over TLS only.
        address = product.url if release.startswith("rest") else str(product.address)
        without = PublishedClient(driver, address)
        if release == "grpc_0_18":
            with pytest.raises(ClientError, match=r"rime-api-key"):
                await without("get", name="vision")
            return
        with pytest.raises(ClientError, match=r"^ValueError: Unauthorized: Your API token is either invalid"):
            await without("get", name="vision")
        await PublishedClient(driver, address, member)("create", name="vision", pips=[["numpy"]])
        with pytest.raises(ClientError, match=r"^ValueError: Forbidden$"):
            await PublishedClient(driver, address, member)("delete", name="vision")
        await PublishedClient(driver, address, admin)("delete", name="vision")
