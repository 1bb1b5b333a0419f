"""Child processes of a build: with an environment that is written down here, and never outliving their parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_MACHINE_SETTINGS = (
    *("PATH", "LD_LIBRARY_PATH", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)

_libc: Any = ctypes.CDLL(None, use_errno=True)


def machine_environment() -> dict[str, str]:
    """Return what a build takes over from its surroundings: how this *machine* reaches the network, nothing else.

    These are no settings of the service: certificate stores and proxies as every program on the machine uses them.
    Variables that steer uv, pip or Python (`UV_*`, `PIP_*`, `PYTHON*`) stay out, so a build does the same everywhere.
    """
    own = {name: os.environ[name] for name in _MACHINE_SETTINGS if name in os.environ}
    return {"LC_ALL": "C.UTF-8", **own}


def die_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent ends, and end at once if it has ended already.

    The kernel means the parent's *thread* that forked. `parent` is the process id that the parent had when it forked.
    On systems other than Linux this does nothing.
    """
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(128 + int(number))


def run_tool(argv: Sequence[str], environment: Mapping[str, str], text: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end with `text` as standard input; it is killed when this process ends.

    Call it while this process has a single thread. Raises OSError when the program can't be started.
    """
    own = os.getpid()
    return subprocess.run(
        argv,
        env=dict(environment),
        input=text,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        preexec_fn=lambda: die_with_parent(own),
    )


def group_works(group: int) -> bool:
    """Whether a process group has a process that still runs.

    One that has ended and waits to be reaped does not, though signals reach it: orphans are for the machine's first
    process to reap, and some look for them every few seconds only. Without /proc, whatever is there counts.
    """
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    stats = list(Path("/proc").glob("[0-9]*/stat"))
    return not stats or any(_works_in(stat, group) for stat in stats)


def _works_in(stat: Path, group: int) -> bool:
    try:
        fields = stat.read_text(errors="replace").rpartition(")")[2].split()
    except OSError:  # gone meanwhile
        return False
    state, of_group, threads = fields[0], int(fields[2]), int(fields[17])
    return of_group == group and (state not in {"Z", "X"} or threads > 1)


def oom_kills() -> int:
    """Return how many processes the kernel has killed for lack of memory so far, as narrowly as it tells.

    That is: in this process's control group, else on the whole machine. 0 where nothing tells.
    """
    for path in (*_memory_accounts(), Path("/proc/vmstat")):
        with contextlib.suppress(OSError):
            if found := re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE):
                return int(found[1])
    return 0


def _memory_accounts() -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if not controllers:
                yield Path(f"/sys/fs/cgroup{group}", "memory.events")
            elif "memory" in controllers.split(","):
                yield Path(f"/sys/fs/cgroup/memory{group}", "memory.oom_control")
