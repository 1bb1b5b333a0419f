"""What is left when the server is killed, and when its database goes away and comes back, all under load."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from image_registry.local.postgres import EmbeddedPostgres
from image_registry.storage import migrations
from tests.fixtures.invariants import check_invariants
from tests.fixtures.load import Known, Load
from tests.fixtures.server_process import ServerProcess
from tests.fixtures.service import make_settings, running_service

CALLERS = 12
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
# What callers may be told while the database is away.
PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}
RETURN_SECONDS = 3.0  # after the database is back calls fail no more


async def test_a_server_that_is_killed_leaves_nothing_half_done(dsn: str) -> None:
    """No image without its job, no job without its image, nothing acknowledged lost."""
    dice = random.Random(5)
    server = ServerProcess(dsn, BASE_IMAGES="3.12=oci:/bases/3.12:latest")
    known: dict[str, Known] = {}
    try:
        for round_ in range(3):
            await asyncio.to_thread(server.start)
            async with aio.insecure_channel(server.address) as channel:
                load = Load(channel, known)
                task = asyncio.create_task(load.run(CALLERS, f"round-{round_}"))
                await answers(load, 50)
                await asyncio.sleep(dice.uniform(0, 0.3))
                server.kill()
                load.over.set()
                await task
                assert {error.code for error in load.errors} <= {grpc.StatusCode.UNAVAILABLE}
            await check_invariants(dsn)
        await asyncio.to_thread(server.start)
        async with aio.insecure_channel(server.address) as channel:
            await Load(channel, known).check()
    finally:
        server.kill()
    assert len(known) > 100


@pytest.fixture
async def durable(tmp_path: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A Postgres of this test's own that keeps what it has acknowledged."""
    server = EmbeddedPostgres(tmp_path, durable=True)
    await server.start()
    await migrations.migrate(server.dsn, lambda _: None)
    yield server
    await server.kill()


@pytest.mark.parametrize("end", [EmbeddedPostgres.stop, EmbeddedPostgres.kill], ids=["stopped", "killed"])
async def test_a_database_restart_costs_errors_while_it_lasts_only(
    durable: EmbeddedPostgres, end: Callable[[EmbeddedPostgres], Awaitable[None]]
) -> None:
    async with running_service(make_settings(pool_wait=1.0), durable.dsn) as service:
        load = Load(service.channel)
        task = asyncio.create_task(load.run(CALLERS, "load"))
        await answers(load, 100)
        assert load.errors == []

        went = time.monotonic()
        await end(durable)
        await health_becomes(service.channel, NOT_SERVING)
        await asyncio.sleep(1.0)
        await durable.start()
        back = time.monotonic()
        await health_becomes(service.channel, SERVING)

        await asyncio.sleep(RETURN_SECONDS)
        before = load.answers
        await answers(load, before + 100)
        load.over.set()
        await task

        assert load.errors, "nobody noticed?"
        assert Counter(error.code for error in load.errors).keys() <= PASSING
        assert min(error.began for error in load.errors) > went - load.timeout
        late = [error for error in load.errors if error.began > back + RETURN_SECONDS]
        assert late == []
        await load.check()
    await check_invariants(durable.dsn)


async def test_a_restart_that_no_call_has_to_see(durable: EmbeddedPostgres) -> None:
    """Reads, and transactions that had not come to their commit, wait for the database and are done then."""
    async with running_service(make_settings(pool_wait=10.0), durable.dsn) as service:
        await service.create("one")
        await durable.stop()
        calls = [asyncio.create_task(service.get("one")) for _ in range(20)]
        await asyncio.sleep(0.5)
        await durable.start()
        assert {image.name for image in await asyncio.gather(*calls)} == {"one"}


async def answers(load: Load, number: int) -> None:
    async with asyncio.timeout(60):
        while load.answers < number:  # noqa: ASYNC110 (a poll is as good here)
            await asyncio.sleep(0.02)


async def health_becomes(channel: aio.Channel, status: int) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    async with asyncio.timeout(15):
        for service in ("", "rime.ImageRegistry", "rime.JobReader"):
            request = health_pb2.HealthCheckRequest(service=service)
            while (await stub.Check(request)).status != status:  # noqa: ASYNC110 (a poll is as good here)
                await asyncio.sleep(0.05)
