"""Several server processes on one port: the kernel deals new connections out among them.

They share nothing but the port and the database, as replicas on different machines do. One Python process uses one
core; `serve --processes` is for machines with more.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from contextlib import suppress

from image_registry.host import StartError
from image_registry.host.processes import Command, TetheredProcess, describe_exit

log = logging.getLogger(__name__)

RESTART_SECONDS = 1.0
START_SECONDS = 30.0


async def run_replicas(argv: Sequence[str], count: int, *, stop: asyncio.Event, stop_seconds: float) -> None:
    """Keep `count` processes of `argv` running until `stop` is set; then let them drain for `stop_seconds`.

    Each is given the option `--replica` with a descriptor to write to as soon as it serves, and its number. One that
    ends later is started again; one that doesn't even start raises StartError, its reasons are on standard error.
    """
    replicas = [_Replica([*argv, "--replica-number", str(number)], stop_seconds) for number in range(count)]
    try:
        await asyncio.gather(*(replica.start() for replica in replicas))
        keepers = [asyncio.create_task(replica.keep_running()) for replica in replicas]
        waiting = asyncio.create_task(stop.wait())
        ended, _ = await asyncio.wait([waiting, *keepers], return_when=asyncio.FIRST_COMPLETED)
        for task in (waiting, *keepers):
            task.cancel()
        for task in ended:
            task.result()  # raises the fault of a keeper
    finally:
        await asyncio.gather(*(replica.stop() for replica in replicas))


class _Replica:
    def __init__(self, argv: Sequence[str], stop_seconds: float) -> None:
        self._argv = argv
        self._stop_seconds = stop_seconds
        self._process: TetheredProcess | None = None

    async def start(self) -> None:
        """Start the process and wait until it serves."""
        reading, writing = os.pipe()
        try:
            self._process = await TetheredProcess.start(
                Command(
                    argv=[*self._argv, "--replica", str(writing)],
                    stop_seconds=self._stop_seconds,
                    pass_fds=[writing],
                )
            )
        finally:
            os.close(writing)
        if not await _first_byte(reading):
            await self._process.kill()
            raise StartError(f"a server process ended, or did not serve within {START_SECONDS:.0f} s; see above")

    async def keep_running(self) -> None:
        """Start the process again whenever it has ended."""
        while self._process is not None:
            code = await self._process.wait()
            log.warning("a server process %s; starting another", describe_exit(code))
            await asyncio.sleep(RESTART_SECONDS)
            with suppress(StartError, OSError):  # no process or file to be had now: again in a moment
                await self.start()

    async def stop(self) -> None:
        """Let the process drain, and wait for its end."""
        if self._process is not None:
            await self._process.stop()


async def _first_byte(reading: int) -> bytes:
    """What a new process says when it serves; nothing if it ended before, or took too long."""
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reading, "rb", buffering=0)
    )
    try:
        async with asyncio.timeout(START_SECONDS):
            return await stream.read(1)
    except TimeoutError:
        return b""
    finally:
        transport.close()
