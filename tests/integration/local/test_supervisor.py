"""Children that are kept running, and stopped together."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from image_registry.host import StartError
from image_registry.local.supervisor import ChildSpec, CommandChild, Supervisor
from tests.fixtures.survivors import nobody_left, processes_of

LASTS = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)

# A supervisor whose child has children of its own, one of them in another session.
SUPERVISE = """
import asyncio, os, sys
from pathlib import Path
from image_registry.local.supervisor import ChildSpec, CommandChild, Supervisor
FAMILY = "import subprocess, sys, time; sleep = [sys.executable, '-c', 'import time; time.sleep(600)']; " \\
    "subprocess.Popen(sleep); subprocess.Popen(sleep, start_new_session=True); print('up', flush=True); time.sleep(600)"
async def main():
    log = Path(sys.argv[1])
    async def ready(): return log.exists() and "up" in log.read_text()
    command = [sys.executable, "-c", FAMILY]
    async with Supervisor(print) as supervisor:
        await supervisor.start(CommandChild(ChildSpec("family", command, dict(os.environ), log, ready)))
        print("ready", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


class Family:
    """Children of one test, and what the supervisor has said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"MARK_{uuid4().hex}"
        self.said: list[str] = []
        self.supervisor = Supervisor(self.said.append, first_wait=0.1, longest_wait=0.4, stop_seconds=3)

    def child(self, name: str, script: str, stop_seconds: float = 1, start_seconds: float = 20) -> CommandChild:
        log = self.folder / f"{name}.log"

        async def ready() -> bool:
            return log.exists() and "up" in log.read_text()

        command = [sys.executable, "-c", script]
        return CommandChild(ChildSpec(name, command, {self.mark: "1"}, log, ready, start_seconds, stop_seconds))

    def pids(self, name: str) -> list[int]:
        return [
            pid for pid, command in processes_of(self.mark).items() if "guardian" not in command and name in command
        ]


@pytest.fixture
async def family(tmp_path: Path) -> Family:
    return Family(tmp_path)


async def test_a_dead_child_is_started_again(family: Family) -> None:
    async with family.supervisor:
        await family.supervisor.start(family.child("worker", LASTS))
        (first,) = family.pids("sleep")
        os.kill(first, signal.SIGKILL)
        await until(lambda: "worker runs again" in family.said)
        assert family.said[0] == (
            f"worker was killed by SIGKILL (up; log: {family.folder}/worker.log); starting it again in 0 s"
        )
        await until(lambda: family.pids("sleep") not in ([], [first]))
    assert processes_of(family.mark) == {}


async def test_waits_grow(family: Family) -> None:
    """A child that never lives is tried less and less often, and the reason is told each time."""
    lived = family.folder / "lived"
    once = (
        f"import sys, time, pathlib; print('up', flush=True); lived = pathlib.Path({str(lived)!r})\n"
        "if lived.exists(): sys.exit('no database')\n"
        "lived.touch(); time.sleep(600)"
    )

    def deaths() -> list[str]:
        return [line for line in family.said if "ended with code 1" in line]

    async with family.supervisor:
        await family.supervisor.start(family.child("serve", once))
        await until(lived.exists)
        (first,) = family.pids("sleep")
        started = time.monotonic()
        os.kill(first, signal.SIGKILL)
        await until(lambda: len(deaths()) >= 4, 60)
        assert time.monotonic() - started > 0.5
    assert all("no database" in line and line.endswith(" s") for line in deaths()), deaths()


async def test_a_child_that_does_not_start(family: Family) -> None:
    async with family.supervisor:
        with pytest.raises(StartError) as refused:
            await family.supervisor.start(family.child("serve", "import sys; sys.exit('no such option')"))
    log = family.folder / "serve.log"
    assert str(refused.value) == f"serve ended with code 1; the end of {log}:\n  no such option"


async def test_a_child_that_is_never_ready(family: Family) -> None:
    async with family.supervisor:
        with pytest.raises(StartError, match=r"^serve was not ready after 0 s; see "):
            await family.supervisor.start(family.child("serve", "import time; time.sleep(600)", start_seconds=0.3))
        assert processes_of(family.mark) == {}


async def test_what_needs_others_stops_first(family: Family) -> None:
    order = []

    class Noted(CommandChild):
        async def stop(self) -> None:
            order.append(self.name)
            await super().stop()

    async with family.supervisor:
        for name, rank in (("gateway", 2), ("database", 0), ("worker", 3), ("serve", 1)):
            await family.supervisor.start(Noted(family.child(name, LASTS)._spec), rank=rank)
    assert order == ["worker", "gateway", "serve", "database"]
    assert processes_of(family.mark) == {}


async def test_the_time_for_stopping_is_limited(family: Family) -> None:
    """However many children don't react, all are gone when the time is over."""
    for number in range(4):
        await family.supervisor.start(family.child(f"stubborn{number}", STUBBORN, stop_seconds=2))
    started = time.monotonic()
    await family.supervisor.stop()
    assert time.monotonic() - started < 7
    assert processes_of(family.mark) == {}


async def test_impatience_kills_at_once(family: Family) -> None:
    await family.supervisor.start(family.child("stubborn", STUBBORN, stop_seconds=60))
    stopping = asyncio.create_task(family.supervisor.stop())
    await asyncio.sleep(0.2)
    started = time.monotonic()
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert time.monotonic() - started < 20
    assert processes_of(family.mark) == {}


async def test_impatience_kills_at_once_while_a_child_is_started_again(family: Family) -> None:
    again = asyncio.Event()

    class Hesitant(CommandChild):
        async def start(self) -> None:
            if not family.pids("time"):
                await super().start()
                return
            again.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(60)

    await family.supervisor.start(Hesitant(family.child("hesitant", LASTS)._spec))
    await family.supervisor.start(family.child("other", LASTS))
    os.kill(family.pids("time")[0], signal.SIGKILL)
    await asyncio.wait_for(again.wait(), 20)
    stopping = asyncio.create_task(family.supervisor.stop())
    await asyncio.sleep(0.2)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert processes_of(family.mark) == {}


async def test_a_start_that_is_cancelled_leaves_nothing(family: Family) -> None:
    async with family.supervisor:
        starting = asyncio.create_task(family.supervisor.start(family.child("slow", "import time; time.sleep(600)")))
        await until(lambda: bool(family.pids("sleep")))
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert processes_of(family.mark) == {}


async def test_a_fault_of_the_supervisor_itself_is_not_lost(family: Family) -> None:
    class Faulty(CommandChild):
        async def wait(self) -> int:
            raise ZeroDivisionError

    async with family.supervisor:
        await family.supervisor.start(Faulty(family.child("faulty", LASTS)._spec))
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(family.supervisor.wait_for_fault(), 30)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "terminated"])
def test_nobody_outlives_the_supervisor(tmp_path: Path, number: signal.Signals) -> None:
    mark = f"MARK_{uuid4().hex}"
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISE, tmp_path / "log"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, mark: "1"},
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
    assert len(processes_of(mark)) == 5
    process.send_signal(number)
    process.wait()
    nobody_left(mark)


async def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 (other processes decide)
            await asyncio.sleep(0.02)
