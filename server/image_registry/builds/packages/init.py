"""The first process of a sandbox; started as `python -I -S init.py` with its instructions on standard input.

It makes the namespaces, a root that holds nothing of the machine but programs (`/usr`, read-only), its own folder
(`/build`), an empty `/dev` and `/proc` of its own, and runs the steps one after the other as root of its user
namespace, which is nobody on the machine. When it ends, so does every process in there, and every mount.

Standard input: the instructions (see `sandbox.Instructions`) as a line of JSON, then a line for each `await`.
Standard output, a line of JSON each:

    {"await": "maps"}                       the user namespace waits for its user and group ids
    {"await": "network"}                    the network namespace waits for its way out
    {"line": "Setting up jq ..."}           what a step prints
    {"step": "install", "code": 100}        the end of a step; the first one that fails is the last
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_NEW_MOUNTS, _NEW_HOST_NAME, _NEW_IPC = 0x20000, 0x4000000, 0x8000000
_NEW_CONTROL_GROUPS, _NEW_USERS, _NEW_PROCESSES, _NEW_NETWORK = 0x2000000, 0x10000000, 0x20000000, 0x40000000
_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_EXEC, _REMOUNT, _BIND, _DEEP, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_ROOT = "/tmp"  # noqa: S108 (a mount point in a mount namespace of our own)
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LONGEST_LINE = 4096
_LAST_WORDS = 1.0  # seconds that what a program left running may go on for
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/tmp",  # noqa: S108 (as above)
    "TMPDIR": "/build/tmp",
    "XDG_RUNTIME_DIR": "/run",
    "_CONTAINERS_USERNS_CONFIGURED": "done",
    "LC_ALL": "C.UTF-8",
}

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> NoReturn:
    """Make the sandbox and run its steps; ends with 0, or with the code of the step that failed."""
    instructions = json.loads(_read_line())
    _unlimit_memory()
    os.umask(0o022)
    os.chdir(instructions["folder"])
    _call("unshare", _NEW_USERS)
    _await("maps")
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # a change of the user id takes it away
    _call("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)  # so that a worker that isn't root may find the namespaces
    network = _NEW_NETWORK if instructions["network"] else 0
    _call("unshare", _NEW_MOUNTS | _NEW_PROCESSES | _NEW_IPC | _NEW_HOST_NAME | _NEW_CONTROL_GROUPS | network)
    _await("network")
    _call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)
    child = os.fork()
    if child:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        _make_root(instructions["nameserver"])
        _raise_rules(instructions["rules"])
        _choose_storage()
        code = _run(instructions["steps"], instructions["output"])
    except OSError as error:
        _say({"line": f"the sandbox can't be made: {error}"})
        code = 125
    os._exit(code)


def _unlimit_memory() -> None:
    """The control group bounds memory in here; only the machine's root can lift the bound of each process."""
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):
        return


def _make_root(nameserver: str) -> None:
    _mount("none", "/", "", _DEEP | _PRIVATE)
    _mount("tmpfs", _ROOT, "tmpfs", _NO_SUID, "mode=755,size=64m")
    for folder in (
        "usr",
        "etc/containers",
        "proc",
        "sys",
        "dev/shm",
        "dev/pts",
        "build",
        "old",
        "tmp",
        "var/tmp",
        "run",
    ):
        os.makedirs(f"{_ROOT}/{folder}")
    for name in ("bin", "sbin", "lib", "lib64"):
        os.symlink(f"usr/{name}", f"{_ROOT}/{name}")
    _mount("/usr", f"{_ROOT}/usr", "", _BIND | _DEEP)
    _mount("none", f"{_ROOT}/usr", "", _BIND | _REMOUNT | _READ_ONLY | _NO_SUID | _NO_DEVICES)
    _mount(".", f"{_ROOT}/build", "", _BIND)
    _mount("proc", f"{_ROOT}/proc", "proc", _NO_SUID | _NO_DEVICES | _NO_EXEC)
    _make_devices(f"{_ROOT}/dev")
    for path, text in _files(nameserver).items():
        with open(f"{_ROOT}/{path}", "w", encoding="utf-8") as file:
            file.write(text)
    os.chdir(_ROOT)
    _call("syscall", _PIVOT_ROOT[os.uname().machine], b".", b"old")
    os.chroot(".")
    os.chdir("/")
    _call("umount2", b"/old", _DETACH)
    os.rmdir("/old")
    os.makedirs("/build/tmp", exist_ok=True)


def _make_devices(folder: str) -> None:
    for name in _DEVICES:
        with open(f"{folder}/{name}", "w", encoding="utf-8"):
            pass
        _mount(f"/dev/{name}", f"{folder}/{name}", "", _BIND)
    _mount("tmpfs", f"{folder}/shm", "tmpfs", _NO_SUID | _NO_DEVICES | _NO_EXEC, "mode=1777,size=64m")
    _mount("devpts", f"{folder}/pts", "devpts", _NO_SUID | _NO_EXEC, "newinstance,ptmxmode=0666,mode=0620")
    os.symlink("pts/ptmx", f"{folder}/ptmx")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{folder}/{name}")
    os.symlink("/proc/self/fd", f"{folder}/fd")


def _files(nameserver: str) -> dict[str, str]:
    return {
        "etc/passwd": "root:x:0:0:root:/:/bin/sh\n",
        "etc/group": "root:x:0:\n",
        "etc/hosts": "127.0.0.1 localhost\n",
        "etc/resolv.conf": nameserver,
        "etc/containers/policy.json": '{"default": [{"type": "insecureAcceptAnything"}]}',
        "etc/containers/registries.conf": "",
    }


def _choose_storage() -> None:
    """Have the engine put layers on one another by the kernel where that can be done here, else by copying them."""
    place = "/build/tmp/overlay"
    for name in ("lower", "upper", "work", "merged"):
        os.makedirs(f"{place}/{name}")
    try:
        options = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work,userxattr"
        _mount("overlay", f"{place}/merged", "overlay", 0, options)
        _call("umount2", f"{place}/merged".encode(), 0)
        _ENVIRONMENT["STORAGE_DRIVER"] = "overlay"
    except OSError:
        _ENVIRONMENT["STORAGE_DRIVER"] = "vfs"


def _raise_rules(rules: str) -> None:
    if rules:
        done = subprocess.run(
            ["nft", "-f", "-"], env=_ENVIRONMENT, input=rules, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise OSError(f"nft refuses the rules: {done.stderr.strip()}")


def _run(steps: list[dict[str, Any]], output: str) -> int:
    for step in steps:
        code = _run_step(step, output)
        _say({"step": step["name"], "code": code})
        if code:
            return code
    return 0


def _run_step(step: dict[str, Any], output: str) -> int:
    """Run a program to its end, and end whatever it leaves running. All that they print is reported."""
    pipe, end = _named_pipe(output)
    process = subprocess.Popen(
        step["argv"],
        env=_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=end,
        stderr=subprocess.STDOUT,
        preexec_fn=_leave_network if step["offline"] else None,  # noqa: PLW1509 (there is a single thread)
    )
    os.close(end)
    words = _Words(pipe)
    last_words = 0.0
    while not words.over and not (last_words and time.monotonic() > last_words):
        words.pass_on(0.1)
        if not last_words and process.poll() is not None:
            last_words = time.monotonic() + _LAST_WORDS
    code = process.wait()
    _end_all_others()
    while not words.over:  # nobody is left who could hold the pipe open
        words.pass_on(None)
    os.close(pipe)
    return code & 0xFF


def _named_pipe(path: str) -> tuple[int, int]:
    """Make a pipe that can be written to by its name, too; returns its two ends."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    os.mkfifo(path, 0o600)
    pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return pipe, os.open(path, os.O_WRONLY | os.O_CLOEXEC)


def _end_all_others() -> None:
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(-1, signal.SIGKILL)
        while True:
            os.waitpid(-1, 0)


class _Words:
    """Reports what comes out of a pipe; `over`: everybody has closed it."""

    def __init__(self, pipe: int) -> None:
        self.over = False
        self._pipe = pipe
        self._pending = b""

    def pass_on(self, seconds: float | None) -> None:
        """Wait for more, so many seconds at most, and report it."""
        if not select.select([self._pipe], [], [], seconds)[0]:
            return
        try:
            chunk = os.read(self._pipe, 65536)
        except BlockingIOError:  # a script read it
            return
        self.over = not chunk
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        for line in lines:
            _report(line)
        if self.over or len(self._pending) > _LONGEST_LINE:
            _report(self._pending)
            self._pending = b""


def _report(line: bytes) -> None:
    text = line[:_LONGEST_LINE].decode("utf-8", "replace").rstrip()
    if text:
        _say({"line": text})


def _leave_network() -> None:
    """Be in a network with nothing but a loopback of its own."""
    _call("unshare", _NEW_NETWORK)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    _call("mount", source.encode(), target.encode(), kind.encode() or None, flags, data.encode(), what=target)


def _call(name: str, *arguments: Any, what: str = "") -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name} {what}: {os.strerror(number)}")


def _await(what: str) -> None:
    _say({"await": what})
    if not _read_line():
        os._exit(125)


def _say(event: dict[str, Any]) -> None:
    os.write(1, f"{json.dumps(event)}\n".encode())


def _read_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return b""
        line += byte
    return line


if __name__ == "__main__":
    try:
        main()
    except OSError as fault:
        _say({"line": f"the sandbox can't be made: {fault}"})
        sys.exit(125)
