"""A control group for one build's sandbox: memory, processors, processes. Both versions of the kernel's interface.

Version 1 has a tree for each controller, version 2 one for all (kernel: admin-guide/cgroup-v1, cgroup-v2). The group is
made below the one that this process is in, so that a container's own bounds stay in force; where version 2 doesn't
allow that (a group with processes hands no controllers down), at the top of the tree.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from image_registry.builds.packages.wanted import Confinement

_PROC = Path("/proc/self")
_PARENT = "image-registry"
_NEEDED = ("memory", "cpu", "pids")
_PERIOD = 100_000  # microseconds
_PATIENCE = 5.0
_PAUSE = 0.01


class NoControlGroupError(Exception):
    """This machine lets this user make no control group with the needed controllers; the text says why."""


class ControlGroup:
    """A group of a name of its own; use `remove` when its processes have ended, or to end them."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self._folders = folders
        self._kills = self.out_of_memory_kills

    @classmethod
    def make(cls, name: str, confinement: Confinement) -> ControlGroup:
        """Make a group with the confinement's bounds. Raises NoControlGroupError."""
        faults = []
        for parents in _places():
            try:
                return cls(_made(parents, name, confinement))
            except OSError as error:
                faults.append(f"{error.filename or ''}: {error.strerror}")
        why = "; ".join(dict.fromkeys(faults)) or f"no tree with {', '.join(_NEEDED)} is mounted"
        raise NoControlGroupError(f"no control group can be made ({why})")

    def add(self, pid: int) -> None:
        """Put a process into the group; what it starts is in it too. Raises OSError."""
        for folder in set(self._folders.values()):
            (folder / "cgroup.procs").write_text(str(pid))

    @property
    def out_of_memory_kills(self) -> int:
        """How many of the group's processes were killed for lack of memory so far."""
        memory = self._folders["memory"]
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError):
                if found := re.search(r"^oom_kill (\d+)$", (memory / name).read_text(), re.MULTILINE):
                    return int(found[1])
        return 0

    def remove(self) -> None:
        """End all processes in the group and remove it."""
        for folder in set(self._folders.values()):
            _remove(folder)


def group_name(folder: Path) -> str:
    """The name of the group of the build in that folder; it tells whose work folder the build belongs to."""
    return f"{_owner(folder.parent)}-{folder.name}"


def remove_group(folder: Path) -> None:
    """Remove what is left of the group of the build in that folder."""
    for parents in _places():
        for parent in parents.values():
            _remove(parent / _PARENT / group_name(folder))


def remove_abandoned_groups(work_dir: Path) -> None:
    """Remove the groups of builds whose folder in `work_dir` is gone, with all processes in them."""
    for parents in _places():
        for parent in parents.values():
            for group in (parent / _PARENT).glob(f"{_owner(work_dir)}-*"):
                name = group.name.partition("-")[2]
                if not (work_dir / name).exists():
                    _remove(group)


def _owner(work_dir: Path) -> str:
    return hashlib.sha256(os.fsencode(work_dir.resolve())).hexdigest()[:8]


def _places() -> Iterator[dict[str, Path]]:
    """Yield the groups below which one may be made, by controller."""
    trees, own = _trees(), _own_groups()
    if all(name in trees for name in _NEEDED):
        yield {name: _existing(trees[name], own.get(name, "/")) for name in _NEEDED}
    elif "" in trees:
        for path in dict.fromkeys((_existing(trees[""], own.get("", "/")), trees[""])):
            yield dict.fromkeys(_NEEDED, path)


def _trees() -> dict[str, Path]:
    """Where each controller's tree is mounted; '' is that of version 2."""
    trees: dict[str, Path] = {}
    with contextlib.suppress(OSError):
        for line in (_PROC / "mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            kind, _, options = after.split(" ", 2)
            for name in {"cgroup": options.split(","), "cgroup2": [""]}.get(kind, []):
                trees.setdefault(name, Path(before.split(" ")[4]))
    return trees


def _own_groups() -> dict[str, str]:
    groups: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in (_PROC / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            groups |= dict.fromkeys(controllers.split(","), path)
    return groups


def _existing(tree: Path, group: str) -> Path:
    """A group's folder; in a container the path may be that of the machine, while the tree begins at the group."""
    folder = tree / group.lstrip("/")
    return folder if folder.is_dir() else tree


def _made(parents: dict[str, Path], name: str, confinement: Confinement) -> dict[str, Path]:
    one_tree = len(set(parents.values())) == 1
    folders = {controller: parent / _PARENT / name for controller, parent in parents.items()}
    try:
        for parent in set(parents.values()):
            (parent / _PARENT / name).parent.mkdir(exist_ok=True)
            if one_tree:
                for group in (parent, parent / _PARENT):
                    (group / "cgroup.subtree_control").write_text(" ".join(f"+{c}" for c in _NEEDED))
            (parent / _PARENT / name).mkdir()
        for file, value in (_bounds_of_2 if one_tree else _bounds_of_1)(confinement):
            controller = file.partition(".")[0]
            if "swap" not in file and "memsw" not in file:
                (folders[controller] / file).write_text(value)
            else:  # not every kernel counts swap
                with contextlib.suppress(OSError):
                    (folders[controller] / file).write_text(value)
    except OSError:
        for folder in set(folders.values()):
            _remove(folder)
        raise
    return folders


def _bounds_of_1(confinement: Confinement) -> list[tuple[str, str]]:
    return [
        ("memory.limit_in_bytes", str(confinement.memory_bytes)),
        ("memory.memsw.limit_in_bytes", str(confinement.memory_bytes)),
        ("cpu.cfs_period_us", str(_PERIOD)),
        ("cpu.cfs_quota_us", str(int(confinement.cpus * _PERIOD))),
        ("pids.max", str(confinement.processes)),
    ]


def _bounds_of_2(confinement: Confinement) -> list[tuple[str, str]]:
    return [
        ("memory.max", str(confinement.memory_bytes)),
        ("memory.swap.max", "0"),
        ("cpu.max", f"{int(confinement.cpus * _PERIOD)} {_PERIOD}"),
        ("pids.max", str(confinement.processes)),
    ]


def _remove(folder: Path) -> None:
    give_up = time.monotonic() + _PATIENCE
    while folder.is_dir() and time.monotonic() < give_up:
        with contextlib.suppress(OSError):
            for pid in (folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            folder.rmdir()
            return
        time.sleep(_PAUSE)
