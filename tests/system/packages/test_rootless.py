"""System packages installed by a plain user with subordinate ids, in control groups that it may divide.

The user sees the machine as it is, but for two things, in a mount namespace of its own: it may open /dev/net/tun, which
udev lets everybody and this machine may not, and it can walk to the code that is tested, wherever that lies.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
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
from tests.system.packages.test_endings import children_of, hangs, nothing_is_left, sandbox_parts

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
set -- setpriv --reuid="$USER_ID" --regid="$GROUP_ID" --clear-groups -- "$@"
case "$LACKING" in
  tun) chmod 000 "$ROOM/tun" ;;
  newuidmap) mount --bind /dev/null "$(command -v newuidmap)" ;;
  namespaces)
    set -- unshare --user sh -c "$WITHOUT_NAMESPACES" sh "$@"
    "$@" &
    while grep -q . /proc/$!/uid_map; do sleep 0.05; done
    for kind in uid gid; do echo 0 0 4294967295 > /proc/$!/${kind}_map; done
    wait $!
    exit ;;
esac
exec "$@"
"""
_WITHOUT_NAMESPACES = """
until grep -q . /proc/self/gid_map; do sleep 0.05; done
exec sh -c 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"' sh "$@"  # a new program has root's rights again
"""
_LOOK = """
import sys
from pathlib import Path
from image_registry.builds.packages.engine import look_at_machine
from image_registry.builds.packages.wanted import Confinement
print(look_at_machine(Confinement(required=sys.argv[1] == "confined"), Path(sys.argv[2])))
"""
_TIDY = """
import sys
from pathlib import Path
from image_registry.builds.runner import remove_leftovers
print(remove_leftovers(Path(sys.argv[1])))
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
    """A user of the machine, its folder, and the control groups that are its own.

    `divided`: it works in those groups; `lacking`: what this machine seems to lack: `tun`, `newuidmap` or `namespaces`.
    """

    name: str
    folder: Path
    room: Path
    groups: list[Path]
    divided: bool = True
    lacking: str = ""

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """This Python as that user."""
        user = pwd.getpwnam(self.name)
        paths = [Path(__file__), Path(sys.executable), Path(sys.base_prefix, "bin")]
        closed = {parent for path in paths for parent in path.parents if not parent.stat().st_mode & 1}
        environment = {
            "PATH": os.environ["PATH"],
            "ROOM": str(self.room),
            "CLOSED": " ".join(map(str, sorted(closed))),
            "GROUPS_OF_ITS_OWN": " ".join(map(str, self.groups if self.divided else [])),
            "USER_ID": str(user.pw_uid),
            "GROUP_ID": str(user.pw_gid),
            "LACKING": self.lacking,
            "WITHOUT_NAMESPACES": _WITHOUT_NAMESPACES,
        }
        return subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", _AS_USER, "sh", sys.executable, *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, text: str = "") -> tuple[int, str]:
        """Code and output."""
        with self.start(*arguments) as process:
            output, _ = process.communicate(text)
        return process.returncode, output

    def look(self, mode: str) -> str:
        """What `doctor` and the worker find out."""
        folder = self.folder / "work"
        code, output = self.run("-c", _LOOK, mode, str(folder))
        assert code == 0, output
        assert list(folder.iterdir()) == []
        return output


def emptied(group: Path) -> bool:
    """Whether an account's control group is gone, with the one that its builds had in it."""
    return removed(group / "image-registry") and removed(group)


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
            eventually(partial(emptied, group), 30)
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


@pytest.fixture(scope="module")
def hanging(apt: AptRepository) -> str:
    """A package whose installation writes files of several users, and doesn't end."""
    apt.add("plain-hanging", script=f"{_SPY}\nsetsid sleep 31415 & sleep 31415")
    return "plain-hanging"


def build(account: Account, builder: PackageBuilder, package: str, **confinement: Any) -> tuple[int, str]:
    return account.run("-c", _PARENT, text=f"{builder.plan(packages=[package], confinement=confinement).to_json()}\n")


async def fails(account: Account, builder: PackageBuilder, package: str, reason: str, **confinement: Any) -> None:
    """A build ends for that reason, and leaves nothing."""
    code, output = build(account, builder, package, **confinement)
    assert (code, reason in output) == (1, True), output
    await nothing_is_left(builder.folder)


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
    await nothing_is_left(builder.folder)


async def test_what_fails_and_what_is_out_of_reach(
    account: Account, builder: PackageBuilder, apt: AptRepository
) -> None:
    apt.add("plain-broken", script=f"{_SPY}\nexit 3")
    await fails(account, builder, "plain-broken", "A package's own script failed: installed plain-broken package")
    builder.reach = ()
    await fails(account, builder, "plain-broken", "The packages could not be fetched: ")


async def test_what_it_may_not_use_up(
    account: Account, builder: PackageBuilder, apt: AptRepository, hanging: str
) -> None:
    await fails(account, builder, hanging, "Installing the packages took longer than 15 s", seconds=15.0)

    apt.add("plain-hungry", script="all=$(head -c 900000000 /dev/zero | tr '\\0' x); echo ${#all}")
    reason = "Installing the packages needs more memory than its 335 MB"
    await fails(account, builder, "plain-hungry", reason, memory_bytes=320 << 20)

    hidden = "head -c 900000000 /dev/zero > /var/lib/hidden/large; sleep 31415"
    apt.add("plain-large", script=f"{_SPY}\n{hidden}")
    reason = "The packages, unpacked on their base, take more than 629 MB"
    await fails(account, builder, "plain-large", reason, disk_bytes=600 << 20)


async def test_without_control_groups_and_network_it_may_be_told_to_go_on(
    account: Account, builder: PackageBuilder, apt: AptRepository, tmp_path: Path
) -> None:
    apt.add("plain-unbounded", script=_SPY)
    account.divided, account.lacking = False, "tun"
    reason = "This builder can't install system packages: memory, processors and processes are not bounded"
    await fails(account, builder, "plain-unbounded", reason)
    code, output = build(account, builder, "plain-unbounded", required=False)
    assert code == 0, output
    assert "not confined: memory, processors and processes are not bounded" in output
    assert "not confined: the machine's own network is used: /dev/net/tun can't be opened by this user" in output
    rootfs = unpack_image(builder.root / "image", "latest", tmp_path / "rootfs")
    spied = (rootfs.path / "usr/share/spy/network").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in spied] == ["lo"], "scripts have no network all the same"
    await nothing_is_left(builder.folder)


@contextlib.contextmanager
def installing(account: Account, builder: PackageBuilder, package: str) -> Iterator["subprocess.Popen[str]"]:
    """A worker of that user, about to install a package."""
    with account.start("-c", _PARENT) as process:
        assert process.stdin is not None
        process.stdin.write(f"{builder.plan(packages=[package]).to_json()}\n")
        process.stdin.flush()
        yield process


async def test_a_killed_worker(account: Account, builder: PackageBuilder, hanging: str) -> None:
    with installing(account, builder, hanging) as process:
        await until(lambda: len(hangs()) == 2, 120)
        process.kill()
    await until(lambda: not list(builder.work.iterdir()))
    await nothing_is_left(builder.folder)


async def test_a_worker_and_its_build_killed_in_the_same_moment(
    account: Account, builder: PackageBuilder, hanging: str
) -> None:
    with installing(account, builder, hanging) as process:
        await until(lambda: len(hangs()) == 2, 120)
        children = children_of(process.pid)
        process.send_signal(signal.SIGSTOP)  # so that it can't tidy up after its child
        for child in children:
            os.kill(child, signal.SIGKILL)
        process.kill()
    await until(lambda: not hangs() and not sandbox_parts())
    owners = {path.lstat().st_uid for path in builder.work.rglob("*")}
    assert len(owners - {pwd.getpwnam(account.name).pw_uid}) > 1, "files of several of the sandbox's users are left"
    code, output = account.run("-c", _TIDY, str(builder.work))
    assert (code, output) == (0, "1\n")
    await nothing_is_left(builder.folder)


def test_it_says_what_is_lacking(account: Account) -> None:
    assert "obstacle=''" in account.look("confined")
    account.divided = False
    undivided = account.look("confined")
    assert "obstacle='memory, processors and processes are not bounded: no control group can be made" in undivided
    assert "let its user open /dev/net/tun and give it control groups" in undivided
    relaxed = account.look("relaxed")
    assert "obstacle=''" in relaxed
    assert "gaps=('memory, processors and processes are not bounded" in relaxed
    account.divided, account.lacking = True, "tun"
    assert "obstacle=\"the machine's own network is used: /dev/net/tun can't be opened" in account.look("confined")
    assert "gaps=(\"the machine's own network is used: /dev/net/tun can't be opened" in account.look("relaxed")


@pytest.mark.parametrize("mode", ["confined", "relaxed"])
@pytest.mark.parametrize(
    ("lacking", "why", "remedy"),
    [
        ("newuidmap", "newuidmap is not installed", "on Debian: apt-get install uidmap"),
        ("namespaces", "this user can make no user namespace: No space left on device", "user.max_user_namespaces"),
    ],
)
def test_without_what_namespaces_need_it_refuses(
    account: Account, lacking: str, why: str, remedy: str, mode: str
) -> None:
    account.lacking = lacking
    said = account.look(mode)
    assert f"obstacle='{why}'" in said
    assert remedy in said


def test_doctor_says_what_a_user_without_subordinate_ids_lacks() -> None:
    with an_account() as nobody:
        folder = str(nobody.folder / "data")
        _, said = nobody.run("-m", "image_registry", "doctor", "--server", "127.0.0.1:1", "--data-dir", folder)
    assert "no system packages can be installed here: /etc/subuid gives this user no 65536 ids" in said, said
    assert "→ as root: usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST NAME" in said
