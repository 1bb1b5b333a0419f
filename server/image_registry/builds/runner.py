"""Runs builds, each in a process of its own that can be limited, cancelled and survived."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from image_registry.builds.faults import as_failure
from image_registry.builds.files import locked
from image_registry.builds.lease import Lease
from image_registry.builds.packages.control_group import remove_abandoned_groups, remove_group
from image_registry.builds.packages.identities import remove_tree
from image_registry.builds.plan import BuildFailed, BuildPlan, BuildResult, FailureReason, Stage
from image_registry.builds.processes import group_works, machine_environment, oom_kills

Returned = TypeVar("Returned")

_LONGEST_LINE = 64 * 1024 * 1024
_LONGEST_ERRORS = 64 * 1024
_FOLDER = "build-"
_YOUNG_SECONDS = 60.0
_POLL_SECONDS = 0.005
_BURIAL_SECONDS = 5.0
_LAST_WORDS_SECONDS = 5.0


@dataclass(frozen=True)
class StageBegan:
    """A stage begins."""

    stage: Stage


@dataclass(frozen=True)
class StageDone:
    """A stage is done."""

    stage: Stage
    seconds: float


@dataclass(frozen=True)
class LogLine:
    """A line for the build's log, without secrets."""

    line: str


BuildEvent = StageBegan | StageDone | LogLine


async def run_build(plan: BuildPlan, on_event: Callable[[BuildEvent], None], lease: Lease | None = None) -> BuildResult:
    """Run one build to its end and return what came of it.

    Call it from the main thread: the build dies with the thread that started it. `on_event` is called in order, in
    the event loop. When the task is cancelled or the plan's time is over, the build's processes are killed; by the
    time this returns or raises, whatever the reason, they are gone and so is the build's folder. The build ends itself
    when its `lease` is over, should nobody here be able to.

    A build that has pushed has succeeded: its tags name the new image, so whatever stops it then, the result counts.

    Raises BuildFailed.
    """
    try:
        with tempfile.TemporaryFile() as errors:
            run = _Run(plan, on_event, errors, lease)
            return await to_the_end(run.to_its_end(), run.stop)
    except OSError as error:
        raise as_failure(error, plan.limits) from error


async def to_the_end(work: Coroutine[Any, Any, Returned], stop: Callable[[], None] = lambda: None) -> Returned:
    """Await something that must not be left half-done, however often this task is cancelled meanwhile.

    `stop` is called for every cancellation. If the work returns all the same, that counts and the cancellation is
    forgotten; if it raises, the cancellation goes on.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
            stop()
    if cancelled is not None:
        if task.cancelled() or task.exception() is not None:
            raise cancelled
        if (own := asyncio.current_task()) is not None:
            own.uncancel()
    return task.result()


def leftovers(work_dir: Path) -> list[Path]:
    """Return the folders of builds whose processes are gone without a trace, as after a power cut."""
    return [folder for folder in sorted(work_dir.glob(f"{_FOLDER}*")) if _is_nobodys(folder, lambda _: None)]


def remove_leftovers(work_dir: Path) -> int:
    """Remove them; return how many. Safe while other builds run.

    Their control groups go with them, and with those whatever still runs in them.
    """
    removed = sum(_is_nobodys(folder, remove_leftover) for folder in work_dir.glob(f"{_FOLDER}*"))
    remove_abandoned_groups(work_dir)
    return removed


def remove_leftover(folder: Path) -> None:
    """Remove one."""
    remove_group(folder)
    remove_tree(folder)


def _is_nobodys(folder: Path, then: Callable[[Path], None]) -> bool:
    """Whether no build works in a folder; if so, do `then` to it while none can begin to."""
    with contextlib.suppress(OSError):
        lock = folder / ".lock"
        if not lock.exists() and time.time() - folder.stat().st_mtime < _YOUNG_SECONDS:
            return False  # just made, and about to be locked
        with locked(lock, wait=False) as held:
            if held is not None:
                then(folder)
                return True
    return False


def _new_folder(work_dir: Path) -> Path:
    work_dir.mkdir(parents=True, exist_ok=True)
    folder = work_dir / f"{_FOLDER}{secrets.token_hex(8)}"
    folder.mkdir(mode=0o700)
    return folder


@contextlib.asynccontextmanager
async def _own_folder(work_dir: Path) -> AsyncIterator[tuple[Path, int]]:
    """Make a folder for one build, and hold a lock in it that tells `remove_leftovers` that somebody cares for it.

    It is removed in a thread: a build may leave a hundred thousand files, and its control group takes its time.
    """
    folder = _new_folder(work_dir)
    try:
        with locked(folder / ".lock") as lock:
            yield folder, lock or 0
    finally:
        await asyncio.to_thread(remove_leftover, folder)


async def _first_of(*futures: asyncio.Future[Any], seconds: float) -> None:
    await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)


class _Run:
    """A running build as seen from outside."""

    def __init__(
        self, plan: BuildPlan, on_event: Callable[[BuildEvent], None], errors: IO[bytes], lease: Lease | None
    ) -> None:
        self._plan = plan
        self._on_event = on_event
        self._errors = errors
        self._lease = lease
        self._process: asyncio.subprocess.Process | None = None
        self._oom_kills = oom_kills()
        self._stopped = asyncio.Event()
        self._pushed = False
        self._result: asyncio.Future[BuildResult] = asyncio.get_running_loop().create_future()
        self._stage: Stage | None = None

    def stop(self) -> None:
        """Have the build end as soon as it may."""
        self._stopped.set()

    async def to_its_end(self) -> BuildResult:
        """Run the build in a folder of its own, of which nothing is left. Not to be cancelled: `stop` it instead."""
        async with _own_folder(self._plan.work_dir) as (folder, lock):
            following = asyncio.create_task(self._follow(await self._start(folder, lock)))
            try:
                if await self._ends_by_itself(following):
                    return following.result()
            finally:
                await self._bury()
                await asyncio.wait([following], timeout=_LAST_WORDS_SECONDS)  # what it said before counts
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
        if self._result.done():
            return self._result.result()
        if self._stopped.is_set():
            raise asyncio.CancelledError
        message = f"The build took longer than its {self._plan.limits.seconds:g} s."
        raise BuildFailed(FailureReason.INTERNAL, message, self._stage)

    async def _ends_by_itself(self, following: asyncio.Task[BuildResult]) -> bool:
        """Wait for the build's end; False: it is to be ended, since it was stopped or its time is over."""
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            await _first_of(following, stopped, seconds=self._plan.limits.seconds)
        finally:
            stopped.cancel()
        if self._pushed and not following.done():  # the result comes next; tidying may take long
            await _first_of(following, self._result, seconds=_LAST_WORDS_SECONDS)
        return following.done()

    async def _start(self, folder: Path, lock: int) -> asyncio.subprocess.Process:
        """Start the build's process; it shares the folder's lock and sees the lease."""
        watched = [self._lease.descriptor] if self._lease else []
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "image_registry.builds.child", str(os.getpid()), str(folder)),
            *map(str, watched),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._errors,
            env=machine_environment(),
            limit=_LONGEST_LINE,
            pass_fds=(lock, *watched),
            start_new_session=True,
        )
        return self._process

    async def _follow(self, process: asyncio.subprocess.Process) -> BuildResult:
        """Hand the plan over, pass events on, and return the result. Raises BuildFailed."""
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process was started without pipes")
        with contextlib.suppress(ConnectionError):  # it died; its end says more
            process.stdin.write(f"{self._plan.to_json()}\n".encode())
            await process.stdin.drain()
        outcome: BuildResult | BuildFailed | None = None
        async for line in process.stdout:
            outcome = self._read(json.loads(line)) or outcome
        outcome = self._lost(await process.wait()) if outcome is None else outcome
        if isinstance(outcome, BuildFailed):
            raise outcome
        return outcome

    def _read(self, event: dict[str, Any]) -> BuildResult | BuildFailed | None:
        stage = Stage(event["stage"]) if event.get("stage") else None
        match event["event"], event.get("state"):
            case "stage", "start" if stage:
                self._stage = stage
                self._on_event(StageBegan(stage))
            case "stage", "done" if stage:
                self._pushed = self._pushed or stage is Stage.PUSH
                self._on_event(StageDone(stage, event["seconds"]))
            case "log", _:
                self._on_event(LogLine(event["line"]))
            case "result", _:
                result = BuildResult.from_json(json.dumps(event["result"]))
                self._result.set_result(result)
                return result
            case "failed", _:
                return BuildFailed(FailureReason(event["reason"]), event["message"], stage)
        return None

    def _lost(self, code: int) -> BuildFailed:
        """Say why there is no result."""
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - _LONGEST_ERRORS))
        for line in self._errors.read().decode(errors="replace").splitlines():
            self._on_event(LogLine(line))
        if code == -signal.SIGKILL and oom_kills() > self._oom_kills:
            return BuildFailed(FailureReason.OUT_OF_MEMORY, "The build was killed for lack of memory.", self._stage)
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        reason = FailureReason.RETRYABLE if code < 0 else FailureReason.INTERNAL
        return BuildFailed(reason, f"The build's process {how} without a result.", self._stage)

    async def _bury(self) -> None:
        """Kill whatever is left of the build and wait until it is gone."""
        if self._process is None:
            return
        group = self._process.pid
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        await self._process.wait()
        give_up = time.monotonic() + _BURIAL_SECONDS
        while group_works(group) and time.monotonic() < give_up:  # noqa: ASYNC110 (other processes end)
            await asyncio.sleep(_POLL_SECONDS)
