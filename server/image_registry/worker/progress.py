"""What people read while a build is under way: its stages with their times, and in the end the cause of a failure."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from image_registry.builds.runner import BuildEvent, LogLine, StageBegan, StageDone
from image_registry.errors import RegistryError
from image_registry.models import StoredJob
from image_registry.registry.builds import Builds
from image_registry.registry.job_logs import JobLogs

log = logging.getLogger(__name__)

PAUSE = 0.2  # seconds between two publications


def _storable(line: str) -> str:
    """The line without what the database takes in no text: NUL, and halves of a character (surrogates)."""
    return line.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


class Progress:
    """Follows one build: stages go to the job's progress line, stages and log lines to its log.

    Both are published at most every PAUSE seconds; of progress lines only the newest.
    """

    def __init__(self, builds: Builds, logs: JobLogs, job: StoredJob) -> None:
        self._builds = builds
        self._logs = logs
        self._job = job
        self._done: list[str] = []
        self._stage = ""
        self._unsaid: list[str] = []
        self._news = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._publisher = asyncio.create_task(self._publish())

    def on_event(self, event: BuildEvent) -> None:
        """Take note of what the build says."""
        match event:
            case StageBegan(stage):
                self._stage = stage.value
            case StageDone(stage, seconds):
                self._stage = ""
                self._done.append(f"{stage.value} {seconds:.1f} s")
                self._write(f"{stage.value}: done in {seconds:.2f} s")
            case LogLine(line):
                self._write(line)
        self._news.set()

    def note(self, line: str) -> None:
        """Add a line to the log."""
        self._write(line)

    def failed(self, cause: str) -> str:
        """The last line of a failed build: how far it came, and why it failed."""
        where = f"failed in {self._stage}" if self._stage else "failed"
        self._write(f"{where}: {cause}")
        return " · ".join([*self._done, f"{where}: {cause}"])

    async def close(self) -> None:
        """Publish the rest of the log, and nothing more."""
        async with self._flushing:  # lines of a write that is broken off might be lost, or come twice
            self._publisher.cancel()
        await asyncio.wait([self._publisher])
        try:
            await self._flush()
        except RegistryError as error:
            log.warning("the end of a log is lost: %s", error)
        except Exception:  # a log is no reason to lose a build
            log.exception("the end of a log is lost")

    def _line(self) -> str:
        return " · ".join([*self._done, f"{self._stage} …"] if self._stage else self._done)

    def _write(self, line: str) -> None:
        stamp = datetime.now(UTC).strftime("%H:%M:%S.%f")[:-3]
        self._unsaid.append(f"{stamp} {_storable(line)}\n")

    async def _publish(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._builds.set_progress(self._job, self._line())
                async with self._flushing:
                    await self._flush()
            except RegistryError as error:
                log.debug("progress not shown: %s", error)
            except Exception:
                log.exception("progress not shown")
            await asyncio.sleep(PAUSE)

    async def _flush(self) -> None:
        lines, self._unsaid = self._unsaid, []
        if not lines:
            return
        try:
            await self._logs.append(self._job, "".join(lines))
        except Exception:
            self._unsaid[:0] = lines  # for the next time
            raise
