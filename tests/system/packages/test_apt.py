"""apt packages in images: real apt, dpkg and buildah on a real Debian, from a repository of the test's own."""

import socket
import subprocess
from pathlib import Path

import pytest

from image_registry.builds.plan import FailureReason
from tests.fixtures.base_image import TestBase
from tests.fixtures.package_index import PackageIndex, make_wheel
from tests.fixtures.rootfs import unpack_image
from tests.integration.builds.test_processes import processes_of
from tests.system.packages.conftest import PackageBuilder, new_builder
from tests.system.packages.repositories import AptRepository

_SPY = """\
mkdir -p /usr/share/spy
cat /proc/net/dev > /usr/share/spy/network
grep -E '^Cap(Eff|Bnd)' /proc/self/status > /usr/share/spy/capabilities
env > /usr/share/spy/environment
ls /proc | grep -E '^[0-9]+$' | wc -l > /usr/share/spy/processes
cat /proc/self/uid_map > /usr/share/spy/users
(ls /build /root/* /home/* /dev/vda /dev/kmsg; cat /proc/1/environ) > /usr/share/spy/machine 2>/dev/null || true
(setsid sleep 1000 &) > /dev/null 2>&1
chown 33:33 /usr/share/spy/users
"""


def cgroups() -> list[Path]:
    """What is left of the builds' control groups; a worker that starts meanwhile has one for a moment, as a probe."""
    found = [path for path in Path("/sys/fs/cgroup").rglob("image-registry/*") if path.is_dir()]
    return [path for path in found if "-probe-" not in path.name]


async def test_packages_lie_below_the_libraries_and_are_made_once(
    builder: PackageBuilder,
    apt: AptRepository,
    package_index: PackageIndex,
    small_base: TestBase,
    known_bases: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-worker's-own")
    apt.add("helper")
    apt.add("spy", "1.0", _SPY, depends="helper")
    apt.add("spy", "2.0", "exit 1")
    package_index.add(make_wheel("lib"))

    result = await builder.build("lib", packages=["spy=1.0"])
    assert builder.stages == ["packages", "resolve", "fetch", "layer", "push"]
    assert dict(result.stages).keys() >= {"packages"}
    assert "Setting up spy (1.0)" in builder.log
    assert processes_of(builder) == []
    assert cgroups() == []

    rootfs = unpack_image(builder.root / "image", "latest", tmp_path / "rootfs")
    assert rootfs.run("spy") == "spy 1.0\n"
    assert rootfs.run("helper") == "helper 1.0\n"
    assert "ii  spy" in rootfs.run("dpkg", "--list", "spy")
    spied = rootfs.path / "usr/share/spy"
    assert (spied / "users").stat().st_uid == 33, "owners are those that the package chose"
    _saw_nothing(spied)
    _holds_no_traces(rootfs.path)

    await builder.build("lib", packages=["spy=1.0"], name="second")
    assert "reused layer" in builder.log
    assert "Setting up" not in builder.log

    elsewhere = new_builder(tmp_path / "elsewhere", known_bases, small_base, package_index.url, reach=(apt.location,))
    again = await elsewhere.build("lib", packages=["spy=1.0"])
    # All but what the spy has seen, of which the environment of processes differs from run to run.
    assert _layer_contents(builder, tmp_path / "first") == _layer_contents(elsewhere, tmp_path / "again")
    assert again.base_digest == result.base_digest


def _saw_nothing(spied: Path) -> None:
    """The script ran without network, machine, secrets, and capabilities that would matter."""
    interfaces = [line.split(":")[0].strip() for line in (spied / "network").read_text().splitlines()[2:]]
    assert interfaces == ["lo"]
    assert (spied / "machine").read_text() == ""
    assert "AWS_SECRET_ACCESS_KEY" not in (spied / "environment").read_text()
    assert int((spied / "processes").read_text()) < 30
    assert (spied / "users").read_text().split()[:2] != ["0", "0"], "root in there is root nowhere else"
    capabilities = {int(line.split()[1], 16) for line in (spied / "capabilities").read_text().splitlines()}
    for number in (18, 21, 12, 19, 27):  # chroot, sys_admin, net_admin, ptrace, mknod
        assert not any(value >> number & 1 for value in capabilities), number


def _holds_no_traces(rootfs: Path) -> None:
    for folder in ("var/lib/apt/lists", "var/log", "var/cache/apt", "run"):
        left = [path for path in (rootfs / folder).rglob("*") if path.is_file() and "spy" in path.read_text("latin-1")]
        assert not left, left
    assert not (rootfs / "usr/sbin/policy-rc.d").exists()
    assert not (rootfs / "etc/resolv.conf").exists()
    assert not list(rootfs.glob("build*"))


def _layer_contents(builder: PackageBuilder, folder: Path) -> str:
    """Names, modes, owners, times and sums of the files of the packages' layer."""
    rootfs = unpack_image(builder.root / "image", "latest", folder)
    find = "find . -path ./usr/share/spy -prune -o -type f -printf '%p %m %U %G %T@\\n' | sort; "
    sums = "find . -path ./usr/share/spy -prune -o -type f -print0 | sort -z | xargs -0 sha256sum"
    return subprocess.run(["sh", "-c", find + sums], cwd=rootfs.path, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("package", "told"),
    [("nonesuch", "Unable to locate package nonesuch"), ("pinned=3.0", "Version '3.0' for 'pinned' was not found")],
    ids=["unknown package", "impossible version"],
)
async def test_what_there_is_not_is_refused(
    builder: PackageBuilder, apt: AptRepository, package: str, told: str
) -> None:
    if not any("Package: pinned\n" in entry for entry in apt.entries):
        apt.add("pinned")
    failure = await builder.refused(packages=[package])
    assert failure.reason is FailureReason.USER_ERROR, builder.log
    assert failure.message == f"The packages can't be installed: {told}.", builder.log
    assert f"E: {told}" in builder.log
    assert failure.stage == "packages"


async def test_a_script_that_fails(builder: PackageBuilder, apt: AptRepository) -> None:
    apt.add("broken", script="echo 'it is Tuesday' >&2; exit 3")
    failure = await builder.refused(packages=["broken"])
    assert failure.reason is FailureReason.USER_ERROR
    assert "A package's own script failed: installed broken package post-installation script" in failure.message
    assert "\n" not in failure.message
    assert "it is Tuesday" in builder.log


async def test_a_script_that_never_ends(builder: PackageBuilder, apt: AptRepository) -> None:
    apt.add("endless", script="echo begun; setsid sleep 10000 & sleep 10000")
    failure = await builder.refused(packages=["endless"], confinement={"seconds": 15.0})
    assert failure.reason is FailureReason.USER_ERROR
    assert failure.message == "Installing the packages took longer than 15 s: a script may never end."
    assert processes_of(builder) == []
    assert cgroups() == []


async def test_a_script_that_takes_all_memory(builder: PackageBuilder, apt: AptRepository) -> None:
    apt.add("hungry", script="all=$(head -c 900000000 /dev/zero | tr '\\0' x); echo ${#all}")
    failure = await builder.refused(packages=["hungry"], confinement={"memory_bytes": 320 << 20})
    assert failure.reason is FailureReason.OUT_OF_MEMORY
    assert failure.message == "Installing the packages needs more memory than its 335 MB."


async def test_a_script_that_writes_too_much(builder: PackageBuilder, apt: AptRepository) -> None:
    apt.add("large", script="head -c 900000000 /dev/zero > /var/lib/large; sleep 60")
    failure = await builder.refused(packages=["large"], confinement={"disk_bytes": 600 << 20})
    assert failure.reason is FailureReason.USER_ERROR
    assert failure.message == "The packages, unpacked on their base, take more than 629 MB."


async def test_a_full_disk_passes(builder: PackageBuilder, apt: AptRepository, small_disk: Path) -> None:
    apt.add("filler", script="head -c 2000000000 /dev/zero > /var/lib/filler")
    builder.work.mkdir()
    failure = await builder.refused(packages=["filler"], work_dir=small_disk)
    assert failure.reason is FailureReason.RETRYABLE
    assert failure.message == "The builder's disk is full."


async def test_a_source_that_is_away_passes(builder: PackageBuilder) -> None:
    builder.reach = ()  # the repository is on this machine, which is out of reach by default
    failure = await builder.refused(packages=["helper"])
    assert failure.reason is FailureReason.RETRYABLE
    assert failure.message.startswith("The packages could not be fetched: ")


@pytest.fixture
def mirror() -> None:
    """Debian's own sources, which the unchanged base has."""
    try:
        socket.create_connection(("deb.debian.org", 80), 10).close()
    except OSError:
        pytest.skip("Debian's mirror can't be reached from this machine")


@pytest.mark.usefixtures("mirror")
async def test_a_package_of_debian_itself(
    tmp_path: Path, known_bases: Path, debian_base: TestBase, package_index: PackageIndex
) -> None:
    builder = new_builder(tmp_path / "debian", known_bases, debian_base, package_index.url)
    await builder.build(packages=["jq"])
    rootfs = unpack_image(builder.root / "image", "latest", tmp_path / "rootfs")
    assert rootfs.run("jq", "--null-input", "6*7") == "42\n"


async def test_another_distribution_is_refused_at_once(builder: PackageBuilder) -> None:
    builder.manager = type(builder.manager).YUM
    failure = await builder.refused(packages=["git"])
    assert failure.reason is FailureReason.USER_ERROR
    assert failure.message.startswith("The base image is Debian GNU/Linux 12")
    assert failure.message.endswith("which takes packages of type APT, not ROCKYLINUX.")
