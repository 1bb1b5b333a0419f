"""User and group ids of a sandbox: 65,536 of them, root among them, who are nobody on the machine.

Root takes a range that nobody has; another user the subordinate ids that are its own (subuid(5), newuidmap(1)). Files
of those it can't read, count, give away or remove by itself: that is done in a user namespace that has them all.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

COUNT = 65_536
_RANGE_OF_ROOT = 0x7000_0000  # behind all that systemd gives out (UIDS-GIDS.md) and below the end of 31 bits
_SANDBOX_ROOT = "1:1"  # as the namespace of `_as_owner` sees it; 0 is this user there
_GIVE_IDS = f"as root: usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST NAME, {COUNT} that nobody else has"
_ALLOW_NAMESPACES = (
    "allow them: sysctl user.max_user_namespaces above 0, kernel.unprivileged_userns_clone=1 where there is one, "
    "in a container a seccomp profile that lets unshare(2) pass"
)
_OWNER = """\
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x10000000):
    sys.exit(os.strerror(ctypes.get_errno()))
os.write(1, b"\\n")
if not os.read(0, 1):
    sys.exit("no ids")
os.setgroups([])
os.setresgid(0, 0, 0)
os.setresuid(0, 0, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class NoIdentitiesError(Exception):
    """This user has no ids to give to a sandbox; the text says why, `remedy` what to do."""

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(why)
        self.remedy = remedy


@dataclass(frozen=True)
class Identities:
    """The sandbox's users are `first_user` and up outside, its groups `first_group` and up. `is_root`: this user is."""

    first_user: int
    first_group: int
    is_root: bool

    @classmethod
    def of_this_user(cls) -> Identities:
        """Root takes a range that nobody has; others need subordinate ids. Raises NoIdentitiesError."""
        if os.geteuid() == 0:
            return cls(_RANGE_OF_ROOT, _RANGE_OF_ROOT, is_root=True)
        if shutil.which("newuidmap") is None or shutil.which("newgidmap") is None:
            raise NoIdentitiesError("newuidmap is not installed", "on Debian: apt-get install uidmap")
        return cls(_subordinate(Path("/etc/subuid")), _subordinate(Path("/etc/subgid")), is_root=False)

    def map(self, pid: int) -> None:
        """Give the ids to the user namespace of a process. Raises OSError, NoIdentitiesError."""
        for kind, first in self._firsts():
            if self.is_root:
                Path(f"/proc/{pid}/{kind}_map").write_text(f"0 {first} {COUNT}\n")
            else:
                _map_by_program(kind, pid, "0", str(first), str(COUNT))

    def give(self, folder: Path) -> None:
        """Make a new folder, and what is in it, the sandbox's root's own; what the cache has too stays as it is.

        Raises OSError, NoIdentitiesError.
        """
        if not self.is_root:
            ours = ("(", "-type", "d", "-o", "-links", "1", ")")
            self._as_owner("find", str(folder), *ours, "-exec", "chown", "-h", _SANDBOX_ROOT, "{}", "+")
            return
        for place, _, names in os.walk(folder):
            os.chown(place, self.first_user, self.first_group)
            for name in names:
                path = f"{place}/{name}"
                if os.lstat(path).st_nlink == 1:  # the others are the cache's too
                    os.chown(path, self.first_user, self.first_group)

    def take(self, folder: Path) -> None:
        """Make a folder that the sandbox is done with this user's own. Raises OSError, NoIdentitiesError."""
        if not self.is_root:
            self._as_owner("chown", "-hR", "0:0", "--", str(folder))

    def disk_use(self, folder: Path) -> int:
        """What all files in a folder take on disk; those that vanish meanwhile count as nothing.

        Raises OSError, NoIdentitiesError.
        """
        if not self.is_root:
            said = self._as_owner("sh", "-c", 'du -s -B 1 -- "$0" || true', str(folder))
            return int(said.split()[0])
        total = 0
        for place, _, names in os.walk(folder):
            for name in names:
                with contextlib.suppress(OSError):
                    total += os.lstat(f"{place}/{name}").st_blocks * 512
        return total

    def remove(self, folder: Path) -> None:
        """Remove a folder with files of the sandbox's users in it. Raises OSError, NoIdentitiesError."""
        self._as_owner("rm", "-rf", "--", str(folder))

    def _firsts(self) -> tuple[tuple[str, int], tuple[str, int]]:
        return ("uid", self.first_user), ("gid", self.first_group)

    def _as_owner(self, *command: str) -> str:
        """Run a program that may do anything to this user's and the sandbox's files, and return what it prints."""
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _OWNER, *command],
            env={"PATH": os.defpath, "LC_ALL": "C"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with process:
            try:
                if process.stdout is None or not process.stdout.read(1):
                    why = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
                    raise NoIdentitiesError(f"this user can make no user namespace: {why}", _ALLOW_NAMESPACES)
                for kind, first in self._firsts():
                    own = os.geteuid() if kind == "uid" else os.getegid()
                    _map_by_program(kind, process.pid, "0", str(own), "1", "1", str(first), str(COUNT))
                output, errors = process.communicate(b"\n")
            finally:
                process.kill()
        if process.returncode:
            said = errors.decode(errors="replace").strip().splitlines()
            raise OSError(f"{command[0]}: {said[-1] if said else 'it says nothing'}")
        return output.decode(errors="replace")


def remove_tree(folder: Path) -> None:
    """Remove a folder as far as this user can, with the files of sandboxes' users in it."""
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        return
    with contextlib.suppress(OSError, NoIdentitiesError):
        if os.geteuid() != 0:
            Identities.of_this_user().remove(folder)
        else:  # a root that may not do everything: others' folders have to become its own first
            _take_folders(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _take_folders(folder: Path) -> None:
    os.chown(folder, 0, 0)
    folder.chmod(0o700)
    for place, names, _ in os.walk(folder):
        for name in names:
            inner = Path(place, name)
            os.lchown(inner, 0, 0)
            if not inner.is_symlink():
                inner.chmod(0o700)


def _map_by_program(kind: str, pid: int, *numbers: str) -> None:
    done = subprocess.run([f"new{kind}map", str(pid), *numbers], check=False, capture_output=True, text=True)
    if done.returncode:
        raise NoIdentitiesError(f"new{kind}map refuses: {done.stderr.strip()}", _GIVE_IDS)


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
    raise NoIdentitiesError(f"{path} gives this user no {COUNT} ids", _GIVE_IDS)
