"""A share of a core for each of some processes, so that what is measured beside them has cores of its own.

Control groups do it: version 1 where its `cpu` controller is mounted, else version 2. It takes root.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

from benchmarks.console import say

EVERYTHING = f"everything on {os.cpu_count()} cores"
SHARE = 0.35  # of a core, for each process of the server
PERIOD_US = 10_000  # a process over its share waits for the next period: short ones, so that calls don't wait for long
_FIRST = Path("/sys/fs/cgroup/cpu")
_SECOND = Path("/sys/fs/cgroup")


def quotas(pids: Iterable[int]) -> Iterator[tuple[str, AbstractContextManager[None]]]:
    """Two ways to measure, in words and as what to do it in.

    The server's processes have a share of a core each, so that all else has cores of its own, as on a larger
    machine; and everything takes what it can get of this one.
    """
    if _can_be_made():
        yield f"the server on {SHARE:g} of a core a process", shares(pids, SHARE)
    else:
        say("no shares of a core: control groups take root, so only the figure for everything on this machine's cores")
    yield EVERYTHING, nullcontext()


@contextmanager
def shares(pids: Iterable[int], share: float) -> Iterator[None]:
    """Each process has `share` of a core, until the block ends."""
    with ExitStack() as groups:
        for pid in pids:
            groups.enter_context(_group(pid, round(share * PERIOD_US)))
        yield


def _can_be_made() -> bool:
    return os.access(_FIRST if _is_first() else _SECOND / "cgroup.subtree_control", os.W_OK)


def _is_first() -> bool:
    return (_FIRST / "cpu.cfs_quota_us").exists()


@contextmanager
def _group(pid: int, quota_us: int) -> Iterator[None]:
    if _is_first():
        parent, limits = _FIRST, {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": str(quota_us)}
    else:
        parent, limits = _SECOND, {"cpu.max": f"{quota_us} {PERIOD_US}"}
        (parent / "cgroup.subtree_control").write_text("+cpu", encoding="ascii")
    group = parent / f"image-registry-bench-{pid}"
    group.mkdir()
    try:
        for name, value in limits.items():
            (group / name).write_text(value, encoding="ascii")
        (group / "cgroup.procs").write_text(str(pid), encoding="ascii")
        yield
    finally:
        if Path(f"/proc/{pid}").exists():
            (parent / "cgroup.procs").write_text(str(pid), encoding="ascii")
        group.rmdir()
