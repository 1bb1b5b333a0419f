"""Runs one command and sees to it that nothing of it outlives the parent.

Started as `python -I -S guardian.py PARENT STOP_SIGNAL STOP_SECONDS UID:GID|- PROGRAM ARG...` by `processes.py`;
it imports only the quick parts of the standard library, so it costs some 20 ms.

SIGTERM (also sent by the kernel when the parent dies), SIGINT or SIGHUP pass STOP_SIGNAL on to the child, which is
killed STOP_SECONDS later; SIGQUIT kills it at once. When the child has ended, for whatever reason, all its descendants
are killed: as a subreaper the guardian inherits every orphan among them. Then it ends as the child did. If the
guardian itself is killed, so is the child.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_STOP = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_WATCHED = _STOP | {signal.SIGQUIT, signal.SIGCHLD}
_BURIAL_SECONDS = 1.5


def main(arguments: list[str]) -> NoReturn:
    """Run the command of the arguments to its end."""
    parent, stop_signal, stop_seconds, account, *command = arguments
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit("the parent has ended already")
    guardian = os.getpid()
    environment = _original_environment()
    program = _find(command[0], environment)
    child = os.fork()
    if child == 0:
        _become(program, command, environment, account, guardian)
    status = _watch(child, int(stop_signal), float(stop_seconds))
    _bury_descendants()
    _end_like(status)


def _original_environment() -> dict[bytes, bytes]:
    """Read the environment as it was given; Python adds LC_CTYPE to its own where no locale is set (PEP 538)."""
    file = os.open("/proc/self/environ", os.O_RDONLY)
    text = b""
    while part := os.read(file, 65536):
        text += part
    os.close(file)
    return dict(entry.split(b"=", 1) for entry in text.split(b"\0") if b"=" in entry)


def _find(program: str, environment: dict[bytes, bytes]) -> str:
    if "/" in program:
        return program
    folders = os.fsdecode(environment.get(b"PATH", os.fsencode(os.defpath))).split(":")
    candidates = (f"{folder or '.'}/{program}" for folder in folders)
    return next((path for path in candidates if os.access(path, os.X_OK)), program)


def _become(program: str, command: list[str], environment: dict[bytes, bytes], account: str, guardian: int) -> NoReturn:
    """Turn into the command. As another account, nothing can be imported any more: it may not reach this Python."""
    try:
        if account != "-":
            uid, gid = (int(part) for part in account.split(":"))
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)  # clears the death signal, so it comes first
            _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guardian:
            os._exit(127)
        for number in (*_WATCHED, signal.SIGPIPE, signal.SIGXFSZ):  # exec hands on what is ignored
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
        os.execve(program, command, environment)  # noqa: S606
    except OSError as error:
        os.write(2, f"{command[0]} can't be run: {error.strerror}\n".encode())
    os._exit(127)


def _watch(child: int, stop_signal: int, stop_seconds: float) -> int:
    """Pass signals on until the child has ended; return its wait status."""
    deadline = math.inf
    while True:
        received = signal.sigtimedwait(_WATCHED, min(max(0.0, deadline - time.monotonic()), 3600.0))
        for pid, status in _reap():
            if pid == child:
                return status
        number = received.si_signo if received else 0
        if number == signal.SIGQUIT:
            deadline = 0.0
        elif number in _STOP and deadline == math.inf:
            os.kill(child, stop_signal)
            deadline = time.monotonic() + stop_seconds
        if time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            deadline = math.inf


def _reap() -> Iterator[tuple[int, int]]:
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        yield pid, status


def _bury_descendants() -> None:
    """Kill all that descends from this process; each death hands its children to us, so repeat until none is left."""
    give_up = time.monotonic() + _BURIAL_SECONDS
    while time.monotonic() < give_up:
        for pid in _children():
            _kill(pid)
        try:
            for _ in _reap():
                pass
        except ChildProcessError:
            return
        signal.sigtimedwait({signal.SIGCHLD}, 0.01)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except PermissionError:  # it runs a set-user-id program: leave it to end by itself
        return


def _children() -> list[int]:
    own = os.getpid()
    names = os.listdir("/proc")  # noqa: PTH208 (pathlib costs as much time as all the rest)
    return [int(name) for name in names if name.isdigit() and _parent_of(name) == own]


def _parent_of(pid: str) -> int:
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return 0
    try:
        stat = os.read(file, 4096)
    except OSError:
        return 0
    finally:
        os.close(file)
    return int(stat.rpartition(b")")[2].split()[1])


def _end_like(status: int) -> NoReturn:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        sys.exit(f"prctl({option}): {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main(sys.argv[1:])
