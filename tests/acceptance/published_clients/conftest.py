"""One process per published client for all tests; the product itself is fresh for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.acceptance.published_clients.driving import Driver, running_driver
from tests.fixtures.rest import Rest, running_rest
from tests.fixtures.service import make_settings

ONE_PYTHON = {"3.11": "oci:/bases/python3.11:latest"}


@pytest.fixture(scope="session")
def rest_2_0() -> Iterator[Driver]:
    """rime-sdk 2.0.17."""
    with running_driver("2.0.17", "rest.py") as driver:
        yield driver


@pytest.fixture(scope="session")
def rest_2_13() -> Iterator[Driver]:
    """rime-sdk 2.13.2."""
    with running_driver("2.13.2", "rest.py") as driver:
        yield driver


@pytest.fixture(scope="session")
def grpc_0_18() -> Iterator[Driver]:
    """rime-sdk 0.18.0."""
    with running_driver("0.18.0", "grpc_stubs.py") as driver:
        yield driver


@pytest.fixture
async def product(dsn: str, tmp_path: Path) -> AsyncIterator[Rest]:
    """The product with one supported Python, hence one system image, set up for gRPC clients of old too."""
    settings = make_settings(base_images=ONE_PYTHON, legacy_page_echo=True)
    async with running_rest(settings, dsn, tmp_path) as running:
        yield running
