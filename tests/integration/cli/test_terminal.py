"""What a terminal shows: the same commands on a pseudo-terminal."""

import asyncio
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fcntl import ioctl
from struct import pack
from termios import TIOCSWINSZ
from uuid import uuid4

from image_registry.models import BuildReport, Outcome, PipLibrary, StoredJob, TerminationReason
from image_registry.registry.builds import Builds
from image_registry.registry.job_logs import JobLogs
from image_registry.storage.database import Database
from tests.fixtures.service import Service

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Terminal:
    """A command on a terminal of 100 columns; `screen` is everything that it printed, without control sequences."""

    def __init__(self, process: asyncio.subprocess.Process, fd: int) -> None:
        self.process = process
        self._fd = fd
        self._raw = b""
        self._news = asyncio.Event()
        asyncio.get_running_loop().add_reader(fd, self._read)

    @property
    def raw(self) -> str:
        return self._raw.decode(errors="replace")

    @property
    def screen(self) -> str:
        return _ESCAPES.sub("", self.raw)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # the other side is closed
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._fd)
        self._raw += data
        self._news.set()

    async def shows(self, pattern: str) -> None:
        """Wait until the pattern has been printed."""
        async with asyncio.timeout(30):
            while not re.search(pattern, self.screen):
                self._news.clear()
                await self._news.wait()

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    async def ended(self) -> int:
        code = await asyncio.wait_for(self.process.wait(), 30)
        await asyncio.sleep(0.05)
        return code


@asynccontextmanager
async def terminal(service: Service, *arguments: str) -> AsyncIterator[Terminal]:
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, pack("HHHH", 30, 100, 0, 0))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "image_registry", *arguments),
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", ""), "HOME": "/nonexistent",
             "TERM": "xterm-256color", "LANG": "C.UTF-8", "IMAGE_REGISTRY_SERVER": service.address},
    )  # fmt: skip
    os.close(theirs)
    shown = Terminal(process, ours)
    try:
        yield shown
    finally:
        asyncio.get_running_loop().remove_reader(ours)
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)


async def claim(database: Database, name: str) -> StoredJob:
    found = await Builds(database).claim(agent_id=uuid4(), lease=30)
    assert found is not None
    assert found.job.image_name == name
    assert await Builds(database).start(found.job) is not None
    return found.job


async def test_a_build_is_watched_live(service: Service, database: Database) -> None:
    builds, logs = Builds(database), JobLogs(database, 3600)
    async with terminal(service, "images", "create", "vision", "--pip", "numpy", "--wait") as shown:
        await shown.shows(r"vision  waits for its base image system-python-3-12 \(queued\)  0:0\d")
        base = await claim(database, "system-python-3-12")
        await shown.shows(r"system-python-3-12 \(being built\)")
        done = BuildReport(Outcome.SUCCEEDED, TerminationReason.COMPLETED, "done")
        await builds.finish(base, done)
        job = await claim(database, "vision")
        await builds.set_progress(job, "resolve 0.6 s · fetch …")
        await logs.append(job, "12:00:00.123 downloading numpy-2.0.whl\n12:00:00.200 resolve: done in 0.6 s\n")
        await shown.shows(r"vision  building  0:\d\d")
        await shown.shows(r" ✓ resolve 0\.6 s")
        await shown.shows(r" \S fetch   \d+\.\d s")
        await shown.shows(r"   downloading numpy-2\.0\.whl")
        libraries = (PipLibrary("numpy", "2.0"),)
        last = "resolve 0.6 s · fetch 1.0 s · 1 libraries"
        await builds.finish(job, BuildReport(Outcome.SUCCEEDED, TerminationReason.COMPLETED, last, libraries))
        assert await shown.ended() == 0
    final = shown.screen[shown.screen.rindex("vision  succeeded") :]
    assert re.search(r"✓ resolve 0\.6 s\s+✓ fetch   1\.0 s\s+1 libraries", final)
    assert "vision is READY: Python 3.12, 1 library, oci:/images/managed/vision" in final
    assert "resolve: done in" not in shown.screen
    assert "downloading" not in final
    assert shown.raw.count("\x1b[?25l") == shown.raw.count("\x1b[?25h") == 1  # the cursor is back


async def test_ctrl_c_gives_the_terminal_back(service: Service) -> None:
    async with terminal(service, "images", "create", "vision", "--pip", "numpy", "--wait") as shown:
        await shown.shows("waits for its base image")
        shown.process.send_signal(signal.SIGINT)
        assert await shown.ended() == 130
    assert "not watched any more" in shown.screen
    assert "the build of 'vision' goes on without you" in shown.screen
    assert shown.raw.count("\x1b[?25h") == 1


async def test_a_failure_is_told_once(service: Service) -> None:
    async with terminal(service, "images", "create", "vision", "--pip", "numpy", "--wait") as shown:
        await shown.shows("waits for its base image")
        await service.report("vision", ok=False)
        assert await shown.ended() == 5
    assert shown.screen.count("reported FAILED by its builder") == 1


async def test_delete_asks(service: Service) -> None:
    await service.create("vision")
    async with terminal(service, "images", "delete", "vision") as shown:
        await shown.shows(r"Delete vision and all that is in oci:/images/managed/vision\? \[y/N\]")
        shown.type("n\n")
        assert await shown.ended() == 1
    assert "nothing is deleted" in shown.screen
    await service.get("vision")
    async with terminal(service, "images", "delete", "vision") as shown:
        await shown.shows(r"\[y/N\]")
        shown.type("y\n")
        assert await shown.ended() == 0
    assert "vision is deleted" in shown.screen


async def test_statuses_are_coloured(service: Service) -> None:
    await service.create("vision")
    await service.report("vision", "numpy==1.0")
    async with terminal(service, "images", "list") as shown:
        assert await shown.ended() == 0
    assert "\x1b[32mREADY" in shown.raw
