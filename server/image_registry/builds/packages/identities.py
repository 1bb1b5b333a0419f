"""User and group ids of a sandbox: root and 65,535 others in there, who are nobody on the machine."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

COUNT = 65_536
_RANGE_OF_ROOT = 0x7000_0000  # behind all that systemd gives out (UIDS-GIDS.md) and below the end of 31 bits


class NoIdentitiesError(Exception):
    """This user has no ids to give to a sandbox; the text says what to do."""


@dataclass(frozen=True)
class Identities:
    """The sandbox's root is `root` outside, its other users are `first` and up. `is_root`: so is this user."""

    root: int
    root_group: int
    first_user: int
    first_group: int
    is_root: bool

    @classmethod
    def of_this_user(cls) -> Identities:
        """Root takes a range that nobody has; others need subordinate ids. Raises NoIdentitiesError."""
        if os.geteuid() == 0:
            return cls(_RANGE_OF_ROOT, _RANGE_OF_ROOT, _RANGE_OF_ROOT + 1, _RANGE_OF_ROOT + 1, is_root=True)
        if shutil.which("newuidmap") is None or shutil.which("newgidmap") is None:
            raise NoIdentitiesError("newuidmap is not installed (Debian: apt-get install uidmap)")
        user, group = _subordinate(Path("/etc/subuid")), _subordinate(Path("/etc/subgid"))
        return cls(os.geteuid(), os.getegid(), user, group, is_root=False)

    def map(self, pid: int) -> None:
        """Give the ids to the user namespace of a process. Raises OSError."""
        for kind, root, first in (("uid", self.root, self.first_user), ("gid", self.root_group, self.first_group)):
            numbers = ["0", str(root), "1", "1", str(first), str(COUNT - 1)]
            if self.is_root:
                text = f"{' '.join(numbers[:3])}\n{' '.join(numbers[3:])}\n"
                Path(f"/proc/{pid}/{kind}_map").write_text(text)
            else:
                subprocess.run([f"new{kind}map", str(pid), *numbers], check=True, capture_output=True)

    def give(self, folder: Path) -> None:
        """Make a new folder, and what is in it, the sandbox's root's own."""
        if self.is_root:
            for place, _, names in os.walk(folder):
                os.chown(place, self.root, self.root_group)
                for name in names:
                    path = f"{place}/{name}"
                    if os.lstat(path).st_nlink == 1:  # the others are the cache's too
                        os.chown(path, self.root, self.root_group)


def _subordinate(path: Path) -> int:
    """The first subordinate id of this user, of at least COUNT."""
    names = {str(os.geteuid())}
    with contextlib.suppress(KeyError):
        names.add(pwd.getpwuid(os.geteuid()).pw_name)
    try:
        lines = path.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, numbers = line.partition(":")
        first, _, count = numbers.partition(":")
        if name in names and first.isdigit() and count.isdigit() and int(count) >= COUNT:
            return int(first)
    raise NoIdentitiesError(f"{path} gives this user no {COUNT} ids (see `man usermod`, --add-subuids, --add-subgids)")
