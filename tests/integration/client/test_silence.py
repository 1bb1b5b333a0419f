"""Connections while nothing comes: an end that went away without a word, and ends that have nothing to say.

Whatever the options say, gRPC core lets a second pass between two pings of a client.
"""

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
from grpc import aio

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
PATIENCE = {"grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms"}  # of the server
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
    assert await Builds(database).start(claim.job) is not None
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


async def test_a_connection_without_calls_is_kept(lenient: Service) -> None:
    """As the gateway's are, which pings them."""
    options = [
        ("grpc.keepalive_time_ms", 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    async with aio.insecure_channel(lenient.address, options) as channel:
        await asyncio.wait_for(channel.channel_ready(), 10)
        with pytest.raises(TimeoutError):  # without the option the server ends it in the fourth second
            await asyncio.wait_for(channel.wait_for_state_change(grpc.ChannelConnectivity.READY), 7)


_WATCH_FOR_EVER = """
import sys, time, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
watch = health_pb2_grpc.HealthStub(grpc.insecure_channel(sys.argv[1])).Watch(health_pb2.HealthCheckRequest())
next(watch)
print("watching", flush=True)
time.sleep(600)
"""


async def test_a_caller_that_says_nothing_any_more_is_dropped(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scaled = tuple((name, 1000 if name in PATIENCE else value) for name, value in app.HARDENING)
    monkeypatch.setattr(app, "HARDENING", scaled)
    async with running_service(make_settings(), dsn) as service:
        caller = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _WATCH_FOR_EVER, service.address, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert caller.stdout is not None
            assert await asyncio.wait_for(caller.stdout.readline(), 20) == b"watching\n"
            port = int(service.address.rpartition(":")[2])
            assert connections_of(port) == 1
            caller.send_signal(signal.SIGSTOP)
            async with asyncio.timeout(10):
                while connections_of(port):  # noqa: ASYNC110 (the kernel tells nobody)
                    await asyncio.sleep(0.1)
        finally:
            caller.kill()
            await caller.wait()


def connections_of(port: int) -> int:
    """Established connections of the server on that port (proc_net_tcp(5))."""
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path("/proc/net", table).read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


def test_no_caller_of_ours_pings_more_often_than_the_server_allows() -> None:
    allowed = dict(app.HARDENING)[LEAST]
    gateway = re.findall(r"connection_keepalive: \{interval: (\d+)s", render(production_options()))
    assert len(gateway) == 2  # towards its callers and towards the servers
    assert min(channel.PING_AFTER, *(int(seconds) * 1000 for seconds in gateway)) > allowed * 1.2
