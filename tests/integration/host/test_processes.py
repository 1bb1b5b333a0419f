"""Tethered children: whatever happens to the parent, nothing of them stays."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from image_registry.host.processes import Account, Command, TetheredProcess, describe_exit, last_lines

# A child with a child of its own, and a grandchild in another session; each says its process id.
FAMILY = """
import os, subprocess, sys, time
sleep = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"]
subprocess.Popen(sleep)
subprocess.Popen(sleep, start_new_session=True)
print(os.getpid(), flush=True)
{then}
"""
WAIT = "time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"

PARENT = """
import asyncio, sys
from pathlib import Path
from image_registry.host.processes import Command, TetheredProcess
async def main():
    await TetheredProcess.start(Command([sys.executable, "-c", sys.argv[1]], log=Path(sys.argv[2]), stop_seconds=0.5))
    print("started", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_exit_codes(tmp_path: Path) -> None:
    for script, code in (("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", -9), ("kill -SEGV $$", -11)):
        process = await TetheredProcess.start(Command(["sh", "-c", script]))
        assert await process.wait() == code


def test_words_for_exits() -> None:
    assert describe_exit(3) == "ended with code 3"
    assert describe_exit(-9) == "was killed by SIGKILL"
    assert describe_exit(-64) == "was killed by SIGRTMAX"


async def test_program_that_is_not_there(tmp_path: Path) -> None:
    process = await TetheredProcess.start(Command(["/no/such/program"], log=tmp_path / "log"))
    assert await process.wait() == 127
    assert last_lines(tmp_path / "log") == ["/no/such/program can't be run: No such file or directory"]


async def test_stop_asks_first(tmp_path: Path) -> None:
    script = "trap 'echo asked; exit 7' INT; echo up; while :; do sleep 0.01; done"
    process = await TetheredProcess.start(
        Command(["sh", "-c", script], log=tmp_path / "log", stop_signal=signal.SIGINT, stop_seconds=20)
    )
    await _lines(tmp_path / "log", 1)
    assert await process.stop() == 7
    assert last_lines(tmp_path / "log") == ["up", "asked"]
    assert await process.stop() == 7


async def test_stop_kills_the_stubborn_and_all_its_family(tmp_path: Path) -> None:
    process = await TetheredProcess.start(
        Command([sys.executable, "-c", FAMILY.format(then=STUBBORN)], log=tmp_path / "log", stop_seconds=0.2)
    )
    family = await _lines(tmp_path / "log", 3)
    await asyncio.sleep(0.1)
    assert await process.stop() == -signal.SIGKILL
    assert _alive(family) == []


async def test_kill_is_at_once(tmp_path: Path) -> None:
    command = Command([sys.executable, "-c", FAMILY.format(then=WAIT)], log=tmp_path / "log", stop_seconds=60)
    process = await TetheredProcess.start(command)
    family = await _lines(tmp_path / "log", 3)
    started = time.monotonic()
    await process.kill()
    assert time.monotonic() - started < 20
    assert _alive(family) == []


async def test_a_child_that_ends_leaves_no_orphans(tmp_path: Path) -> None:
    process = await TetheredProcess.start(
        Command([sys.executable, "-c", FAMILY.format(then="time.sleep(0.5)")], log=tmp_path / "log")
    )
    family = await _lines(tmp_path / "log", 3)
    assert await process.wait() == 0
    assert _alive(family) == []


@pytest.mark.parametrize("then", [WAIT, STUBBORN], ids=["willing", "stubborn"])
def test_kill_9_of_the_parent_leaves_nobody(tmp_path: Path, then: str) -> None:
    log = tmp_path / "log"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, FAMILY.format(then=then), str(log)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    try:
        with parent.stdout:
            assert parent.stdout.readline() == "started\n"
        family = asyncio.run(_lines(log, 3))
        guardian = next(ancestor for pid in family if _parent(ancestor := _parent(pid)) == parent.pid)
    finally:
        parent.kill()
        parent.wait()
    _eventually(lambda: _alive([*family, guardian]) == [])


async def test_kill_9_of_the_guardian_takes_the_child_along(tmp_path: Path) -> None:
    script = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    process = await TetheredProcess.start(Command([sys.executable, "-c", script], log=tmp_path / "log"))
    child = await _lines(tmp_path / "log", 1)
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    _eventually(lambda: _alive(child) == [])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the account")
async def test_run_as_another_account(tmp_path: Path) -> None:
    command = Command(
        ["sh", "-c", "id -u && id -g && grep Groups: /proc/self/status"],
        log=tmp_path / "log",
        run_as=Account("nobody", 65534, 65534),
    )
    assert await (await TetheredProcess.start(command)).wait() == 0
    assert last_lines(tmp_path / "log") == ["65534", "65534", "Groups:"]


async def test_environment_and_descriptors_are_those_given(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"through the pipe\n")
    os.close(writing)
    script = f"cat /proc/$$/environ /dev/fd/{reading}"
    command = Command(["/bin/sh", "-c", script], env={"A": "1"}, log=tmp_path / "log", pass_fds=[reading])
    process = await TetheredProcess.start(command)
    os.close(reading)
    assert await process.wait() == 0
    assert (tmp_path / "log").read_text() == "A=1\0through the pipe\n"


def test_secrets_stay_out_of_representations() -> None:
    assert "secret" not in repr(Command(["x"], env={"PASSWORD": "secret"}))


async def test_a_large_log_is_put_aside(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(bytes(11 * 1024 * 1024))
    await (await TetheredProcess.start(Command(["echo", "fresh"], log=log))).wait()
    assert log.read_text() == "fresh\n"
    assert (tmp_path / "log.1").exists()


async def _lines(log: Path, count: int) -> list[int]:
    """Wait until `count` processes have written a line; return those that are numbers."""
    async with asyncio.timeout(20):
        while len(lines := last_lines(log, 100)) < count:  # noqa: ASYNC110 (another process writes it)
            await asyncio.sleep(0.01)
    return [int(line) for line in lines if line.isdigit()]


def _alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if _state(pid) not in {"", "Z", "X"}]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _eventually(holds: object, seconds: float = 10) -> None:
    assert callable(holds)
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.02)
