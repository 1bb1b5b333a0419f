"""Following a build to its end on the screen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import click

from image_registry.cli.connection import Connection
from image_registry.cli.exits import ExitCode, Failure
from image_registry.cli.progress import Display, display
from image_registry.client import AsyncImageRegistryClient, CallError, JobStatus, ManagedImage, WaitProgress
from image_registry.client.waiting import Waitable


def watch_build(connection: Connection, what: Waitable, *, name: str, timeout: float | None) -> ManagedImage:
    """Show a build until it is over, and return its image.

    Raises Failure for a build that made no image, after `timeout` seconds, and at Ctrl-C, which leaves the build
    running and says so.
    """

    async def watch() -> ManagedImage:
        async with connection.async_client() as client:
            with display(name) as screen:
                return await follow(client, what, screen, timeout=timeout)

    try:
        with connection.told():
            return asyncio.run(watch())
    except KeyboardInterrupt:
        raise Failure(
            f"interrupted: the build of {name!r} goes on without you",
            code=ExitCode.INTERRUPTED,
            remedy=f"watch it again with: image-registry images wait {name}\n"
            f"or stop it: find its job with `image-registry jobs list --image {name}`, then `jobs cancel` it",
        ) from None


async def follow(
    client: AsyncImageRegistryClient,
    what: Waitable,
    screen: Display,
    *,
    timeout: float | None = None,  # noqa: ASYNC109
) -> ManagedImage:
    """Wait for a build and show it, with the last line of its log. Raises as `wait` does."""
    tail = _Tail(client, screen.log_line)

    def on_progress(progress: WaitProgress) -> None:
        screen.update(progress)
        tail.look_at(progress)

    try:
        return await client.wait(what, timeout=timeout, on_progress=on_progress)
    finally:
        await tail.close()


class _Tail:
    """Reads the log of the job that runs. A log that can't be read is no reason to stop waiting."""

    def __init__(self, client: AsyncImageRegistryClient, on_line: Callable[[str], None]) -> None:
        self._client = client
        self._on_line = on_line
        self._job_id = ""
        self._task: asyncio.Task[None] | None = None

    def look_at(self, progress: WaitProgress) -> None:
        """Follow the job, or the base image's, from when it runs."""
        job = progress.base_job or progress.job
        if job is not None and job.status is JobStatus.RUNNING and job.job_id != self._job_id:
            if self._task is not None:
                self._task.cancel()
            self._job_id = job.job_id
            self._task = asyncio.create_task(self._read(job.job_id))

    async def close(self) -> None:
        """Read no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _read(self, job_id: str) -> None:
        with suppress(CallError):
            async for line in self._client.read_job_logs(job_id, follow=True):
                self._on_line(line)


def print_built(image: ManagedImage) -> None:
    """Say that an image is there, and from where it can be pulled."""
    count = len(image.pip_libraries)
    libraries = "1 library" if count == 1 else f"{count} libraries"
    click.echo(f"{image.name} is {image.status}: Python {image.python_version}, {libraries}, {image.repo_uri}")
