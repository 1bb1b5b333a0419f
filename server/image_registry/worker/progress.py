"""What people read while a build is under way: its stages with their times, and in the end the cause of a failure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from image_registry.builds.runner import BuildEvent, LogLine, StageDone, StageStarted
from image_registry.errors import RegistryError
from image_registry.models import StoredJob

log = logging.getLogger(__name__)


class Progress:
    """Follows one build. Lines are published one after the other, the newest replaces those that wait."""

    def __init__(self, job: StoredJob, show: Callable[[StoredJob, str], Awaitable[None]]) -> None:
        self._job = job
        self._show = show
        self._done: list[str] = []
        self._stage = ""
        self._news = asyncio.Event()
        self._publisher = asyncio.create_task(self._publish())

    def on_event(self, event: BuildEvent) -> None:
        """Take note of what the build says."""
        match event:
            case StageStarted(stage):
                self._stage = stage.value
                self._news.set()
            case StageDone(stage, seconds):
                self._done.append(f"{stage.value} {seconds:.1f} s")
                log.info("job %s: %s took %.2f s", self._job.uuid, stage.value, seconds)
            case LogLine(line):
                log.info("job %s: %s", self._job.uuid, line)

    def failed(self, cause: str) -> str:
        """The last line of a failed build: how far it came, and why it failed."""
        where = f"failed in {self._stage}" if self._stage else "failed"
        return " · ".join([*self._done, f"{where}: {cause}"])

    async def close(self) -> None:
        """Publish nothing more."""
        self._publisher.cancel()
        await asyncio.wait([self._publisher])

    async def _publish(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._show(self._job, " · ".join([*self._done, f"{self._stage} …"]))
            except RegistryError as error:
                log.debug("progress not shown: %s", error)
