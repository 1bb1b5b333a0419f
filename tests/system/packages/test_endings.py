"""What becomes of a sandbox's processes, mounts, control group and folder when its build is stopped or killed."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest

from image_registry.builds.runner import remove_leftovers
from tests.integration.builds.conftest import until
from tests.integration.builds.test_processes import _PARENT
from tests.system.packages.conftest import PackageBuilder
from tests.system.packages.repositories import AptRepository
from tests.system.packages.test_apt import cgroups

_MARK = "sleep 31415"


@pytest.fixture(scope="module")
def hanging(apt: AptRepository) -> str:
    """A package whose installation begins and doesn't end; it leaves a process in a session of its own."""
    apt.add("hanging", script=f"setsid {_MARK} & {_MARK}")
    return "hanging"


def hangs() -> list[int]:
    """The processes of the package's script."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "cmdline").read_bytes().replace(b"\0", b" ").startswith(_MARK.encode()):
                found.append(int(folder.name))
    return found


def sandbox_parts() -> list[str]:
    """Processes that belong to sandboxes: their first process, the engine, the way out."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if "packages/init.py" in command or "slirp4netns" in command or "/build/storage" in command:
                found.append(command)
    return found


def mounts() -> str:
    """The machine's mounts."""
    return Path("/proc/mounts").read_text()


def children_of(pid: int) -> list[int]:
    """The processes that a single-threaded process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def nothing_is_left(folder: Path) -> None:
    """No process, mount, control group or temporary folder of the builds in a folder, its `work` being theirs."""
    await until(lambda: not hangs() and not sandbox_parts())
    assert list((folder / "work").iterdir()) == []
    assert cgroups() == []
    assert str(folder) not in mounts()


async def test_a_cancelled_build(builder: PackageBuilder, hanging: str) -> None:
    task = asyncio.create_task(builder.build(packages=[hanging]))
    await until(lambda: len(hangs()) == 2, 120)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await nothing_is_left(builder.folder)


async def started(builder: PackageBuilder, hanging: str) -> asyncio.subprocess.Process:
    """A worker of its own that installs the hanging package."""
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PARENT), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    assert parent.stdin is not None
    parent.stdin.write(f"{builder.plan(packages=[hanging]).to_json()}\n".encode())
    await until(lambda: len(hangs()) == 2, 120)
    return parent


async def test_a_killed_worker(builder: PackageBuilder, hanging: str) -> None:
    parent = await started(builder, hanging)
    parent.kill()
    await parent.wait()
    await until(lambda: not list(builder.work.iterdir()))
    await nothing_is_left(builder.folder)


async def test_a_worker_and_its_build_killed_in_the_same_moment(builder: PackageBuilder, hanging: str) -> None:
    parent = await started(builder, hanging)
    children = children_of(parent.pid)
    parent.send_signal(signal.SIGSTOP)  # so that it can't tidy up after its child
    for child in children:
        os.kill(child, signal.SIGKILL)
    parent.kill()
    await parent.wait()
    await until(lambda: not hangs() and not sandbox_parts())
    assert len(list(builder.work.iterdir())) == 1
    assert cgroups()
    assert remove_leftovers(builder.work) == 1
    await nothing_is_left(builder.folder)
