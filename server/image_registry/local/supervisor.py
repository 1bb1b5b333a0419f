"""Keeps the processes of a local installation running, and stops them together."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Protocol

from image_registry.host import StartError
from image_registry.host.processes import Command, TetheredProcess, describe_exit, last_lines

_POLL_SECONDS = 0.03


class Child(Protocol):
    """A process that can be started again after its end."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def log(self) -> Path:
        """Where it writes what happens."""

    async def start(self) -> None:
        """Start it and wait until it is ready; leave nothing running when that fails or is cancelled."""

    async def wait(self) -> int:
        """Wait for its end; see `TetheredProcess.returncode`."""

    async def stop(self) -> None:
        """Ask it to end, in its own time limit."""

    async def kill(self) -> None:
        """End it at once."""


@dataclass(frozen=True)
class ChildSpec:
    """A command to keep running. Secrets belong in `env`, which is not shown to other users; `argv` is.

    `ready` tells whether the started process can be used; it is asked again and again for `start_seconds`.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(repr=False)
    log: Path
    ready: Callable[[], Awaitable[bool]]
    start_seconds: float = 60.0
    stop_seconds: float = 3.0


class CommandChild:
    """The process of a ChildSpec."""

    def __init__(self, spec: ChildSpec) -> None:
        self._spec = spec
        self._process: TetheredProcess | None = None
        self.name = spec.name
        self.log = spec.log

    async def start(self) -> None:
        """Start the command and wait until it is ready. Raises StartError with what it said last."""
        spec = self._spec
        command = Command(argv=spec.argv, env=spec.env, log=spec.log, stop_seconds=spec.stop_seconds)
        self._process = await TetheredProcess.start(command)
        try:
            async with asyncio.timeout(spec.start_seconds):
                await self._wait_until_ready(self._process)
        except TimeoutError:
            await self.kill()
            raise StartError(f"{self.name} was not ready after {spec.start_seconds:.0f} s; see {self.log}") from None
        except asyncio.CancelledError:
            await self.kill()
            raise

    async def wait(self) -> int:
        """Wait for the end of the process."""
        if self._process is None:
            raise StartError(f"{self.name} has not been started")
        return await self._process.wait()

    async def stop(self) -> None:
        """Ask the process to end and wait for it."""
        if self._process is not None:
            await self._process.stop()

    async def kill(self) -> None:
        """End the process and all that descends from it at once."""
        if self._process is not None:
            await self._process.kill()

    async def _wait_until_ready(self, process: TetheredProcess) -> None:
        while process.returncode is None:
            if await self._spec.ready():
                return
            await asyncio.sleep(_POLL_SECONDS)
        lines = last_lines(self.log, 3)
        raise StartError(
            "\n  ".join((f"{self.name} {describe_exit(process.returncode)}; the end of {self.log}:", *lines))
        )


class Supervisor:
    """Starts children, starts those again that end by themselves, and stops all, those of the highest rank first.

    Use it as an async context manager: leaving the block stops everything. `say` gets one line for each thing a person
    should know. A child that ended is started again after `first_wait` seconds, and after twice as long
    each further time up to `longest_wait`, until it has run for a minute.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        first_wait: float = 1.0,
        longest_wait: float = 30.0,
        stop_seconds: float = 8.5,
    ) -> None:
        self._say = say
        self._first_wait = first_wait
        self._longest_wait = longest_wait
        self._stop_seconds = stop_seconds
        self._children: list[tuple[int, Child]] = []
        self._watchers: list[asyncio.Task[None]] = []
        self._fault: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> "Supervisor":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, child: Child, rank: int = 0) -> None:
        """Start `child` and keep it running from then on. Raises StartError when it doesn't start at all.

        What needs others has a higher `rank` than they.
        """
        self._children.append((rank, child))
        await child.start()
        watcher = asyncio.create_task(self._keep_running(child))
        watcher.add_done_callback(self._note_fault)
        self._watchers.append(watcher)

    async def stop(self) -> None:
        """Stop all children, one after the other; kill what is left when the time is over."""
        for watcher in self._watchers:
            watcher.cancel()
        try:
            async with asyncio.timeout(self._stop_seconds):
                await asyncio.gather(*self._watchers, return_exceptions=True)
                for _, child in sorted(self._children, key=itemgetter(0), reverse=True):
                    await child.stop()
                self._children.clear()
        except TimeoutError:
            await self.kill()
        except asyncio.CancelledError:
            await self.kill()
            raise

    async def kill(self) -> None:
        """End all children at once."""
        await asyncio.gather(*(child.kill() for _, child in self._children))
        self._children.clear()

    async def wait_for_fault(self) -> None:
        """Wait for ever, unless a fault of this program ends the watch over a child: then raise it."""
        await asyncio.shield(self._fault)

    def _note_fault(self, watcher: "asyncio.Task[None]") -> None:
        if not watcher.cancelled() and (fault := watcher.exception()) and not self._fault.done():
            self._fault.set_exception(fault)

    async def _keep_running(self, child: Child) -> None:
        loop = asyncio.get_running_loop()
        pause = self._first_wait
        while True:
            started = loop.time()
            code = await child.wait()
            if loop.time() - started > 60:
                pause = self._first_wait
            self._say(f"{child.name} {describe_exit(code)}{_last_word(child)}; starting it again in {pause:.0f} s")
            pause = await self._start_again(child, pause)

    async def _start_again(self, child: Child, pause: float) -> float:
        """Start `child` after `pause`, again and again until it runs; return the pause for the next time."""
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._longest_wait)
            try:
                await child.start()
            except StartError as error:
                self._say(f"{' '.join(str(error).split())}; starting it again in {pause:.0f} s")
                continue
            self._say(f"{child.name} runs again")
            return pause


def _last_word(child: Child) -> str:
    lines = last_lines(child.log, 1)
    return f" ({lines[0][:200]}; log: {child.log})" if lines else f" (log: {child.log})"
