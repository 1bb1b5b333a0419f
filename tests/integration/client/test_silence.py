"""Followed logs while nothing comes: a server that went away without a word, and one that has nothing to say.

Whatever the options say, gRPC core lets a second pass between two pings of a client.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest

from image_registry import app
from image_registry.client import AsyncImageRegistryClient, ImageRegistryClient, RetryPolicy, UnavailableError, channel
from image_registry.gateway.config import production_options, render
from image_registry.models import BuildReport, Outcome, StoredJob, TerminationReason
from image_registry.registry.builds import Builds
from image_registry.registry.job_logs import JobLogs
from image_registry.storage.database import Database
from tests.fixtures.server_process import ServerProcess
from tests.fixtures.service import Service, make_settings, running_service

DONE = BuildReport(Outcome.SUCCEEDED, TerminationReason.COMPLETED, "built")
LEAST = "grpc.http2.min_ping_interval_without_data_ms"
ONCE = RetryPolicy(attempts=1)
OnLine = Callable[[str], object]
Follow = Callable[[str, str, OnLine], Coroutine[None, None, None]]


async def follow_async(address: str, job_id: str, on_line: OnLine) -> None:
    async with AsyncImageRegistryClient(address, retry=ONCE) as client:
        async for line in client.read_job_logs(job_id, follow=True):
            on_line(line)


async def follow_sync(address: str, job_id: str, on_line: OnLine) -> None:
    def work() -> None:
        with ImageRegistryClient(address, retry=ONCE) as client:
            for line in client.read_job_logs(job_id, follow=True):
                on_line(line)

    await asyncio.to_thread(work)


BOTH = pytest.mark.parametrize("follow", [follow_async, follow_sync], ids=["asyncio", "sync"])


@pytest.fixture
def quick_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients ping as often as core lets them."""
    monkeypatch.setattr(channel, "PING_AFTER", 1000)
    monkeypatch.setattr(channel, "PING_PATIENCE", 1000)


async def running_job(address: str, database: Database) -> StoredJob:
    async with AsyncImageRegistryClient(address) as client:
        await client.create_image("vision", ["numpy"])
    claim = await Builds(database).claim(agent_id=uuid4(), lease=60)
    assert claim is not None
    assert await Builds(database).start(claim.job)
    await JobLogs(database, 3600).append(claim.job, "one\n")
    return claim.job


@pytest.fixture
def server(dsn: str) -> Iterator[ServerProcess]:
    """A server in one process of its own."""
    process = ServerProcess(dsn, BASE_IMAGES="3.12=oci:/bases/3.12:latest", PROCESSES="1")
    try:
        process.start()
        yield process
    finally:
        process.kill()


@BOTH
@pytest.mark.usefixtures("quick_pings")
async def test_a_server_that_says_nothing_any_more_is_unavailable(
    server: ServerProcess, database: Database, follow: Follow
) -> None:
    job = await running_job(server.address, database)
    lines: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    following = asyncio.create_task(
        follow(server.address, str(job.uuid), lambda line: loop.call_soon_threadsafe(lines.put_nowait, line))
    )
    assert await asyncio.wait_for(lines.get(), 10) == "one"
    server.pause()
    done, _ = await asyncio.wait([following], timeout=8)
    server.kill()  # ends a follower that still waits
    with pytest.raises(UnavailableError):
        await following
    assert done, "the follower noticed nothing"


@pytest.fixture
async def lenient(dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """A service whose limit of pings, if it sets one, is as much smaller as the clients' are quicker."""
    scaled = tuple((name, 500 if name == LEAST else value) for name, value in app.HARDENING)
    monkeypatch.setattr(app, "HARDENING", scaled)
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(running_service(make_settings(), dsn))


@BOTH
@pytest.mark.usefixtures("quick_pings")
async def test_a_silent_log_is_followed_for_as_long_as_its_job_runs(
    lenient: Service, database: Database, follow: Follow
) -> None:
    job = await running_job(lenient.address, database)
    lines: list[str] = []
    following = asyncio.create_task(follow(lenient.address, str(job.uuid), lines.append))
    await asyncio.wait([following], timeout=7)  # without the option the connection ends in the fifth second
    assert not following.done(), following.exception()
    await JobLogs(database, 3600).append(job, "two\n")
    await Builds(database).finish(job, DONE)
    await following
    assert lines == ["one", "two"]


def test_no_caller_of_ours_pings_more_often_than_the_server_allows() -> None:
    allowed = dict(app.HARDENING)[LEAST]
    gateway = re.findall(r"connection_keepalive: \{interval: (\d+)s", render(production_options()))
    assert len(gateway) == 2  # towards its callers and towards the servers
    assert min(channel.PING_AFTER, *(int(seconds) * 1000 for seconds in gateway)) > allowed * 1.2
