"""Runs steps in a sandbox and reads what goes on in there. The sandbox ends with this process, however that ends."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image_registry.builds.packages.control_group import ControlGroup, NoControlGroupError
from image_registry.builds.packages.identities import Identities, NoIdentitiesError
from image_registry.builds.packages.network import NAMESERVER, NoNetworkError, network_obstacle, rules, way_out
from image_registry.builds.packages.wanted import Confinement
from image_registry.builds.processes import die_with_parent

OUTPUT = "/dev/output"
"""Where a step's output goes, for those of its processes whose own doesn't get there."""
_INIT = Path(__file__).with_name("init.py")
_NOT_MADE = 125  # what init.py ends with when it can't even begin
_LOOK_SECONDS = 1.0
_MOST_OUTPUT = 8 << 20  # characters of a sandbox's output; a log that is longer says nothing more


@dataclass(frozen=True)
class Step:
    """A program to run in the sandbox; `offline`: with a loopback of its own as its only network."""

    name: str
    argv: Sequence[str]
    offline: bool = False


class SandboxError(Exception):
    """The sandbox can't be made on this machine; the text says why, `remedy` what to do, if that is known."""

    def __init__(self, why: str, remedy: str = "") -> None:
        super().__init__(why)
        self.remedy = remedy


class OutOfMemoryError(Exception):
    """The control group's memory was not enough."""


class OutOfTimeError(Exception):
    """The steps took longer than they may; `step` is the one under way."""

    def __init__(self, step: str) -> None:
        super().__init__(step)
        self.step = step


class OutOfDiskError(Exception):
    """The steps wrote more than they may."""


class StepFailedError(Exception):
    """A step ended with a code; `lines` is what it had said."""

    def __init__(self, step: str, code: int, lines: list[str]) -> None:
        super().__init__(f"{step} ended with code {code}")
        self.step = step
        self.code = code
        self.lines = lines


class Sandbox:
    """A sandbox whose `/build` is `folder`, a folder of its own that the caller makes and removes.

    `group` is the name of its control group. `on_line` gets what the steps print.
    """

    def __init__(self, folder: Path, group: str, confinement: Confinement, on_line: Callable[[str], None]) -> None:
        self._folder = folder
        self._group = group
        self._confinement = confinement
        self._on_line = on_line
        self._step = ""

    def run(self, steps: Sequence[Step]) -> None:
        """Run the steps to the end of the last.

        Raises SandboxError, StepFailedError, OutOfMemoryError, OutOfTimeError, OutOfDiskError, OSError.
        """
        try:
            self._identities = Identities.of_this_user()
            self._identities.give(self._folder)
            self._run(steps)
            self._identities.take(self._folder)
        except NoIdentitiesError as error:
            raise SandboxError(str(error), error.remedy) from error

    def _run(self, steps: Sequence[Step]) -> None:
        with self._control_group() as group, self._process() as process:
            if group is not None:
                group.add(process.pid)
            fault: StepFailedError | None = None
            try:
                self._follow(process, steps)
            except StepFailedError as error:
                fault = error
            if group is not None and group.out_of_memory_kills:  # whatever became of it: rpm lets scripts be killed
                raise OutOfMemoryError from fault
            if fault is not None:
                raise fault

    @contextlib.contextmanager
    def _control_group(self) -> Iterator[ControlGroup | None]:
        try:
            group = ControlGroup.make(self._group, self._confinement)
        except NoControlGroupError as error:
            self._lacking(f"memory, processors and processes are not bounded: {error}")
            yield None
            return
        try:
            yield group
        finally:
            group.remove()

    @contextlib.contextmanager
    def _process(self) -> Iterator[subprocess.Popen[bytes]]:
        own = os.getpid()
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_INIT)],
            env={},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=lambda: die_with_parent(own),  # noqa: PLW1509 (builds have a single thread here)
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def _follow(self, process: subprocess.Popen[bytes], steps: Sequence[Step]) -> None:
        has_network = self._has_network()
        instructions = {
            "folder": str(self._folder),
            "network": has_network,
            "rules": rules(self._confinement) if has_network else "",
            "output": OUTPUT,
            "nameserver": NAMESERVER if has_network else Path("/etc/resolv.conf").read_text(encoding="utf-8"),
            "steps": [{"name": step.name, "argv": list(step.argv), "offline": step.offline} for step in steps],
        }
        _tell(process, json.dumps(instructions))
        lines: list[str] = []
        ended = 0
        output = 0
        with contextlib.ExitStack() as resources:
            for event in self._events(process):
                self._step = steps[min(ended, len(steps) - 1)].name
                if event.get("await") == "maps":
                    self._identities.map(process.pid)
                    _tell(process, "")
                elif event.get("await") == "network":
                    if has_network:
                        self._connect(process, resources)
                    _tell(process, "")
                elif "line" in event:
                    lines = [*lines[-500:], event["line"]]
                    output += len(event["line"])
                    if output < _MOST_OUTPUT:
                        self._on_line(event["line"])
                elif event["code"]:
                    raise StepFailedError(event["step"], event["code"], lines)
                else:
                    ended, lines = ended + 1, []
        if ended < len(steps):
            code = process.wait()
            if code == _NOT_MADE:
                raise SandboxError("; ".join(lines) or "the sandbox can't be made")
            raise StepFailedError(steps[ended].name, code, lines)

    def _connect(self, process: subprocess.Popen[bytes], resources: contextlib.ExitStack) -> None:
        try:
            resources.enter_context(way_out(process.pid))
        except NoNetworkError as error:
            raise SandboxError(str(error)) from error

    def _has_network(self) -> bool:
        obstacle = network_obstacle()
        if obstacle:
            self._lacking(f"the machine's own network is used: {obstacle}")
        return not obstacle

    def _lacking(self, what: str) -> None:
        if self._confinement.required:
            raise SandboxError(what)
        self._on_line(f"not confined: {what}")

    def _events(self, process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
        """Yield what the sandbox says, until it has ended; looks at time and disk meanwhile."""
        if process.stdout is None:
            raise RuntimeError("the process was started without pipes")
        step, deadline = "", 0.0
        next_look = 0.0
        pending = b""
        pipe = process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while True:
                now = time.monotonic()
                if step != self._step or not deadline:
                    step, deadline = self._step, now + self._confinement.seconds
                if now > deadline:
                    raise OutOfTimeError(self._step)
                if now > next_look:
                    if self._identities.disk_use(self._folder) > self._confinement.disk_bytes:
                        raise OutOfDiskError
                    next_look = now + _LOOK_SECONDS + 10 * (time.monotonic() - now)
                if not selector.select(min(_LOOK_SECONDS, deadline - now)):
                    continue
                chunk = os.read(pipe, 65536)
                if not chunk:
                    return
                *lines, pending = (pending + chunk).split(b"\n")
                yield from map(json.loads, lines)


def _tell(process: subprocess.Popen[bytes], line: str) -> None:
    if process.stdin is None:
        raise RuntimeError("the process was started without pipes")
    with contextlib.suppress(BrokenPipeError):  # it ended; what it said tells more
        process.stdin.write(f"{line}\n".encode())
        process.stdin.flush()
