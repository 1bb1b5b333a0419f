"""Child processes that never outlive the process that started them, not even when that one is killed with SIGKILL.

Each child runs under a small guardian (`guardian.py`), which the kernel tells when its parent dies. The
guardian passes stop signals on, kills after a time limit, and buries whatever the child leaves behind:
grandchildren too, also those that made a session of their own. Linux only.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from image_registry.host import StartError

_GUARDIAN = Path(__file__).with_name("guardian.py")
_GUARDIAN_SECONDS = 2.0  # what the guardian may take for itself after its child's time is over
_LOG_BYTES = 10 * 1024 * 1024


@dataclass(frozen=True)
class Account:
    """A user of the operating system for a child to run as (only root can use it)."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Command:
    """What to run and how to end it.

    `env` None passes the own environment on. `log` None shares the own standard output and error;
    otherwise both are appended to that file, which is renamed to `*.1` at start when it is above 10 MiB.
    `stop_signal` asks the child to end; after `stop_seconds` it is killed.
    """

    argv: Sequence[str]
    env: Mapping[str, str] | None = field(default=None, repr=False)
    cwd: Path | None = None
    log: Path | None = None
    run_as: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 8.0
    pass_fds: Sequence[int] = ()


class TetheredProcess:
    """A running child; make one with `start`."""

    def __init__(self, command: Command, guardian: asyncio.subprocess.Process) -> None:
        self._command = command
        self._guardian = guardian

    @classmethod
    async def start(cls, command: Command) -> "TetheredProcess":
        """Start `command`.

        Call it from the main thread only: the kernel takes the end of the *thread* that forked for the end of
        the parent. A program that can't be executed ends with 127 and says why on its standard error.
        """
        account = command.run_as
        output = None if command.log is None else _open_log(command.log)
        try:
            guardian = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(_GUARDIAN)),
                *(str(os.getpid()), str(int(command.stop_signal)), str(command.stop_seconds)),
                f"{account.uid}:{account.gid}" if account else "-",
                *command.argv,
                env=command.env,
                cwd=command.cwd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=tuple(command.pass_fds),
                start_new_session=True,  # Ctrl-C in the terminal reaches the parent alone
            )
        finally:
            if output is not None:
                os.close(output)
        return cls(command, guardian)

    @property
    def pid(self) -> int:
        """The guardian's process id, which leads the child's process group too."""
        return self._guardian.pid

    @property
    def returncode(self) -> int | None:
        """None while running, else the child's exit code, negative for a signal's number."""
        return self._guardian.returncode

    async def wait(self) -> int:
        """Wait for the end and return the code, see `returncode`."""
        return await self._guardian.wait()

    async def stop(self) -> int:
        """Ask the child to end, kill it and all its descendants when its time is over, and return its code."""
        self._signal(signal.SIGTERM)
        return await self._wait_or_kill(self._command.stop_seconds + _GUARDIAN_SECONDS)

    async def kill(self) -> int:
        """Kill the child and all its descendants at once."""
        self._signal(signal.SIGQUIT)
        return await self._wait_or_kill(_GUARDIAN_SECONDS)

    async def _wait_or_kill(self, seconds: float) -> int:
        try:
            async with asyncio.timeout(seconds):
                return await self._guardian.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            return await self._guardian.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._guardian.send_signal(number)


def describe_exit(code: int) -> str:
    """Say how a process ended: 'ended with code 3', 'was killed by SIGKILL'."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}"


def last_lines(log: Path, count: int = 5) -> list[str]:
    """Return the last lines of a log file that hold anything (none when it can't be read)."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 64 * 1024))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]


def _open_log(path: Path) -> int:
    try:
        if path.exists() and path.stat().st_size > _LOG_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"{path} can't be written: {error.strerror}") from error
