"""`serve --processes`: several processes on one port, replaced when one dies, stopped together."""

import asyncio
import errno
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from grpc import aio
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry.image_registry_pb2_grpc import ImageRegistryStub

from image_registry.cli import replicas
from image_registry.cli.replicas import run_replicas
from image_registry.host.addresses import free_port


@asynccontextmanager
async def served(dsn: str, port: int, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command with two processes, from its second `serving` on."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "image_registry", "serve", "--processes", "2"),
        *("--grpc-address", f"127.0.0.1:{port}", "--data-dir", str(folder)),
        env={**os.environ, "IMAGE_REGISTRY_DATABASE_URL": dsn},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        await lines_with(process, "serving gRPC", 2)
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0


async def lines_with(process: asyncio.subprocess.Process, text: str, count: int) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(30):
        while count:
            line = (await process.stdout.readline()).decode()
            assert line, "the command ended"
            count -= text in line


def listeners(port: int) -> set[int]:
    """The inodes of the sockets that listen on the port."""
    tables = [Path("/proc/net/tcp").read_text(), Path("/proc/net/tcp6").read_text()]
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    return {int(row[9]) for row in rows if int(row[1].split(":")[1], 16) == port and row[3] == "0A"}


def owners(inodes: set[int]) -> set[int]:
    """The processes that hold these sockets."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    found = set()
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(entry.readlink()) in wanted:
                found.add(int(entry.parts[2]))
        except OSError:
            continue
    return found


async def answers(port: int) -> bool:
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await ImageRegistryStub(channel).ListImages(pb.ListImagesRequest(), wait_for_ready=True, timeout=10)
    return True


async def test_two_processes_share_the_port_and_a_killed_one_is_replaced(dsn: str, tmp_path: Path) -> None:
    port = free_port()
    async with served(dsn, port, tmp_path) as process:
        first = owners(listeners(port))
        assert len(first) == 2
        assert all([await answers(port) for _ in range(5)])
        os.kill(min(first), signal.SIGKILL)
        await lines_with(process, "serving gRPC", 1)
        second = owners(listeners(port))
        assert len(second) == 2
        assert len(first & second) == 1
        assert await answers(port)
    assert not listeners(port)


async def test_a_taken_port_is_refused_before_anything_starts(dsn: str, tmp_path: Path) -> None:
    port = free_port()
    async with served(dsn, port, tmp_path):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "image_registry", "serve", "--processes", "2"),
            *("--grpc-address", f"127.0.0.1:{port}", "--data-dir", str(tmp_path)),
            env={**os.environ, "IMAGE_REGISTRY_DATABASE_URL": dsn},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 1
        assert b"is taken" in output
        assert len(listeners(port)) == 2


SERVES = """
import os, sys, time
from pathlib import Path
os.write(int(sys.argv[sys.argv.index("--replica") + 1]), b"1")
Path(sys.argv[1], str(os.getpid())).touch()
time.sleep(600)
"""


def named(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def started(folder: Path, count: int) -> None:
    async with asyncio.timeout(20):
        while len(named(folder)) < count:  # noqa: ASYNC110 (other processes decide)
            await asyncio.sleep(0.02)


@asynccontextmanager
async def killed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *faults: Exception
) -> AsyncIterator[tuple[asyncio.Event, asyncio.Task[None]]]:
    """A replica that was killed, and is started again with these faults."""
    monkeypatch.setattr(replicas, "RESTART_SECONDS", 0.05)
    stop = asyncio.Event()
    argv = [sys.executable, "-c", SERVES, str(folder)]
    running = asyncio.create_task(run_replicas(argv, 1, stop=stop, stop_seconds=1))
    await started(folder, 1)
    lacking, pipe = list(faults), os.pipe

    def scarce() -> tuple[int, int]:
        if lacking:
            raise lacking.pop()
        return pipe()

    monkeypatch.setattr(os, "pipe", scarce)
    [first] = named(folder)
    os.kill(int(first), signal.SIGKILL)
    yield stop, running
    assert not lacking


async def test_a_lack_of_files_or_processes_is_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lack = OSError(errno.EMFILE, "Too many open files")
    async with killed(tmp_path, monkeypatch, lack, lack) as (stop, running):
        await started(tmp_path, 2)
        stop.set()
        await asyncio.wait_for(running, 20)


async def test_a_fault_of_what_keeps_replicas_running_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with killed(tmp_path, monkeypatch, ZeroDivisionError()) as (_, running):
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(running, 20)
