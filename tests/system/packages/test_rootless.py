"""System packages installed by a plain user with subordinate ids, in control groups that it may divide.

The user sees the machine as it is, but for two things, in a mount namespace of its own: it may open /dev/net/tun, which
udev lets everybody and this machine may not, and it can walk to the code that is tested, wherever that lies.
"""

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from image_registry.builds.packages.control_group import _places
from image_registry.builds.plan import PackageIndex as IndexSettings
from tests.fixtures.base_image import TestBase
from tests.fixtures.package_index import PackageIndex
from tests.fixtures.rootfs import unpack_image
from tests.fixtures.survivors import eventually
from tests.integration.builds.conftest import until
from tests.integration.builds.test_processes import _PARENT
from tests.system.packages.conftest import PackageBuilder
from tests.system.packages.repositories import AptRepository
from tests.system.packages.test_endings import cgroups, hangs, sandbox_parts

_AS_USER = """
set -e
for group in $GROUPS_OF_ITS_OWN; do echo $$ > "$group/cgroup.procs"; done
mount --bind "$ROOM/tun" /dev/net/tun
for folder in $CLOSED; do
  place=$(mktemp -d "$ROOM/open-XXXXXX")
  mkdir "$place/upper" "$place/work"
  mount -t overlay overlay -o "lowerdir=$folder,upperdir=$place/upper,workdir=$place/work" "$folder"
  chmod 755 "$folder"
done
cd /
exec setpriv --reuid="$USER_ID" --regid="$GROUP_ID" --clear-groups -- "$@"
"""
_LOOK = """
import sys
from pathlib import Path
from image_registry.builds.packages.engine import look_at_machine
from image_registry.builds.packages.wanted import Confinement
print(look_at_machine(Confinement(required=sys.argv[1] == "confined"), Path(sys.argv[2])))
"""
_SPY = """\
mkdir -m 700 /var/lib/hidden
echo secret > /var/lib/hidden/file
chown -R 33:33 /var/lib/hidden
mkdir -p /usr/share/spy
cat /proc/self/uid_map > /usr/share/spy/users
cat /proc/net/dev > /usr/share/spy/network
"""


@dataclass
class Account:
    """A user of the machine, its folder, and the control groups that are its own."""

    name: str
    folder: Path
    room: Path
    groups: list[Path]

    def start(self, *arguments: str, divided: bool = True) -> "subprocess.Popen[str]":
        """This Python as that user; `divided`: in the control groups that are its own."""
        user = pwd.getpwnam(self.name)
        paths = [Path(__file__), Path(sys.executable), Path(sys.base_prefix, "bin")]
        closed = {parent for path in paths for parent in path.parents if not parent.stat().st_mode & 1}
        environment = {
            "PATH": os.environ["PATH"],
            "ROOM": str(self.room),
            "CLOSED": " ".join(map(str, sorted(closed))),
            "GROUPS_OF_ITS_OWN": " ".join(map(str, self.groups if divided else [])),
            "USER_ID": str(user.pw_uid),
            "GROUP_ID": str(user.pw_gid),
        }
        return subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", _AS_USER, "sh", sys.executable, *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, text: str = "", divided: bool = True) -> tuple[int, str]:
        """Code and output."""
        with self.start(*arguments, divided=divided) as process:
            output, _ = process.communicate(text)
        return process.returncode, output

    def look(self, mode: str, *, divided: bool = True) -> str:
        """What `doctor` and the worker find out."""
        folder = self.folder / "work"
        code, output = self.run("-c", _LOOK, mode, str(folder), divided=divided)
        assert code == 0, output
        assert list(folder.iterdir()) == []
        return output


def removed(group: Path) -> bool:
    """Whether a control group is gone; one with processes stays."""
    with contextlib.suppress(OSError):
        group.rmdir()
    return not group.exists()


@contextlib.contextmanager
def an_account(*options: str) -> Iterator[Account]:
    name = f"rootless-{uuid4().hex[:8]}"
    subprocess.run(["useradd", "--system", "--no-create-home", *options, name], check=True, capture_output=True)
    room = Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/var/tmp"))
    groups: list[Path] = []
    try:
        user = pwd.getpwnam(name)
        room.chmod(0o755)
        (room / "folder" / "work").mkdir(parents=True)
        os.mknod(room / "tun", 0o020666, os.makedev(10, 200))
        (room / "tun").chmod(0o666)
        for path in (room / "folder", room / "folder" / "work"):
            os.chown(path, user.pw_uid, user.pw_gid)
        for parent in set(next(iter(_places())).values()):
            group = parent / name
            group.mkdir()
            groups.append(group)
            os.chown(group, user.pw_uid, user.pw_gid)
        yield Account(name, room / "folder", room, groups)
    finally:
        shutil.rmtree(room)
        for group in groups:  # a killed worker's build removes its folder, and ends a moment later
            eventually(lambda group=group: removed(group / "image-registry") and removed(group), 30)
        subprocess.run(["userdel", name], check=True, capture_output=True)  # refuses while it has processes


@pytest.fixture
def account() -> Iterator[Account]:
    """A user with subordinate ids."""
    with an_account("--add-subids-for-system") as found:
        yield found


@pytest.fixture
def builder(account: Account, small_base: TestBase, package_index: PackageIndex, apt: AptRepository) -> PackageBuilder:
    """What that user builds, in its folder."""
    base = account.room / "base"
    shutil.copytree(small_base.layout, base)
    (account.folder / "cache").mkdir()
    os.chown(account.folder / "cache", pwd.getpwnam(account.name).pw_uid, -1)
    copied = TestBase(f"oci:{base}:base", base, small_base.python_version)
    return PackageBuilder(account.folder, copied, IndexSettings(url=package_index.url), reach=(apt.location,))


def build(account: Account, builder: PackageBuilder, package: str) -> tuple[int, str]:
    return account.run("-c", _PARENT, text=f"{builder.plan(packages=[package]).to_json()}\n")


async def nothing_is_left(builder: PackageBuilder) -> None:
    await until(lambda: not hangs() and not sandbox_parts())
    assert list(builder.work.iterdir()) == []
    assert cgroups() == []


async def test_packages_of_all_owners_are_installed_and_nothing_is_left(
    account: Account, builder: PackageBuilder, apt: AptRepository, tmp_path: Path
) -> None:
    apt.add("plain-spy", script=_SPY)
    code, output = build(account, builder, "plain-spy")
    assert code == 0, output
    assert "not confined" not in output
    rootfs = unpack_image(builder.root / "image", "latest", tmp_path / "rootfs")
    assert rootfs.run("plain-spy") == "plain-spy 1.0\n"
    assert (rootfs.path / "var/lib/hidden/file").stat().st_uid == 33
    spied = rootfs.path / "usr/share/spy"
    outside = int((spied / "users").read_text().split()[1])
    assert outside not in {0, pwd.getpwnam(account.name).pw_uid}, "root in there is nobody outside"
    assert [line.split(":")[0].strip() for line in (spied / "network").read_text().splitlines()[2:]] == ["lo"]
    await nothing_is_left(builder)


async def test_what_fails_and_what_is_out_of_reach(
    account: Account, builder: PackageBuilder, apt: AptRepository
) -> None:
    apt.add("plain-broken", script=f"{_SPY}\nexit 3")
    code, output = build(account, builder, "plain-broken")
    assert code == 1
    assert "A package's own script failed: installed plain-broken package" in output, output
    await nothing_is_left(builder)

    builder.reach = ()
    code, output = build(account, builder, "plain-broken")
    assert code == 1
    assert "The packages could not be fetched: " in output, output
    await nothing_is_left(builder)


async def test_a_killed_worker(account: Account, builder: PackageBuilder, apt: AptRepository) -> None:
    apt.add("plain-hanging", script=f"{_SPY}\nsetsid sleep 31415 & sleep 31415")
    with account.start("-c", _PARENT) as process:
        assert process.stdin is not None
        process.stdin.write(f"{builder.plan(packages=['plain-hanging']).to_json()}\n")
        process.stdin.flush()
        await until(lambda: len(hangs()) == 2, 120)
        process.kill()
    await until(lambda: not list(builder.work.iterdir()))
    await nothing_is_left(builder)


def test_it_says_what_is_lacking(account: Account) -> None:
    assert "obstacle=''" in account.look("confined")
    undivided = account.look("confined", divided=False)
    assert "obstacle='memory, processors and processes are not bounded: no control group can be made" in undivided
    assert "give its user subordinate ids, /dev/net/tun and control groups" in undivided
    relaxed = account.look("relaxed", divided=False)
    assert "obstacle=''" in relaxed
    assert "gaps=('memory, processors and processes are not bounded" in relaxed


def test_without_subordinate_ids_it_refuses() -> None:
    with an_account() as nobody:
        said = nobody.look("confined")
    assert "/etc/subuid gives this user no 65536 ids" in said
    assert "remedy='run the worker as root, or give its user subordinate ids" in said
