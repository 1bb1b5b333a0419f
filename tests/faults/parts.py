"""The product's processes, each alone, to be killed and started again; and what is left of them in /proc."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from image_registry.local.postgres import EmbeddedPostgres

CHILD = "image_registry.builds.child"


@dataclass
class Part:
    """One process: `argv` is what follows `image-registry`. `deaths` are the times at which it was killed."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    enter: Sequence[str] = ()
    deaths: list[float] = field(default_factory=list)
    process: "subprocess.Popen[bytes] | None" = None
    held: bool = False

    def start(self) -> None:
        """Start it, and have it started again when it ends by itself, as every supervisor does."""
        self.held = False
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.enter, sys.executable, "-m", "image_registry", *self.argv],
                env=dict(self.environment),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def runs(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, and only it."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    async def kill(self) -> None:
        """`kill -9`; it stays away until it is started."""
        self.held = True
        self.signal(signal.SIGKILL)
        await self.ended()

    async def stop(self) -> None:
        """SIGTERM; it stays away until it is started."""
        self.held = True
        self.signal(signal.SIGTERM)
        await self.ended()

    async def ended(self) -> None:
        """Wait for its end."""
        while self.runs:  # noqa: ASYNC110 (another process ends)
            await asyncio.sleep(0.01)


class Database:
    """The embedded Postgres, durable as in production."""

    def __init__(self, folder: Path) -> None:
        self._server = EmbeddedPostgres(folder)

    @property
    def dsn(self) -> str:
        """Where it listens, on loopback."""
        return self._server.dsn

    async def start(self) -> None:
        """Start it, again on the same port."""
        await self._server.start()

    async def kill(self) -> None:
        """`kill -9` of it and its sessions."""
        await self._server.kill()


def processes_of(text: str) -> dict[int, str]:
    """The processes that have `text` in their command line or environment, this one aside: id → command line."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environment = (folder / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if command and text in command + environment:
                found[int(folder.name)] = command
    return found


def builds_of(work_dir: Path) -> list[int]:
    """The processes of builds that work in a folder."""
    return [pid for pid, command in processes_of(f"{work_dir}/build-").items() if CHILD in command]


def children_of(parent: int, name: str) -> list[int]:
    """The descendants of a process whose program has that name."""
    found, level = [], [parent]
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            match = re.match(r"(\d+) \((.*)\) \S (\d+)", stat.read_text(), re.DOTALL)
        except OSError:
            continue
        if match:
            parents[int(match[1])] = (int(match[3]), match[2])
    while level:
        children = [pid for pid, (above, _) in parents.items() if above in level]
        found += [pid for pid in children if parents[pid][1] == name]
        level = children
    return found
