"""What becomes of a build's processes and folders, however it ends."""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from image_registry.builds.oci.layout import Layout
from image_registry.builds.plan import BuildFailed, BuildResult, FailureReason, Limits, Stage
from image_registry.builds.runner import BuildEvent, StageDone, remove_leftovers, run_build
from tests.fixtures.package_index import PackageIndex, make_wheel
from tests.integration.builds.conftest import Builder, until

_PARENT = """\
import asyncio, sys
from image_registry.builds.plan import BuildPlan
from image_registry.builds.runner import run_build
asyncio.run(run_build(BuildPlan.from_json(sys.stdin.readline()), print))
"""
_PROJECT = "/simple/lib/"
_DOWNLOAD = "/files/lib-1.0-py3-none-any.whl"


def processes_of(builder: Builder) -> list[int]:
    """The processes that have the builder's folder in their command lines."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(builder.folder) in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


@pytest.fixture
def hanging(package_index: PackageIndex) -> str:
    """Builds of `lib` hang in the download of this path."""
    package_index.add(make_wheel("lib"))
    package_index.stalled.add(_DOWNLOAD)
    return _DOWNLOAD


@pytest.mark.parametrize(("path", "processes"), [(_PROJECT, 2), (_DOWNLOAD, 1)], ids=["in resolve", "in fetch"])
async def test_cancelled_build_leaves_nothing(
    builder: Builder, package_index: PackageIndex, path: str, processes: int
) -> None:
    package_index.add(make_wheel("lib"))
    package_index.stalled.add(path)
    task = asyncio.create_task(builder.build("lib"))
    await until(lambda: path in package_index.requests)
    assert len(processes_of(builder)) == processes
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < 20
    assert processes_of(builder) == []
    assert list(builder.work.iterdir()) == []


@pytest.mark.parametrize("path", [_PROJECT, _DOWNLOAD], ids=["in resolve", "in fetch"])
async def test_nothing_is_left_when_the_parent_is_killed(
    builder: Builder, package_index: PackageIndex, path: str
) -> None:
    package_index.add(make_wheel("lib"))
    package_index.stalled.add(path)
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PARENT), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    assert parent.stdin is not None
    parent.stdin.write(f"{builder.plan('lib').to_json()}\n".encode())
    await until(lambda: path in package_index.requests)
    assert processes_of(builder) != []
    assert list(builder.work.iterdir()) != []
    parent.kill()
    await parent.wait()
    await until(lambda: not processes_of(builder), 5)
    await until(lambda: not list(builder.work.iterdir()), 5)


async def test_build_that_is_killed_is_tried_again(builder: Builder, package_index: PackageIndex, hanging: str) -> None:
    task = asyncio.create_task(builder.build("lib"))
    await until(lambda: hanging in package_index.requests)
    for process in processes_of(builder):
        os.kill(process, signal.SIGKILL)
    with pytest.raises(BuildFailed, match="killed by signal 9") as caught:
        await task
    assert caught.value.reason is FailureReason.RETRYABLE
    assert caught.value.stage == "fetch"
    assert list(builder.work.iterdir()) == []


async def test_time_limit(builder: Builder, hanging: str) -> None:
    failure = await builder.refused("lib", limits=Limits(seconds=1.5))
    assert failure.reason is FailureReason.INTERNAL
    assert "longer than its 1.5 s" in failure.message
    assert processes_of(builder) == []


async def test_memory_limit(builder: Builder, package_index: PackageIndex) -> None:
    package_index.add(make_wheel("lib"))
    failure = await builder.refused("lib", limits=Limits(memory_bytes=12_000_000))
    assert failure.reason is FailureReason.OUT_OF_MEMORY
    assert "12 MB" in failure.message


async def test_identical_work_in_flight_is_shared(builder: Builder, package_index: PackageIndex) -> None:
    package_index.add(make_wheel("lib", files={"data.bin": bytes(2_000_000)}), make_wheel("dep"))
    results = await asyncio.gather(*(builder.build("lib", "dep", name=f"image{number}") for number in range(4)))
    assert len({result.digest for result in results}) == 1
    assert sorted(package_index.downloads()) == ["dep-1.0-py3-none-any.whl", "lib-1.0-py3-none-any.whl"]


async def test_rebuilds_of_one_image_at_once(builder: Builder, package_index: PackageIndex) -> None:
    package_index.add(make_wheel("lib"))
    results = await asyncio.gather(*(builder.build("lib") for _ in range(3)))
    assert len({result.digest for result in results}) == 1


def test_child_speaks_json_lines(builder: Builder, package_index: PackageIndex) -> None:
    package_index.add(make_wheel("lib"))
    done = subprocess.run(
        [sys.executable, "-m", "image_registry.builds.child"],
        input=f"{builder.plan('lib').to_json()}\n",
        capture_output=True,
        text=True,
        check=True,
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0] == {"event": "stage", "stage": "resolve", "state": "start"}
    assert [event["stage"] for event in events if event.get("state") == "done"] == ["resolve", "fetch", "layer", "push"]
    assert events[-1]["event"] == "result"
    assert BuildResult.from_json(json.dumps(events[-1]["result"])).digest.startswith("sha256:")
    assert list(builder.work.iterdir()) == []


def test_child_reports_failure(builder: Builder) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "image_registry.builds.child"],
        input=f"{builder.plan('-e ./x').to_json()}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["event"], last["reason"], last["stage"]) == ("failed", "USER_ERROR", "resolve")


async def test_leftovers_are_removed_and_running_builds_are_not(
    builder: Builder, package_index: PackageIndex, hanging: str
) -> None:
    task = asyncio.create_task(builder.build("lib"))
    await until(lambda: hanging in package_index.requests)
    (running,) = builder.work.iterdir()
    old = builder.work / "build-0123456789abcdef"
    old.mkdir()
    (old / ".lock").touch()
    (old / "big").write_bytes(b"x")
    assert remove_leftovers(builder.work) == 1
    assert list(builder.work.iterdir()) == [running]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancelling_twice_still_cleans_up(builder: Builder, package_index: PackageIndex, hanging: str) -> None:
    task = asyncio.create_task(run_build(builder.plan("lib"), lambda _: None))
    await until(lambda: hanging in package_index.requests)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert processes_of(builder) == []
    assert list(builder.work.iterdir()) == []


async def test_folder_is_removed_beside_the_loop_and_to_the_end(
    builder: Builder, package_index: PackageIndex, hanging: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large folder takes its time, in which the worker has to renew its leases."""
    begun, go_on = threading.Event(), threading.Event()
    waits: list[bool] = []
    remove = shutil.rmtree

    def slow(folder: Path, **options: Any) -> None:
        begun.set()
        waits.append(go_on.wait(10))
        remove(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", slow)
    task = asyncio.create_task(run_build(builder.plan("lib"), lambda _: None))
    await until(lambda: hanging in package_index.requests)
    task.cancel()
    await until(begun.is_set)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert waits == [True], "the event loop could go on meanwhile"
    assert list(builder.work.iterdir()) == []


async def test_build_that_is_cancelled_behind_its_push_has_succeeded(
    builder: Builder, package_index: PackageIndex
) -> None:
    package_index.add(make_wheel("lib"))

    def on_event(event: BuildEvent) -> None:
        if isinstance(event, StageDone) and event.stage is Stage.PUSH:
            task.cancel()

    task = asyncio.create_task(run_build(builder.plan("lib"), on_event))
    assert (await task).digest == Layout(builder.root / "image").tags()["latest"].digest
    assert task.cancelling() == 0
    assert processes_of(builder) == []
    assert list(builder.work.iterdir()) == []


@pytest.fixture
def hanging_tidying(builder: Builder) -> Iterator[None]:
    """A resolver that goes on for ever, which the emptying of the index's cache waits for."""
    folder = builder.cache / "index"
    folder.mkdir()
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def tidies(builder: Builder) -> bool:
    return len(processes_of(builder)) > 1


@pytest.mark.usefixtures("hanging_tidying")
async def test_build_that_is_cancelled_while_it_tidies_has_succeeded(
    builder: Builder, package_index: PackageIndex
) -> None:
    package_index.add(make_wheel("lib"))
    pushed = asyncio.Event()

    def on_event(event: BuildEvent) -> None:
        if isinstance(event, StageDone) and event.stage is Stage.PUSH:
            pushed.set()

    task = asyncio.create_task(run_build(builder.plan("lib", cache_limit_bytes=20), on_event))
    await asyncio.wait_for(pushed.wait(), 60)
    await until(lambda: tidies(builder))
    task.cancel()
    assert (await task).digest == Layout(builder.root / "image").tags()["latest"].digest
    assert processes_of(builder) == []
    assert list(builder.work.iterdir()) == []


@pytest.mark.usefixtures("hanging_tidying")
async def test_build_whose_time_is_over_while_it_tidies_has_succeeded(
    builder: Builder, package_index: PackageIndex
) -> None:
    package_index.add(make_wheel("lib"))
    result = await builder.build("lib", cache_limit_bytes=20, limits=Limits(seconds=10))
    assert result.digest == Layout(builder.root / "image").tags()["latest"].digest
    assert processes_of(builder) == []


async def test_listener_that_fails_ends_the_build(builder: Builder, package_index: PackageIndex) -> None:
    package_index.add(make_wheel("lib"))

    def listener(_: object) -> None:
        raise RuntimeError("the listener's own fault")

    with pytest.raises(RuntimeError, match="own fault"):
        await run_build(builder.plan("lib"), listener)
    assert processes_of(builder) == []
    assert list(builder.work.iterdir()) == []


async def test_large_wheels_need_little_memory(builder: Builder, package_index: PackageIndex) -> None:
    stored = zipfile.ZipInfo("lib/stored.bin", (2024, 1, 1, 0, 0, 0))
    package_index.add(
        make_wheel("lib", members=[(stored, os.urandom(200_000_000))]),
        make_wheel("zeros", files={"zeros/packed.bin": bytes(300_000_000)}),
    )
    result = await builder.build("lib", "zeros", limits=Limits(memory_bytes=120_000_000))
    assert {library.size > 200_000_000 for library in result.lock.libraries} == {True, False}
